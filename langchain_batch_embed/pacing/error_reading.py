"""Reads what an exception says about a request, wherever its SDK has put it.

No SDK is imported. Exceptions are read by attributes (`status_code`, `code`, `body`,
`response.headers`), which the SDKs of all providers have in one form or another.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from langchain_batch_embed.causes import causes
from langchain_batch_embed.pacing import error_wording as wording
from langchain_batch_embed.pacing.quotation import without_texts

__all__ = ["Evidence", "read_error"]


_BRANCHES = 50
"""Read this many entries of each list and object in an error's body."""

_DEPTH = 6
"""Read a body this deep: Google's violations are five levels down."""

_LEAF = 8_000
"""Read this many characters of each string, so that a long quotation does not hide what follows."""

_JSON = 200_000
"""Parse a body of text up to this many characters."""

_GRPC_STATUS = {
    "ABORTED": 409,
    "ALREADY_EXISTS": 409,
    "CANCELLED": 499,
    "DATA_LOSS": 500,
    "DEADLINE_EXCEEDED": 504,
    "FAILED_PRECONDITION": 400,
    "INTERNAL": 500,
    "INVALID_ARGUMENT": 400,
    "NOT_FOUND": 404,
    "OUT_OF_RANGE": 400,
    "PERMISSION_DENIED": 403,
    "RESOURCE_EXHAUSTED": 429,
    "UNAUTHENTICATED": 401,
    "UNAVAILABLE": 503,
    "UNIMPLEMENTED": 501,
    "UNKNOWN": 500,
}
"""HTTP statuses for gRPC's names, from google/rpc/code.proto."""

# Plain exceptions of some LangChain classes hold the status only in their text.
_TOLD_STATUS = re.compile(
    r"\bstatus(?:[ _]code)?[:= ]+(4[0-9]{2}|5[0-9]{2})\b"  # infinity, mistralai
    r"|^\[([45][0-9]{2})\] "  # NVIDIA
    r"|\b(?:error code|HTTP(?:/[0-9.]+)?(?: error)?):? ([45][0-9]{2})\b"
    r"|\berror '([45][0-9]{2}) "  # httpx
    r"|^([45][0-9]{2}) (?:(?:client|server) error|too many requests|bad (?:request|gateway)"
    r"|unauthorized|forbidden|not found|internal server|service unavailable|gateway time)",
    re.IGNORECASE | re.MULTILINE,
)
# The status that a code stands for in an answer without one: an error under status 200.
_CODE_STATUS = tuple(
    (re.compile(codes, re.IGNORECASE), status)
    for codes, status in (
        (r"invalid_?api_?key|(?:invalid_?)?auth(?:entication)?_?error|unauthori[sz]ed", 401),
        (r"permission_?(?:denied|error)|permission_?denied_?error|access_?denied|forbidden", 403),
        (r"(?:model_|deployment_)?_?not_?found(?:_?error)?|deploymentnotfound", 404),
        (r"rate_?limit(?:_?exceeded|_?error)?|too_?many_?requests", 429),
        (r"server_?is_?overloaded|overloaded(?:_?error)?|service_?unavailable(?:_?error)?", 503),
        (r"context_?length_?exceeded|(?:invalid|bad)_?request(?:_?error)?|invalid_?value", 400),
    )
)
_NO_MODEL = re.compile(
    r"\bmodel\b.{1,80}?(?:does not exist|not found)|no such model", re.IGNORECASE | re.DOTALL
)
_HTML = re.compile(r"<!doctype|<html|<head|<body", re.IGNORECASE)
_CODE_KEYS = ("code", "type", "status", "error_type", "reason", "Code", "__type")
_STATUS_KEYS = ("code", "status", "status_code", "statusCode", "error_code")
_ERROR_KEYS = ("error", "Error", "errors", "detail")


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What an exception and its causes say about a request.

    Attributes:
        status: the HTTP status, 400 to 599.
        codes: the error's codes and types, the most exact ones first.
        params: the parameters that the error names, such as `dimensions` or `input[3]`.
        text: the server's words, without quotations of the texts and without HTML.
        headers: the answer's headers, with lower-case names.
        names: the class names of all exceptions of the chain and of their bases.
        name: the class name of the most informative exception.
    """

    status: int | None
    codes: tuple[str, ...]
    params: tuple[str, ...]
    text: str
    headers: Mapping[str, str]
    names: str
    name: str


_GRPC_NAME = re.compile(r"[A-Z]+(?:_[A-Z]+)+")  # RESOURCE_EXHAUSTED


def read_error(error: BaseException, sent: Sequence[str]) -> Evidence:
    """Return what an exception and the exceptions that caused it say.

    Args:
        error: the exception that the request raised.
        sent: the texts of the request.
    """
    chain = list(causes(error))
    names = " ".join(base.__name__ for link in chain for base in type(link).__mro__[:-2])
    telling = next((link for link in chain if _status(link) is not None), None)
    links = [telling] if telling is not None else chain
    bodies = [body for link in links for body in _bodies(link)]
    objects = [inner for body in bodies for inner in _error_objects(body)]
    text = without_texts("\n".join(filter(None, map(_message, links))), sent)
    status = _status(telling) if telling is not None else _told_status(objects, text)
    if (page := _HTML.search(text)) is not None:
        text = text[: page.start()]  # a firewall's or proxy's page says nothing about us
    first = links[0]
    codes = [inner.get(key) for inner in objects for key in _CODE_KEYS]
    codes += [_get(first, name) for name in ("code", "type")]
    state = _get(first, "status")
    if isinstance(state, str) and _GRPC_NAME.fullmatch(state):
        codes.append(state)
    codes.append(_get(_get(first, "error"), "code"))  # Azure
    return Evidence(
        status=status,
        codes=tuple(dict.fromkeys(filter(None, map(_word, codes)))),
        params=tuple(_params([_get(first, "param"), *objects])),
        text=text,
        headers=_headers(links),
        names=names,
        name=type(first).__name__[:60],
    )


def _get(owner: object, name: str) -> Any:
    try:
        return getattr(owner, name, None)
    except Exception:  # noqa: BLE001  # a property can raise anything: httpx's do
        return None


def _string(value: object) -> str:
    try:
        return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    except Exception:  # noqa: BLE001  # so can `__str__`
        return ""


def _word(value: object) -> str:
    """Return a code or a number as a string, and an empty string for anything else."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        return ""
    text = _string(value)
    return text.strip() if len(text) <= 100 else ""  # noqa: PLR2004  # no code is that long


