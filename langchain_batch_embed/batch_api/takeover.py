"""When ordinary requests take over what is late, how much, and what is left then. Pure."""

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
"""Plan for ordinary requests that take this many times the expected seconds."""

_MARGIN, _MARGIN_SHARE = 30.0, 0.1
"""Seconds kept in reserve at the end, and their largest share of the time allowed."""

_CANCELLING, _CANCELLING_SHARE = 600.0, 0.2
"""Seconds that a batch may take to end when it is cancelled, from the Batch API's guide, and their
largest share of the time allowed."""

_PORTION_SECONDS = 20.0
"""Seconds of ordinary requests between two looks at the batches."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Takeover:
    """What ordinary requests take over, because little time is left.

    Attributes:
        cancel: parts whose batches are cancelled, so that nothing is paid for twice.
        take: parts whose texts are sent now.
        until: when to look again; infinite where there is nothing to take over.
    """

    cancel: tuple[str, ...] = ()
    take: tuple[str, ...] = ()
    until: float = float("inf")


def take_over(job: JobRecord, parts: Sequence[Part], *, now: float) -> Takeover:
    """Decide what ordinary requests have to take over of a job, so that it ends in time.

    The Batch API keeps its work until the last moment at which ordinary requests can still do all
    that is left. They take the parts without a batch first. The batches of the others are cancelled
    early enough for them to end, and ordinary requests take what they leave. If a batch has not
    ended by the last moment, its texts are sent all the same, and may be paid for twice.

    Args:
        job: the job.
        parts: its parts that are not closed.
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
            # From the last part on: the first ones get a batch sooner.
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
    """Tell whether the job may cost what sending the rest at full price costs."""
    if job.max_dollars is None or job.price is None:
        return True
    full = job.full_tokens + sum(part.tokens for part in parts)
    cost = (full + BATCH_API_SHARE * job.half_tokens) * job.price / 1e6
    return cost <= job.max_dollars


def portion(lines: Sequence[Line], seconds_per_token: float) -> int:
    """Return how many lines to send before the batches are looked at again, at least one."""
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
    """Say what has become of lines whose texts were sent by ordinary requests.

    Args:
        lines: the lines.
        is_there: which of their texts have a vector, shape (texts of all lines,).
        lost: position of a text without a vector -> why.
        name: returns an id that no other line has.

    Returns:
        The ids of lines with a vector for each text; pieces of other lines, done or failed; and
        pieces that are open.
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
    """Cut a line of which some texts have no vector; `offset` is the position of its first text."""
    missing = np.flatnonzero(~is_there).tolist()
    borders = {border for position in missing for border in (position, position + 1)}
    pieces: list[Line] = []
    start = 0
    for piece in cut(line, borders, name=name, sent=line.sent):
        error = lost.get(offset + start)
        if is_there[start]:
            pieces.append(replace(piece, state="done"))
        elif error is None or passes(error) or isinstance(error, NotSentError | BudgetError):
            pieces.append(piece)  # another request may bring it yet
        else:
            pieces.append(replace(piece, state="failed", error=diagnose(error).signature))
        start += len(piece.keys)
    return pieces
