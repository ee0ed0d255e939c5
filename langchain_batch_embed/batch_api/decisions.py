"""What to do next about a part, and what a batch's state means. Pure: no clock and no server."""

import enum
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from langchain_batch_embed.batch_api.records import JobRecord, Part
from langchain_batch_embed.report import BATCH_API_SHARE

__all__ = [
    "SETTLED",
    "BatchView",
    "Fault",
    "Next",
    "Reason",
    "Step",
    "Takeover",
    "Waiting",
    "created",
    "failed",
    "may_take_over",
    "next_step",
    "observed",
    "reason_of",
    "refused",
    "take_over",
    "told_limit",
    "unseen",
]

SETTLED = 60.0
"""Seconds for which a batch that was asked for is looked for in the account's list. One that is not
there by then does not exist."""

_LOOK = 2.0
"""Seconds between the first looks at the list; the pause doubles."""

_FIRST_POLL, _LAST_POLL = 2.0, 60.0
"""Seconds between two looks at a batch, which grow with its age: most take minutes, some hours."""

_QUEUE_FIRST, _QUEUE_LAST = 30.0, 1800.0
"""Seconds to wait while the queue is full of what is not ours."""

_FILE_FIRST, _FILE_LAST = 1.0, 600.0
"""Seconds to wait for a file that batches cannot find yet; hours were seen."""

_ODD_FIRST, _ODD_LAST = 5.0, 600.0
"""Seconds after a failure that says nothing."""

_UPLOADS_AGAIN = 6
"""After this many tries a file that cannot be found is uploaded again."""

_HALVES = 3
"""After this many refusals with none of our batches in the queue, smaller files are tried."""

_ODD_FAILURES = 3
"""After this many failures that say nothing, a job is given up."""

_MOST_TRIES = 300
"""After this many, which is days, a job is given up."""

_SAFETY = 1.5
"""Ordinary requests are allowed this many times the seconds that they should take."""

_MARGIN, _MARGIN_SHARE = 30.0, 0.1
"""Seconds to have in hand at the end, and their largest share of the time allowed."""

_CANCELLING, _CANCELLING_SHARE = 600.0, 0.2
"""Seconds that a batch may take to end when it is cancelled, from the Batch API's guide, and their
largest share of the time allowed."""

_OUTPUT_TRIES = 10
"""A batch that has ended, with answers and without an output, is looked at this often."""

_ENDED = frozenset({"completed", "expired", "cancelled"})


class Step(enum.Enum):
    """What to do about a part."""

    SUPPLY = "supply"
    """Upload its file."""
    CREATE = "create"
    """Ask for a batch."""
    LOOK = "look"
    """Look in the account's list for the batch that was asked for."""
    POLL = "poll"
    """Ask how far the batch is."""
    COLLECT = "collect"
    """Read the answers into the journal."""
    REST = "rest"
    """Wait."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Next:
    """What to do about a part, and for `REST` until when."""

    step: Step
    until: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One entry of a failed batch's errors.

    Attributes:
        code: the server's code.
        line: the number of the line that it is about, from 1.
        words: the server's message; it goes into no message of ours.
        param: the parameter that it is about.
    """

    code: str | None
    line: int | None
    words: str
    param: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchView:
    """A batch as the server shows it.

    Attributes:
        answered: share of the lines that are answered, which is only a hint.
        completed: lines with an answer, by the server's count.
    """

    id: str
    status: str
    answered: float = 0.0
    completed: int = 0
    output_id: str | None = None
    error_id: str | None = None
    faults: tuple[Fault, ...] = ()


class Reason(enum.Enum):
    """Why a batch has failed, or was not created."""

    QUEUE = "queue"
    """Too much is enqueued."""
    UNSEEN = "unseen"
    """Its file cannot be found, perhaps not yet."""
    LINES = "lines"
    """Some lines are refused."""
    TOO_MANY = "too many"
    """It has more inputs or bytes than a batch may have."""
    FATAL = "fatal"
    """No batch of this job can succeed."""
    ODD = "odd"
    """It does not say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """What becomes of a part whose batch has failed.

    Attributes:
        part: the part as it is now.
        repack: cut it into smaller files, with at most this many tokens each; `None`: do not.
        again: upload its file again.
        fatal: why the job cannot go on.
    """

    part: Part
    repack: float | None = None
    again: bool = False
    fatal: str | None = None


def next_step(
    part: Part, *, now: float, room: float, is_cancelled: bool = False, is_late: bool = False
) -> Next:
    """Decide what to do about a part.

    Args:
        part: the part, which is not closed.
        now: the time.
        room: tokens that may still be enqueued.
        is_cancelled: nothing more is to be sent.
        is_late: ordinary requests are to send its texts.
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
        return Next(step=Step.COLLECT)  # nothing has come, and nothing will
    if is_late and (step is Step.CREATE or (step is Step.SUPPLY and part.source is not None)):
        return Next(step=Step.REST, until=now + _LAST_POLL)
    if part.not_before > now:
        return Next(step=Step.REST, until=part.not_before)
    if step is Step.CREATE and room < part.tokens:
        return Next(step=Step.REST, until=now + _LAST_POLL)
    return Next(step=step)


