"""Decides the next step of a part, and interprets the state of a batch.

Pure functions: no clock, thread or I/O.
"""

import enum
from collections.abc import Sequence
from dataclasses import dataclass, replace

from langchain_batch_embed.batch_api.faults import Fault, Reason, reason_of
from langchain_batch_embed.batch_api.records import Part
from langchain_batch_embed.pacing.backoff import Backoff

__all__ = [
    "SETTLED",
    "BatchView",
    "Next",
    "Step",
    "Waiting",
    "created",
    "failed",
    "hopeless",
    "next_step",
    "observed",
    "unseen",
]

SETTLED = 60.0
"""Seconds for which to search the account's list for a batch whose creation was not confirmed.

A batch that is not listed after that does not exist.
"""

_LOOK = 2.0
"""Seconds between the first two looks at the list; the pause doubles."""

_FIRST_POLL, _LAST_POLL = 2.0, 60.0
"""Seconds between polls of a batch, growing with its age; most batches take minutes, some hours."""

_FULL_QUEUE = Backoff(first=30.0, longest=1800.0)
"""Delays while the queue is full of other programs' batches, cut short when one of ours ends."""

_UNSEEN_FILE = Backoff(first=1.0, longest=600.0)
"""Delays while the server cannot find an uploaded file yet; this has lasted hours."""

_ODD_FAILURE = Backoff(first=5.0, longest=600.0)
"""Delays after a failure without a known reason."""

_UPLOADS_AGAIN = 6
"""Batches that fail to find a file before the file is uploaded again."""

_HALVES = 3
"""Refusals by a full queue, with no other batch of ours in it, before a file is halved."""

_ODD_FAILURES = 3
"""Give up on a job after this many failures in a row without a known reason."""

_MOST_TRIES = 300
"""Give up on a job after this many failures of a part in a row, which take days."""

_MOST_BARREN = 10
"""Give up on a job after this many batches, or portions of ordinary requests, without an answer."""

_OUTPUT_TRIES = 10
"""Most polls of a batch that has ended with answers but does not name its output file yet."""

_ENDED = frozenset({"completed", "expired", "cancelled"})


class Step(enum.Enum):
    """The next action on a part."""

    SUPPLY = "supply"
    """Upload the part's file."""
    CREATE = "create"
    """Request a batch."""
    LOOK = "look"
    """Search the account's list for the batch."""
    POLL = "poll"
    """Ask the server for the batch's progress."""
    COLLECT = "collect"
    """Read the answers into the journal."""
    REST = "rest"
    """Wait."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Next:
    """The next step of a part.

    Attributes:
        step: the action.
        until: when `REST` ends, in seconds since 1970.
    """

    step: Step
    until: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchView:
    """A batch as the server reports it.

    Attributes:
        answered: share of the lines that are answered or have failed; only a hint.
        completed: lines with an answer, by the server's count.
    """

    id: str
    status: str
    answered: float = 0.0
    completed: int = 0
    output_id: str | None = None
    error_id: str | None = None
    faults: tuple[Fault, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """What to do with a part whose batch has failed.

    Attributes:
        part: the part in its new state.
        repack: most tokens for each of the smaller files to cut the part into; `None` to leave it
            whole.
        again: upload the part's file again.
        fatal: why the job cannot continue; `None` if it can.
    """

    part: Part
    repack: float | None = None
    again: bool = False
    fatal: str | None = None


def next_step(
    part: Part, *, now: float, room: float, is_cancelled: bool = False, is_late: bool = False
) -> Next:
    """Decide the next step of a part.

    Args:
        part: the part, which is not closed.
        now: the time.
        room: tokens that may still be enqueued.
        is_cancelled: whether the job is cancelled, so that nothing more is sent.
        is_late: whether ordinary requests send the part's texts.
    """
    step = {
        "packed": Step.SUPPLY,
        "uploading": Step.SUPPLY,
        "ready": Step.CREATE,
        "asked": Step.LOOK,
        "running": Step.POLL,
        "ended": Step.COLLECT,
    }[part.state]
    if is_cancelled and step in (Step.SUPPLY, Step.CREATE):
        return Next(step=Step.COLLECT)  # there is nothing to wait for
    if is_late and (step is Step.CREATE or (step is Step.SUPPLY and part.source is not None)):
        return Next(step=Step.REST, until=now + _LAST_POLL)
    if part.not_before > now:
        return Next(step=Step.REST, until=part.not_before)
    if step is Step.CREATE and room < part.tokens:
        return Next(step=Step.REST, until=now + _LAST_POLL)
    return Next(step=step)


def unseen(part: Part, *, now: float) -> Part:
    """Return a part after a search that did not find its batch in the account's list.

    The search is repeated for `SETTLED` seconds, and then the part is `ready` for a new batch. The
    time counts from the first look, because the request may have been under way until then.
    """
    since = part.doubted or now
    if now >= since + SETTLED:
        return replace(part, state="ready", asked=0.0, doubted=0.0, not_before=0.0)
    pause = min(max(_LOOK, now - since), since + SETTLED - now)  # twice as long each time
    return replace(part, doubted=since, not_before=now + pause)


def created(part: Part, view: BatchView, *, now: float) -> Part:
    """Return a part whose batch has just been created."""
    return replace(
        part, state="running", batch_id=view.id, status=view.status, not_before=now + _FIRST_POLL
    )


def observed(part: Part, view: BatchView, *, now: float) -> Part:
    """Return a part updated from the server's view of its batch, which has not failed."""
    trouble, alike = part.trouble, part.alike
    has_ended = view.status in _ENDED
    if has_ended and view.completed > 0 and not view.output_id:
        # Wait for the output file, or the answers would be paid for again.
        trouble, alike = "output", _alike(part, "output")
        has_ended = alike > _OUTPUT_TRIES
    elif view.status != "validating":
        trouble, alike = None, 0
    part = replace(
        part,
        state="ended" if has_ended else "running",
        batch_id=view.id,
        status=view.status,
        answered=view.answered,
        output_id=view.output_id or None,
        error_id=view.error_id or None,
        trouble=trouble,
        alike=alike,
        tries=part.tries if view.status == "validating" else 0,
        not_before=0.0,
    )
    if part.state == "ended":
        return part
    pause = min(_LAST_POLL, max(_FIRST_POLL, (now - part.asked) / 10))
    return replace(part, not_before=now + pause)


