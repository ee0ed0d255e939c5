"""Interprets the server's reasons for a batch that it refused, or that failed.

Pure functions: no clock, thread or I/O.
"""

import enum
import re
from collections.abc import Sequence
from dataclasses import dataclass

from langchain_batch_embed.pacing.diagnosis import Kind, diagnose

__all__ = ["Fault", "Reason", "passes", "reason_of", "refused", "told_limit"]

_PASSING = frozenset(
    {Kind.THROTTLED, Kind.TIMED_OUT, Kind.UNREACHABLE, Kind.OVERLOADED, Kind.FAILED}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One entry of a failed batch's errors.

    Attributes:
        code: the server's code.
        line: the number of the refused line, from 1.
        words: the server's message, which is never logged or put into an error.
        param: the refused parameter.
    """

    code: str | None
    line: int | None
    words: str
    param: str | None = None


class Reason(enum.Enum):
    """Why a batch has failed, or was not created."""

    QUEUE = "queue"
    """Too many tokens or requests are enqueued."""
    UNSEEN = "unseen"
    """The server cannot find the batch's file, or cannot find it yet."""
    LINES = "lines"
    """Some lines are refused."""
    TOO_MANY = "too many"
    """The batch has more inputs or bytes than it may have."""
    FATAL = "fatal"
    """No batch of this job can succeed."""
    ODD = "odd"
    """The server gives no known reason."""


def passes(error: BaseException) -> bool:
    """Return whether waiting may help, as when the network is down or the server is busy."""
    return diagnose(error).kind in _PASSING


def refused(faults: Sequence[Fault]) -> dict[int, str]:
    """Return the code of each line that a failed batch names, by line number, from 1."""
    return {fault.line: fault.code or "refused" for fault in faults if fault.line is not None}


_LIMIT = re.compile(r"Limit: ([0-9][0-9,]*) enqueued tokens|limit of ([0-9]+)K", re.IGNORECASE)
_QUEUE = re.compile(r"\benqueued (?:token|request)s?\b|token_limit_exceeded", re.IGNORECASE)
_FILE = re.compile(r"cannot find file|file[- _]?(?:id)?.{0,80}not found", re.IGNORECASE)
_TOO_MANY = re.compile(
    r"too_many_tasks|too many (?:tasks|requests|inputs)|file is too large", re.IGNORECASE
)
_FATAL = re.compile(
    r"model_not_found|mismatched_model|model_mismatch|url_mismatch|empty_file|billing|insufficient",
    re.IGNORECASE,
)


def reason_of(faults: Sequence[Fault]) -> Reason:
    """Return why a batch has failed, by the codes and messages of its faults."""
    told = "\n".join(f"{fault.code} {fault.words}" for fault in faults)
    if _QUEUE.search(told):
        return Reason.QUEUE
    if _FILE.search(told) or any(fault.param in ("file_id", "input_file_id") for fault in faults):
        return Reason.UNSEEN
    if _TOO_MANY.search(told):
        return Reason.TOO_MANY
    if _FATAL.search(told):
        return Reason.FATAL
    if refused(faults):
        return Reason.LINES
    return Reason.ODD


def told_limit(faults: Sequence[Fault]) -> int | None:
    """Return how many tokens may be enqueued, or `None` if no fault gives the limit."""
    for fault in faults:
        if match := _LIMIT.search(fault.words):
            exact, thousands = match.groups()
            return int(exact.replace(",", "")) if exact else int(thousands) * 1000
    return None
