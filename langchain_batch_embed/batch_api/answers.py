"""Interprets a line of a batch's output, and decides what to do with its texts.

Pure functions: no clock, thread or I/O.
"""

import enum
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from langchain_batch_embed.batch_api.packing import cut
from langchain_batch_embed.batch_api.records import Line
from langchain_batch_embed.errors import ResponseError
from langchain_batch_embed.pacing.diagnosis import Kind, diagnose
from langchain_batch_embed.providers import Answer
from langchain_batch_embed.providers.decoding import read_parsed, usage_of

__all__ = ["MOST_FAILURES", "Read", "Verdict", "again", "isolated", "read_line"]

MOST_FAILURES = 8
"""Give up on the texts of a line after this many failures."""

_HOPES = 2
"""After this many failures of a line, one of its texts may be the cause, so each gets its own line.

A line that is `BARRED` this many times is not sent again.
"""

_OK = 200
_FORBIDDEN = 403
_PASSING_CODES = frozenset({"batch_expired", "batch_cancelled"})


class Verdict(enum.Enum):
    """The outcome of a line."""

    ANSWERED = "answered"
    UNANSWERED = "unanswered"
    """The batch expired or was cancelled before the line was executed."""
    FAILED = "failed"
    """The error may be temporary, or the answer is not sound."""
    REFUSED = "refused"
    """The server refuses one of the line's texts."""
    BARRED = "barred"
    """The refusal concerns the key, the model or an option, and therefore every request."""
    TOO_LARGE = "too large"
    """The line has more texts or tokens than a request may have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """The content of one line of the output.

    Attributes:
        verdict: the outcome of the request.
        answer: the vectors, if the request was answered.
        at: the position of the refused text, if the server gives it.
        error: the status and the code, without the server's message.
        tokens: tokens billed.
    """

    verdict: Verdict
    answer: Answer | None = None
    at: int | None = None
    error: str = ""
    tokens: int = 0


class _LineError(Exception):
    """An answer whose status is not 200, in the form that SDKs raise."""

    def __init__(self, status: int, body: object) -> None:
        super().__init__(f"status {status}")
        self.status_code = status
        self.body = body


def read_line(
    parsed: Mapping[str, Any],
    line: Line,
    *,
    dimensions: int | None,
    agree: Callable[[int, str | None], None],
) -> Read:
    """Interpret a line of the output file or the error file.

    Args:
        parsed: the line's JSON.
        line: the request.
        dimensions: dimensions that the request asks for; `None` for the model's default.
        agree: raises if vectors of these dimensions and this model differ from earlier ones.

    Raises:
        DimensionsError: the vectors have other dimensions than requested or than earlier ones.
        ModelError: the vectors are from another model than earlier ones.
    """
    response = parsed.get("response")
    if not isinstance(response, Mapping):
        error = parsed.get("error")
        code = error.get("code") if isinstance(error, Mapping) else None
        if code in _PASSING_CODES:
            return Read(verdict=Verdict.UNANSWERED, error=str(code))
        return _failed(line, 0, {"error": error if isinstance(error, Mapping) else {}})
    status, body = response.get("status_code"), response.get("body")
    if status != _OK:
        return _failed(line, status if isinstance(status, int) else 0, body)
    most = 4 * line.weight + 100 * len(line.keys)
    try:
        vectors, usage, model = read_parsed(
            body, expected=len(line.keys), dimensions=dimensions, most_tokens=most
        )
        agree(vectors.shape[1], model)
    except ResponseError:
        tokens = _billed(line, usage_of(body))
        return Read(verdict=Verdict.FAILED, error="the answer is invalid", tokens=tokens)
    answer = Answer(vectors=vectors, tokens=usage, model=model)
    return Read(verdict=Verdict.ANSWERED, answer=answer, tokens=_billed(line, usage))


def again(line: Line, read: Read, *, name: Callable[[], str]) -> list[Line]:
    """Return the new lines for the texts of a line that was not answered.

    Texts that are not sent again are in new lines with the state `"failed"`.

    Args:
        line: the line.
        read: the line's result in the output.
        name: returns an id that no other line has.
    """
    count = len(line.keys)
    borders: list[int] = []
    sent = line.sent
    match read.verdict:
        case Verdict.UNANSWERED:
            pass
        case Verdict.TOO_LARGE if count > 1:
            borders = [count // 2]
        case Verdict.REFUSED if count > 1:
            borders = list(range(count)) if read.at is None else [read.at, read.at + 1]
        case Verdict.TOO_LARGE | Verdict.REFUSED:
            return [_lost(line, read.error, name)]
        case Verdict.BARRED:
            sent += 1
            if sent >= _HOPES:
                return [_lost(line, read.error, name)]
        case _:
            sent += 1
            if sent >= MOST_FAILURES:
                return [_lost(line, read.error, name)]
            borders = list(range(count)) if sent >= _HOPES else []
    return cut(line, borders, name=name, sent=sent)


def isolated(
    lines: Sequence[Line], named: Mapping[int, str], *, name: Callable[[], str]
) -> list[Line]:
    """Return the new lines for a batch that was refused because of some of its lines.

    Args:
        lines: all lines of the batch's file, in order.
        named: the numbers of the refused lines, from 1, and why each is refused.
        name: returns an id that no other line has.
    """
    pieces: list[Line] = []
    for number, line in enumerate(lines, 1):
        read = Read(verdict=Verdict.UNANSWERED)
        if number in named:
            read = Read(verdict=Verdict.REFUSED, error=named[number])
        pieces += again(line, read, name=name) if line.state == "open" else []
    return pieces


def _lost(line: Line, error: str, name: Callable[[], str]) -> Line:
    return replace(line, id=name(), state="failed", error=error)


def _failed(line: Line, status: int, body: object) -> Read:
    diagnosis = diagnose(_LineError(status, body))
    error = diagnosis.signature.removesuffix(" _LineError").replace(" -", "")
    at = diagnosis.at if diagnosis.at is not None and diagnosis.at < len(line.keys) else None
    match diagnosis.kind:
        case Kind.TOO_LARGE if not diagnosis.whole_quota:
            return Read(verdict=Verdict.TOO_LARGE, error=error)
        case Kind.REFUSED if status:
            return Read(verdict=Verdict.REFUSED, at=at, error=error)
        case Kind.ACCOUNT if status == _FORBIDDEN:
            # All lines use the same API key, so a filter must have refused one of the texts.
            return Read(verdict=Verdict.REFUSED, at=at, error=error)
        case Kind.ACCOUNT | Kind.OPTION | Kind.SPENT:
            return Read(verdict=Verdict.BARRED, error=error)
        case _:
            return Read(verdict=Verdict.FAILED, error=error)


def _billed(line: Line, usage: int | None) -> int:
    return line.weight if usage is None else usage
