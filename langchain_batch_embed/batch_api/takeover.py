"""Decides when ordinary requests take over late texts, how many, and what remains afterwards.

Pure arithmetic: no clock, thread or I/O.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from langchain_batch_embed.batch_api.faults import passes
from langchain_batch_embed.batch_api.packing import cut
from langchain_batch_embed.batch_api.records import JobRecord, Line, Part
from langchain_batch_embed.errors import BudgetError, NotSentError
from langchain_batch_embed.pacing.diagnosis import diagnose
from langchain_batch_embed.report import BATCH_API_SHARE

__all__ = ["Takeover", "may_take_over", "portion", "sorted_out", "take_over"]

_SAFETY = 1.5
"""Plan as if ordinary requests take this many times the expected seconds."""

_MARGIN, _MARGIN_SHARE = 30.0, 0.1
"""Seconds kept in reserve before the deadline, and their largest share of the time allowed."""

_CANCELLING, _CANCELLING_SHARE = 600.0, 0.2
"""Seconds that a cancelled batch may take to end, and their largest share of the time allowed.

The seconds are from the Batch API's guide.
"""

_PORTION_SECONDS = 20.0
"""Seconds of ordinary requests to send before the batches are polled again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Takeover:
    """The parts that ordinary requests take over, because little time is left.

    Attributes:
        cancel: parts whose batches are to be cancelled, so that nothing is paid for twice.
        take: parts whose texts are to be sent now.
        until: when to decide again; infinite if there is nothing to take over.
    """

    cancel: tuple[str, ...] = ()
    take: tuple[str, ...] = ()
    until: float = float("inf")


def take_over(job: JobRecord, parts: Sequence[Part], *, now: float) -> Takeover:
    """Decide which parts of a job ordinary requests have to take over, so that it ends in time.

    The Batch API keeps the work until the last moment at which ordinary requests can still finish
    it before the deadline. Ordinary requests take the parts without a batch first. The batches of
    the other parts are cancelled early enough to end, and ordinary requests take the texts that
    these batches have not answered. If a batch has not ended at the last moment, its texts are sent
    anyway, and may be paid for twice.

    Args:
        job: the job.
        parts: the job's parts that are not closed.
        now: the time.
    """
    if job.finish_by is None or not parts:
        return Takeover()
    allowed = max(0.0, job.finish_by - job.created)
    margin = min(_MARGIN, _MARGIN_SHARE * allowed)
    ending = min(_CANCELLING, _CANCELLING_SHARE * allowed)
    rate = _SAFETY * job.seconds / max(1, job.tokens)
    left = job.finish_by - margin - now
    free = [part for part in parts if part.state in ("packed", "uploading", "ready")]
    bound = [part for part in parts if part.state in ("asked", "running")]
    need = rate * sum(part.tokens for part in parts)
    need_bound = rate * sum(part.tokens for part in bound)
    take: list[str] = []
    cancel: list[str] = []
    moments = []
    if free:
        moments.append(left - need - ending)
        if moments[-1] <= 0:
            # Start with the last part, because the first ones get a batch sooner.
            take += [part.id for part in reversed(free)]
    if bound:
        moments += [left - need_bound - ending, left - need_bound]
        if moments[-2] <= 0:
            cancel += [p.id for p in bound if p.state == "running" and not p.is_cancelling]
        if moments[-1] <= 0:
            take += [part.id for part in bound]
    ahead = [moment for moment in moments if moment > 0]
    until = now + min(ahead) if ahead else now
    return Takeover(cancel=tuple(cancel), take=tuple(take), until=until)


def may_take_over(job: JobRecord, parts: Sequence[Part]) -> bool:
    """Return whether `max_dollars` allows the rest of the job to be sent at full price."""
    if job.max_dollars is None or job.price is None:
        return True
    full = job.full_tokens + sum(part.tokens for part in parts)
    cost = (full + BATCH_API_SHARE * job.half_tokens) * job.price / 1e6
    return cost <= job.max_dollars


def portion(lines: Sequence[Line], seconds_per_token: float) -> int:
    """Return how many lines, at least one, to send before the batches are polled again."""
    tokens = lines[0].weight if lines else 0
    count = 1
    while count < len(lines):
        tokens += lines[count].weight
        if seconds_per_token * tokens > _PORTION_SECONDS:
            break
        count += 1
    return count


def sorted_out(
    lines: Sequence[Line],
    is_there: NDArray[np.bool_],
    lost: Mapping[int, BaseException],
    *,
    name: Callable[[], str],
) -> tuple[list[str], list[Line], list[Line]]:
    """Sort lines by their outcome, after ordinary requests have sent their texts.

    Args:
        lines: the lines.
        is_there: which of their texts have a vector, shape (texts of all lines,).
        lost: position of a text without a vector -> the error.
        name: returns an id that no other line has.

    Returns:
        The ids of lines with a vector for each text; the pieces of other lines that are done or
        have failed; and the pieces that are still open.
    """
    done: list[str] = []
    settled: list[Line] = []
    still_open: list[Line] = []
    start = 0
    for line in lines:
        stop = start + len(line.keys)
        if is_there[start:stop].all():
            done.append(line.id)
        else:
            for piece in _pieces(line, is_there[start:stop], lost, start, name):
                (still_open if piece.state == "open" else settled).append(piece)
        start = stop
    return done, settled, still_open


def _pieces(
    line: Line,
    is_there: NDArray[np.bool_],
    lost: Mapping[int, BaseException],
    offset: int,
    name: Callable[[], str],
) -> list[Line]:
    """Cut a line that lacks some vectors; `offset` is the position of its first text."""
    missing = np.flatnonzero(~is_there).tolist()
    borders = {border for position in missing for border in (position, position + 1)}
    pieces: list[Line] = []
    start = 0
    for piece in cut(line, borders, name=name, sent=line.sent):
        error = lost.get(offset + start)
        if is_there[start]:
            pieces.append(replace(piece, state="done"))
        elif error is None or passes(error) or isinstance(error, NotSentError | BudgetError):
            pieces.append(piece)  # another request may still succeed
        else:
            pieces.append(replace(piece, state="failed", error=diagnose(error).signature))
        start += len(piece.keys)
    return pieces