def _number(value: object) -> int | None:
    """Return a status of 400 to 599 that was given as a number, a string or gRPC's name."""
    text = _word(value if not callable(value) or isinstance(value, str) else None)
    if text in _GRPC_STATUS:
        return _GRPC_STATUS[text]
    if isinstance(value, int):
        text = _string(int(value)) if not isinstance(value, bool) else ""
    plain = len(text) == 3 and text.isascii() and text.isdecimal()  # noqa: PLR2004
    return int(text) if plain and text[0] in "45" else None


def _status(error: BaseException) -> int | None:
    response = _get(error, "response")
    candidates = [
        _get(error, "status_code"),
        _get(response, "status_code"),
        _get(error, "http_status"),  # Voyage
        _get(error, "code"),
        _get(error, "status"),  # aiohttp
        _get(response, "status"),
        _get(_get(error, "resp"), "status"),  # googleapiclient
    ]
    if isinstance(response, Mapping):  # botocore
        metadata = response.get("ResponseMetadata")
        if isinstance(metadata, Mapping):
            candidates.append(metadata.get("HTTPStatusCode"))
    if callable(code := _get(error, "code")):  # gRPC
        try:
            candidates.append(_get(code(), "name"))
        except Exception:  # noqa: BLE001  # may be any method
            return None
    return next((n for n in map(_number, candidates) if n is not None), None)


def _told_status(objects: Sequence[Mapping[Any, Any]], text: str) -> int | None:
    """Return a status that only the body or the text holds."""
    values = (inner.get(key) for inner in objects for key in _STATUS_KEYS)
    named = next((n for n in map(_number, values) if n is not None), None)
    if named is not None:
        return named
    told = _TOLD_STATUS.search(text)
    if told is not None:
        return int(next(filter(None, told.groups())))
    return _meant_status(objects, text) if objects else None