def failed(
    part: Part, faults: Sequence[Fault], *, now: float, limit: float, in_queue: bool
) -> Waiting:
    """Decide what to do with a part whose batch has failed or was refused.

    Args:
        part: the part.
        faults: the reasons that the server gives.
        now: the time.
        limit: tokens that may be enqueued; infinite while no limit is known.
        in_queue: whether other batches of ours are enqueued.
    """
    reason = reason_of(faults)
    tries = part.tries + 1
    part = replace(
        part, state="ready", batch_id=None, status=None, answered=0.0, tries=tries, asked=0.0
    )
    code = next((fault.code for fault in faults if fault.code), "no code")
    if reason is Reason.FATAL or tries > _MOST_TRIES:
        return Waiting(part=part, fatal=f"the batch was refused ({code})")
    if reason is Reason.TOO_MANY:
        return Waiting(part=part, repack=max(1.0, part.tokens / 2))
    if reason is Reason.QUEUE:
        later = _later(part, "queue", now, _FULL_QUEUE)
        if part.tokens > limit:
            return Waiting(part=later, repack=limit)
        if not in_queue and later.alike % _HALVES == 0 and part.texts > 1:
            return Waiting(part=later, repack=max(1.0, part.tokens / 2))
        return Waiting(part=later)
    if reason is Reason.UNSEEN:
        later = _later(part, "file", now, _UNSEEN_FILE)
        return Waiting(part=later, again=later.alike % _UPLOADS_AGAIN == 0)
    later = _later(part, "failure", now, _ODD_FAILURE)
    if later.alike >= _ODD_FAILURES:
        return Waiting(part=part, fatal=f"the batch failed {later.alike} times ({code})")
    return Waiting(part=later)


def hopeless(barren: int, what: str) -> str | None:
    """Return why to give up on a job after attempts without an answer; `None` to continue.

    Args:
        barren: attempts in a row without an answer: batches, or portions of ordinary requests.
        what: what happened to them.
    """
    return f"{barren} {what} in a row brought no answer" if barren >= _MOST_BARREN else None


def _later(part: Part, trouble: str, now: float, backoff: Backoff) -> Part:
    """Return the part with another failure for this reason, after which it waits."""
    alike = _alike(part, trouble)
    # No jitter is needed, because only one process at a time works on the jobs of a journal.
    delay = backoff.delay(alike - 1, lambda: 1.0)
    return replace(part, trouble=trouble, alike=alike, not_before=now + delay)


def _alike(part: Part, trouble: str) -> int:
    """Return the number of failures in a row for this reason, one more now."""
    return part.alike + 1 if part.trouble == trouble else 1
