"""Explains in one line why a call failed: status, code, address, and what to do about it."""

import re
from collections.abc import Sequence

from langchain_batch_embed.causes import causes
from langchain_batch_embed.errors import (
    BatchEmbeddingsError,
    DeadlineError,
    NotSentError,
    ResponseError,
)
from langchain_batch_embed.limits import attribute
from langchain_batch_embed.pacing.diagnosis import Diagnosis, Kind, diagnose, unsendable
from langchain_batch_embed.pacing.error_reading import read_error
from langchain_batch_embed.providers.urls import shown

__all__ = ["explain", "what_ended"]


_OF_ALL = frozenset({Kind.SPENT, Kind.ACCOUNT, Kind.OPTION, Kind.MODEL})
"""Kinds of error that affect every request, whatever texts it holds."""

_MODEL = re.compile(r"\b(?:model|deployment)", re.IGNORECASE)

_BY_STATUS = {
    401: "the key is wrong or missing",
    402: "the account has no credit",
    403: "access is denied to this key, or to this model with it",
    405: "this address does not serve embeddings; check base_url",
}

_BY_CODE = {
    "unsupported_country_region_territory": "the provider does not serve this country or region",
}

_OTHERS_ANSWERED = (
    "other texts were answered with the same key and address, so the server, or a firewall before "
    "it, refuses these texts, unless the key was revoked meanwhile"
)

_UNSENDABLE = {
    "address": "the address is not valid; base_url must begin with http:// or https://",
    "header": "a header is not valid; look for spaces, line feeds and quotes in the key",
}

_BY_KIND = {
    Kind.THROTTLED: "the rate limit is exceeded; call again later",
    Kind.SPENT: "the credit or the quota of the account is used up; waiting does not help",
    Kind.ACCOUNT: "the key is wrong or missing",
    Kind.OPTION: "the server refuses an option of the request; check the wrapped object's options",
    Kind.TOO_LARGE: "a text is larger than the server accepts",
    Kind.REFUSED: "the server refuses the text",
    Kind.TIMED_OUT: "the answer was not complete in time; timeout= allows more time",
    Kind.UNREACHABLE: "no connection; is the server running, and is the address right?",
    Kind.OVERLOADED: "the server is overloaded; call again later",
    Kind.FAILED: "the server failed; call again later",
    Kind.MODEL: "the vectors cannot be used",
}


def what_ended(
    errors: Sequence[BaseException], *, all_failed: bool, texts: Sequence[str]
) -> BaseException | None:
    """Return the one error that ended a whole call, or `None` if some texts failed individually.

    Args:
        errors: the errors of the texts that failed.
        all_failed: no text of the call has a vector.
        texts: the texts of the call.
    """
    for error in errors:
        if isinstance(error, DeadlineError):
            return error
        if isinstance(error, NotSentError) and error.__cause__ is not None:
            return error.__cause__
    if len({type(error) for error in errors}) > 1:
        return None
    return errors[0] if all_failed or diagnose(errors[0], sent=texts).kind in _OF_ALL else None


def explain(
    error: BaseException,
    *,
    address: str,
    model: str | None = None,
    texts: Sequence[str] = (),
    method: str = "the wrapped class",
    has_answered: bool = False,
) -> str:
    """Return what went wrong, where, and what to do, without any text or key.

    Args:
        error: the error that a request raised.
        address: the server's address, used if the error does not hold one.
        model: the model that was requested.
        texts: the texts of the call; the server's message may quote a piece of one.
        method: the name of the wrapped object's method that embeds the texts.
        has_answered: whether requests of the same call were answered.
    """
    if isinstance(error, DeadlineError):
        last = error.__cause__
        if last is None:
            return str(error)
        said = explain(last, address=address, model=model, texts=texts, method=method)
        return f"{error}. The last error: {said}"
    if isinstance(error, BatchEmbeddingsError) and not isinstance(error, ResponseError):
        return str(error)
    diagnosis = diagnose(error, sent=texts)
    status, code, name = diagnosis.signature.split(" ", 2)
    what = " ".join(part for part in (status, code) if part != "-") or name
    url = _url_of(error) or address
    if isinstance(error, ResponseError):
        advice = "; is this the address of an API? Check base_url" if error.is_page else ""
        return f"{error}{'' if what == name else f' ({what})'}, at {url}{advice}"
    if diagnosis.kind is Kind.REFUSED and what == name and _url_of(error) is None:
        # No answer of a server, but a bug in the wrapped class, or a lack of memory.
        at = f" for {address}" if address.startswith(("http://", "https://")) else ""
        return f"{method} raised {name}{at}; the traceback of the cause (__cause__) shows why"
    if diagnosis.kind is Kind.ACCOUNT and has_answered:
        return f"{what} at {url}: {_OTHERS_ANSWERED}"
    return f"{what} at {url}: {_advice(diagnosis, error, url, model, texts)}"


def _advice(
    diagnosis: Diagnosis,
    error: BaseException,
    url: str,
    model: str | None,
    texts: Sequence[str],
) -> str:
    if diagnosis.kind is not Kind.ACCOUNT:
        return _BY_KIND[diagnosis.kind]
    if diagnosis.status == 404:  # noqa: PLR2004
        evidence = read_error(error, texts)
        if _MODEL.search("\n".join([*evidence.codes, evidence.text])):
            which = "the model" if model is None else f"the model {model!r}"
            return f"{which} does not exist there, or this key may not use it"
        if "/v1" not in url and url.startswith("http"):
            return "is /v1 missing?"
        return "there is nothing at this address; check base_url"
    if diagnosis.status is None and (wrong := unsendable(error)) is not None:
        return _UNSENDABLE[wrong]
    for word in diagnosis.signature.split(" "):
        if word in _BY_CODE:
            return _BY_CODE[word]
    return _BY_STATUS.get(diagnosis.status or 0, _BY_KIND[Kind.ACCOUNT])


def _url_of(error: BaseException) -> str | None:
    """Return the address that a request was sent to, or `None` if its error does not hold it."""
    for link in causes(error):
        response = attribute(link, "response")
        for holder in (
            attribute(link, "request"),
            attribute(response, "request"),
            response,
        ):
            url = str(attribute(holder, "url") or "")
            if url.startswith(("http://", "https://")):
                return shown(url)
    return None
