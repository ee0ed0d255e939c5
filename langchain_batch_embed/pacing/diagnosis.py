"""Diagnoses why a request failed. What to do about it is decided elsewhere.

Pure: an exception goes in, a `Diagnosis` comes out. `error_reading` finds the status, the codes and
the server's words, and `error_wording` knows how providers phrase them.
"""

import enum
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

from langchain_batch_embed.causes import causes
from langchain_batch_embed.errors import (
    BatchEmbeddingsError,
    DimensionsError,
    ResponseError,
)
from langchain_batch_embed.pacing import error_wording as wording
from langchain_batch_embed.pacing.error_reading import Evidence, read_error

__all__ = ["Diagnosis", "Kind", "Quota", "diagnose", "unsendable"]


class Kind(enum.Enum):
    """The kind of failure, by what can help."""

    THROTTLED = "throttled"
    """A rate limit, or too many requests at once (429 and the like): waiting helps."""
    SPENT = "spent"
    """No money, or a budget or quota of a day or longer is used up: waiting does not help."""
    ACCOUNT = "account"
    """Key, account, address or model (401 to 405), or a firewall, or one bad replica."""
    OPTION = "option"
    """The refusal names an option, so it concerns every request."""
    TOO_LARGE = "too large"
    """More texts, tokens or bytes than one request may hold."""
    REFUSED = "refused"
    """Other refusals, and exceptions without a cause: one of the texts may be to blame."""
    TIMED_OUT = "timed out"
    """No complete answer in time."""
    UNREACHABLE = "unreachable"
    """No HTTP answer: connection refused or reset, DNS, TLS."""
    OVERLOADED = "overloaded"
    """The server is overloaded (503, 504, 529)."""
    FAILED = "failed"
    """An error of the server, or an unsound answer: the request may succeed later."""
    MODEL = "model"
    """The vectors do not fit earlier ones, so no more of them can be used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """A quota that a refusal names.

    Attributes:
        kind: `"tokens"` or `"requests"`, both a minute.
        limit: how many a minute.
        used: how many of them are in use; `None` if the refusal does not say.
    """

    kind: str
    limit: float
    used: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """Why a request failed. It holds no text that was sent, and no key.

    Attributes:
        kind: the kind of failure.
        status: the HTTP status, 400 to 599.
        after: seconds that the server asked to wait, above 0 and up to a day.
        quota: the quota a minute that the refusal names.
        max_items: the limit of texts a request that the refusal names.
        share: the share of the request's tokens that would have been accepted, 0 to 1.
        measure: what is too large, with `TOO_LARGE`; `None` if the refusal does not say.
        at: the position of the one input that was refused.
        whole_quota: whether the request asks for more than the whole quota allows at once.
        by_words: whether only the words of the refusal say that it concerns every request. The
            words may be those of a text, so another request has to confirm it.
        reached: whether there was a connection to a server of embeddings, so that the address is
            right.
        is_page: whether the answer is a web page, or no JSON for another reason.
        signature: status, code and class name; equal for equal errors.
    """

    kind: Kind
    status: int | None = None
    after: float | None = None
    quota: Quota | None = None
    max_items: int | None = None
    share: float | None = None
    measure: Literal["items", "tokens", "bytes"] | None = None
    at: int | None = None
    whole_quota: bool = False
    by_words: bool = False
    reached: bool = False
    is_page: bool = False
    signature: str


_THROTTLES = frozenset({420, 429})
"""420 is an older form of 429, which some gateways still send."""

_FORBIDDEN = 403
_LARGE = 413
_SERVER = 500  # and above
_BY_STATUS = {
    **dict.fromkeys((401, 402, 403, 404, 405), Kind.ACCOUNT),
    **dict.fromkeys((408, 409, 421, 423, 424, 425, 499), Kind.FAILED),
    **dict.fromkeys((503, 504, 529), Kind.OVERLOADED),
}
_REFUSALS = frozenset({400, 413, 422})
"""Statuses whose message says which part of the request is wrong."""

_MONEY = frozenset({None, 400, 401, 402, 403, 412, 422, 429})
"""Statuses with which gateways say that the money is spent."""

# What class names say if there is no status. The first match counts.
_BY_NAME = (
    (
        # Nothing was sent, so the request's size is not the cause: not a time-out.
        r"connect(?:ion)?_?timeout|\bConnectError\b|newconnection|clientconnector|nameresolution"
        r"|gaierror|connectionrefused|ssl",
        Kind.UNREACHABLE,
    ),
    (r"time(?:d)?.?out", Kind.TIMED_OUT),
    (r"authenticationerror|unauthori[sz]ed|permissiondenied|accessdenied|credential", Kind.ACCOUNT),
    (r"unavailable|overloaded", Kind.OVERLOADED),
    (r"internalserver|decodingerror|jsondecode|responsevalidation", Kind.FAILED),
    (r"oserror|connect|network|protocol|transport", Kind.UNREACHABLE),
)
_BROKEN = re.compile(
    r"connection_?reset|broken_?pipe|connection_?aborted|\b(?:Read|Write)Error\b"
    r"|remote_?protocol|server_?disconnected|incomplete_?read|remote_?disconnected",
    re.IGNORECASE,
)
"""Errors of established connections, so that the address is right."""

_NO_ADDRESS = re.compile(r"\b(?:UnsupportedProtocol|MissingSchema|InvalidSchema|InvalidURL)\b")
"""Exceptions of httpx and requests for a malformed address, such as one without `http://`."""

_NO_HEADER = re.compile(r"Illegal header|Invalid header|Invalid leading whitespace")
"""Messages of h11, http.client and requests for a key that ends with a line feed or a space."""

_KEY = re.compile(r"(?:Bearer|Basic|Token) \S+\s*$")
"""A header with a key; httpx and http.client accept only ASCII or Latin-1 in it."""

_NAMED_KINDS = tuple((re.compile(names, re.IGNORECASE), kind) for names, kind in _BY_NAME)

# No key and no sentence looks like this: letters joined by underscores, or a short number.
_NAMEABLE = re.compile(r"(?=.{1,48}$)(?:[A-Za-z]+(?:_[A-Za-z]+)*|[0-9]{1,5})")


def diagnose(
    error: BaseException, *, sent: Sequence[str] = (), now: float | None = None
) -> Diagnosis:
    """Diagnose why a request failed.

    Args:
        error: the exception that the request raised.
        sent: the texts of the request; whatever the server quotes of them is ignored.
        now: seconds since 1970, to compare dates in headers with; `None` for the current time.
    """
    evidence = read_error(error, sent)
    after = wording.delay(evidence.headers, evidence.text, time.time() if now is None else now)
    words = wording.quota_words(evidence.text)
    quota = None
    if words is not None and words.minute:
        quota = Quota(kind=words.kind, limit=words.limit, used=words.used)
    chain = list(causes(error))
    answer = next((link for link in chain if isinstance(link, ResponseError)), None)
    is_page = answer is not None and answer.is_page
    is_answered = evidence.status is not None or (answer is not None and not is_page)
    make = partial(
        Diagnosis,
        status=evidence.status,
        after=after,
        quota=quota,
        reached=is_answered or _BROKEN.search(evidence.names) is not None,
        is_page=is_page,
        signature=_signature(evidence, sent),
    )
    if any(_is_of_model(link) for link in chain):
        return make(kind=Kind.MODEL)
    if wording.spent(evidence.codes):
        return make(kind=Kind.SPENT)
    throttled = _throttled(evidence)
    if throttled or evidence.status == _LARGE:
        large = _over_the_quota(make, words, evidence.text, throttled=throttled)
        if large is not None:
            return large
    if _out_of_quota(evidence, throttled=throttled, told=after is not None):
        return make(kind=Kind.SPENT, by_words=evidence.status in _REFUSALS)
    if throttled:
        return make(kind=Kind.THROTTLED)
    kind = _by_status(evidence) if evidence.status is not None else _by_name(evidence, chain)
    return _refused(make, evidence, sent) if kind is Kind.REFUSED else make(kind=kind)


def _is_of_model(error: BaseException) -> bool:
    # SageMaker has a `ModelError` of its own, which passes.
    named = isinstance(error, BatchEmbeddingsError) and type(error).__name__ == "ModelError"
    final = isinstance(error, ResponseError) and error.is_final
    return named or final or isinstance(error, DimensionsError)


def _throttled(evidence: Evidence) -> bool:
    if evidence.status is None:
        told = wording.THROTTLE_TEXT.search(evidence.text)
        return bool(told or wording.THROTTLE_NAME.search(evidence.names))
    if evidence.status == _FORBIDDEN and wording.THROTTLE_TEXT.search(evidence.text):
        return True  # GitHub sends 403 with nothing but a message
    # AWS sends `ThrottlingException` with 400, Google `rateLimitExceeded` with 403.
    named = any(wording.THROTTLE_NAME.search(code) for code in evidence.codes)
    named |= wording.THROTTLE_START.search(evidence.text) is not None
    may_be = evidence.status in {400, 403, 422} or evidence.status >= _SERVER
    return evidence.status in _THROTTLES or (may_be and named)


def _over_the_quota(
    make: "partial[Diagnosis]", words: wording.QuotaWords | None, text: str, *, throttled: bool
) -> Diagnosis | None:
    """Return the diagnosis of a request above the whole quota, which only smaller ones cure."""
    if words is not None and words.requested is not None and words.requested > words.limit > 0:
        return make(
            kind=Kind.TOO_LARGE,
            share=words.limit / words.requested,
            measure="tokens" if words.kind == "tokens" else "items",
            whole_quota=True,
        )
    if throttled and wording.BODY_TOO_LARGE.search(text):
        return make(kind=Kind.TOO_LARGE, whole_quota=True)
    return None


def _out_of_quota(evidence: Evidence, *, throttled: bool, told: bool) -> bool:
    if evidence.status not in _MONEY:
        return False
    return wording.out_of_quota(
        evidence.text,
        f"{evidence.names} {' '.join(evidence.codes)}",
        throttled=throttled or evidence.status in {402, 403},
        told=told,
    )


def _by_status(evidence: Evidence) -> Kind:
    status = evidence.status or 0
    if status >= _SERVER and wording.ONE_TEXT.search(evidence.text):
        return Kind.REFUSED  # llama.cpp sends 500 for a text that is too long
    if status == 400 and _names_the_account(evidence):  # noqa: PLR2004
        return Kind.ACCOUNT
    other = Kind.FAILED if status >= _SERVER else Kind.REFUSED
    return _BY_STATUS.get(status, other)


def _names_the_account(evidence: Evidence) -> bool:
    named = any(wording.ACCOUNT_CODE.fullmatch(code) for code in evidence.codes)
    return named or wording.ACCOUNT_TEXT.search(evidence.text) is not None


def unsendable(error: BaseException) -> Literal["address", "header"] | None:
    """Return why no request at all can be sent, or `None` if that is not the cause.

    No server is involved, so the words of the error are a library's.
    """
    for link in causes(error):
        names = " ".join(base.__name__ for base in type(link).__mro__)
        if _NO_ADDRESS.search(names):
            return "address"
        # Any other string may come from a text.
        if isinstance(link, UnicodeEncodeError) and _KEY.match(link.object):
            return "header"
        is_local = re.search(r"\b(?:LocalProtocolError|InvalidHeader)\b", names)
        if (is_local or type(link) is ValueError) and _NO_HEADER.match(f"{link}"):
            return "header"
    return None


def _by_name(evidence: Evidence, chain: Sequence[BaseException]) -> Kind:
    if any(isinstance(link, ResponseError) for link in chain):
        return Kind.FAILED
    if chain and unsendable(chain[0]):
        return Kind.ACCOUNT
    named = (kind for pattern, kind in _NAMED_KINDS if pattern.search(evidence.names))
    return next(named, Kind.REFUSED)


def _refused(make: "partial[Diagnosis]", evidence: Evidence, sent: Sequence[str]) -> Diagnosis:
    """Return which part of a refused request is wrong, as far as the refusal says."""
    text = "\n".join([evidence.text, *evidence.params, *evidence.codes])
    if evidence.status in _REFUSALS or evidence.status is None:
        if (tokens := wording.token_limit(text)) is not None:
            return make(kind=Kind.TOO_LARGE, measure="tokens", share=tokens[0])
        if (items := wording.item_limit(evidence.text)) is not None:
            return make(kind=Kind.TOO_LARGE, measure="items", max_items=items[0])
        one = wording.ONE_TEXT.search(evidence.text) is not None
        if (evidence.status == _LARGE and not one) or wording.BODY_TOO_LARGE.search(evidence.text):
            return make(kind=Kind.TOO_LARGE, measure="bytes")
        if evidence.status is not None and _names_an_option(evidence):
            named = any(wording.OPTION_NAME.fullmatch(name) for name in evidence.params)
            return make(kind=Kind.OPTION, by_words=not named)
    places = (wording.index_of(place) for place in (*evidence.params, evidence.text))
    at = next((place for place in places if place is not None), None)
    return make(kind=Kind.REFUSED, at=at if at is None or not sent or at < len(sent) else None)


def _names_an_option(evidence: Evidence) -> bool:
    if any(wording.OPTION_NAME.fullmatch(name) for name in evidence.params):
        return True
    if any(wording.INPUT_NAME.match(name) for name in evidence.params):
        return False
    return wording.OPTION_TEXT.search(evidence.text) is not None


def _signature(evidence: Evidence, sent: Sequence[str]) -> str:
    status = "-" if evidence.status is None else str(evidence.status)
    codes = (code for code in evidence.codes if code != status and _NAMEABLE.fullmatch(code))
    code = next((code for code in codes if not any(code in text for text in sent)), "-")
    return f"{status} {code} {evidence.name}"