def _meant_status(objects: Sequence[Mapping[Any, Any]], text: str) -> int | None:
    """Return the status that the codes or words of a body without a status stand for."""
    codes = (_word(inner.get(key)) for inner in objects for key in _CODE_KEYS)
    for code in filter(None, codes):
        status = next((n for pattern, n in _CODE_STATUS if pattern.fullmatch(code)), None)
        # A type as general as "invalid_request_error" goes with any message.
        if status is not None and (status != 400 or not wording.THROTTLE_TEXT.search(text)):  # noqa: PLR2004
            return status
    if wording.ACCOUNT_TEXT.search(text):
        return 401
    if wording.item_limit(text) or wording.token_limit(text) or wording.ONE_TEXT.search(text):
        return 400
    return 404 if _NO_MODEL.search(text) else None


def _bodies(error: BaseException) -> Iterator[Any]:
    """Yield the server's answer in every form in which the exception holds it."""
    response = _get(error, "response")
    if isinstance(response, Mapping):
        yield response.get("Error")
    for name in ("body", "json_body", "http_body", "details"):
        value = _get(error, name)
        if isinstance(value, Mapping | str | bytes | list | tuple) and value:
            yield _parsed(value)
            return
    text = _get(response, "text")  # httpx and requests leave it to the caller to read it
    if callable(text):  # Azure
        try:
            text = text()
        except Exception:  # noqa: BLE001  # of a stream it cannot be read
            return
    if isinstance(text, str) and text:
        yield _parsed(text)


def _parsed(body: object) -> object:
    text = _string(body) if isinstance(body, str | bytes) else ""
    if not text or text.lstrip()[:1] not in tuple("{[") or len(text) > _JSON:
        return text or body
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _error_objects(body: object, depth: int = 0) -> Iterator[Mapping[Any, Any]]:
    """Yield the objects of a body that describe the error, the inner ones first."""
    if isinstance(body, Mapping):
        if depth < _DEPTH:
            for key in _ERROR_KEYS:
                yield from _error_objects(body.get(key), depth + 1)
        yield body
    elif isinstance(body, list) and depth < _DEPTH:
        for inner in body[:_BRANCHES]:
            yield from _error_objects(inner, depth + 1)


def _message(error: BaseException) -> str:
    """Return everything written about an error, one entry a line."""
    body = "\n".join(line for body in _bodies(error) for line in _lines(body))
    if body.strip() and isinstance(_get(error, "body"), Mapping):
        return body  # everything else only repeats it
    return "\n".join((_string(error)[:_LEAF], _string(_get(error, "message") or "")[:_LEAF], body))


def _lines(body: object, key: object = "", depth: int = 0) -> Iterator[str]:
    if isinstance(body, Mapping | list | tuple):
        if depth >= _DEPTH:
            return
        items = body.items() if isinstance(body, Mapping) else ((key, value) for value in body)
        for name, value in islice(items, _BRANCHES):
            if name != "input":  # pydantic repeats there what was sent
                yield from _lines(value, name, depth + 1)
    elif body is not None:
        text = _string(body)[:_LEAF]
        yield f"{_string(key)[:_LEAF]}: {text}" if key else text


def _params(sources: Sequence[object]) -> Iterator[str]:
    for source in sources:
        if isinstance(source, str):
            yield source
        elif isinstance(source, Mapping):
            if param := _word(source.get("param")):
                yield param
            place = source.get("loc")  # FastAPI: ["body", "input", 3]
            if isinstance(place, list | tuple):
                names = [step for step in place[:4] if step != "body"]
                index = next((n for n in names if isinstance(n, int)), None)
                name = _word(names[0]) if names else ""
                yield name if index is None else f"{name}[{index}]"


def _headers(links: Sequence[BaseException]) -> dict[str, str]:
    found: dict[str, str] = {}
    for link in links:
        response = _get(link, "response")
        sources = [
            _get(response, "headers"),
            _get(link, "headers"),
            _get(_get(link, "raw_response"), "headers"),  # mistralai
            _get(link, "litellm_response_headers"),
        ]
        if isinstance(response, Mapping):  # botocore
            metadata = response.get("ResponseMetadata")
            sources.append(metadata.get("HTTPHeaders") if isinstance(metadata, Mapping) else None)
        for source in sources:
            try:
                items = list(source.items()) if source is not None else []
                pairs = [(_string(name).lower(), _string(value)) for name, value in items]
            except Exception:  # noqa: BLE001, S112  # anything can be called headers
                continue
            for name, value in pairs:
                found.setdefault(name, value)
    return found