def unseen(part: Part, *, now: float) -> Part:
    """Return a part whose batch was not in the list: it is looked for until that is certain.

    The time counts from the first look: the request may have been on its way until then.
    """
    since = part.doubted or now
    if now >= since + SETTLED:
        return replace(part, state="ready", asked=0.0, doubted=0.0, not_before=0.0)
    pause = min(max(_LOOK, now - since), since + SETTLED - now)  # twice as long each time
    return replace(part, doubted=since, not_before=now + pause)


def created(part: Part, view: BatchView, *, now: float) -> Part:
    """Return a part that has a batch."""
    return replace(
        part, state="running", batch_id=view.id, status=view.status, not_before=now + _FIRST_POLL
    )


def observed(part: Part, view: BatchView, *, now: float) -> Part:
    """Return a part whose batch is as the server shows it; a failed one is for `failed`."""
    # Without its output, what was answered would be sent and paid for again.
    lacks_output = view.completed > 0 and not view.output_id and part.tries < _OUTPUT_TRIES
    has_ended = view.status in _ENDED and not lacks_output
    part = replace(
        part,
        state="ended" if has_ended else "running",
        batch_id=view.id,
        status=view.status,
        answered=view.answered,
        output_id=view.output_id or None,
        error_id=view.error_id or None,
        trouble=None,
        tries=_tries_after(part, view),
        not_before=0.0,
    )
    if part.state == "ended":
        return part
    pause = min(_LAST_POLL, max(_FIRST_POLL, (now - part.asked) / 10))
    return replace(part, not_before=now + pause)


def _tries_after(part: Part, view: BatchView) -> int:
    if view.status in _ENDED:
        return part.tries + 1
    return part.tries if view.status == "validating" else 0


def failed(
    part: Part, faults: Sequence[Fault], *, now: float, limit: float, in_queue: bool
) -> Waiting:
    """Decide what becomes of a part whose batch has failed, or was refused.

    Args:
        part: the part.
        faults: what the server says about it.
        now: the time.
        limit: tokens that may be enqueued, as far as is known.
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
        later = replace(
            part, trouble="queue", not_before=now + _pause(tries, _QUEUE_FIRST, _QUEUE_LAST)
        )
        if part.tokens > limit:
            return Waiting(part=later, repack=limit)
        if not in_queue and tries % _HALVES == 0 and part.texts > 1:
            return Waiting(part=later, repack=max(1.0, part.tokens / 2))
        return Waiting(part=later)
    if reason is Reason.UNSEEN:
        later = replace(
            part, trouble="file", not_before=now + _pause(tries, _FILE_FIRST, _FILE_LAST)
        )
        return Waiting(part=later, again=tries % _UPLOADS_AGAIN == 0)
    if tries >= _ODD_FAILURES:
        return Waiting(part=part, fatal=f"the batch failed {tries} times ({code})")
    pause = _pause(tries, _ODD_FIRST, _ODD_LAST)
    return Waiting(part=replace(part, trouble="failure", not_before=now + pause))


def refused(faults: Sequence[Fault]) -> dict[int, str]:
    """Return the numbers of the lines that a failed batch names, from 1, and their codes."""
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
    """Return why a batch has failed."""
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
    """Return how many tokens may be enqueued, where a refusal says so."""
    for fault in faults:
        if match := _LIMIT.search(fault.words):
            exact, thousands = match.groups()
            return int(exact.replace(",", "")) if exact else int(thousands) * 1000
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Takeover:
    """What ordinary requests take over, as the time presses.

    Attributes:
        cancel: parts whose batches are to be cancelled, so that nothing is paid for twice.
        take: parts whose texts are to be sent now.
        until: when to look again; infinite where there is nothing to take over.
    """

    cancel: tuple[str, ...] = ()
    take: tuple[str, ...] = ()
    until: float = float("inf")


def take_over(job: JobRecord, parts: Sequence[Part], *, now: float) -> Takeover:
    """Decide what of a job ordinary requests have to take over, so that it ends in time.

    The Batch API keeps what it has until the last moment at which ordinary requests can still do
    all that is left. First they take the parts that have no batch. The batches of the others are
    cancelled early enough for them to end, and their rest is taken. Where a batch has not ended
    by the last moment, its texts are taken all the same, and may be paid for twice.

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
            # The last ones, as the first have the best chance of a batch.
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
    """Tell whether all that is left may be sent at full price, by what the job may cost."""
    if job.max_dollars is None or job.price is None:
        return True
    full = job.full_tokens + sum(part.tokens for part in parts)
    cost = (full + BATCH_API_SHARE * job.half_tokens) * job.price / 1e6
    return cost <= job.max_dollars


def _pause(tries: int, first: float, last: float) -> float:
    return float(min(last, first * 2.0 ** min(tries - 1, 20)))
