"""Works on a job: does what `decisions` decides, and writes it into the journal before and after.

Only one process at a time works on the jobs of a journal; the caller holds the lock.
"""

import logging
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import jiter
import numpy as np
from numpy.typing import NDArray

from langchain_batch_embed.batch_api import decisions
from langchain_batch_embed.batch_api.answers import Read, Verdict, again, read_line
from langchain_batch_embed.batch_api.decisions import BatchView, Fault, Reason, Step, Takeover
from langchain_batch_embed.batch_api.files import texts_in, written
from langchain_batch_embed.batch_api.packing import chosen, cut, group, splits
from langchain_batch_embed.batch_api.records import JobRecord, Line, Part
from langchain_batch_embed.batch_api.service import BatchService, faults_of, is_doubtful, is_gone
from langchain_batch_embed.batch_api.store import JobStore
from langchain_batch_embed.clock import Calendar
from langchain_batch_embed.errors import BudgetError, Failure, NotSentError
from langchain_batch_embed.journal import Journal, Space
from langchain_batch_embed.pacing.diagnosis import Kind, diagnose
from langchain_batch_embed.report import Report

__all__ = ["LIMIT_HOLDS", "EmbedNow", "Tools", "Worker", "known", "new_id", "part_of", "passes"]

logger = logging.getLogger(__name__)

WRITTEN_AT_ONCE = 2048
"""Vectors written in one piece: 12 MB at 1,536 dimensions."""

LIMIT_HOLDS = 86_400.0
"""Seconds for which a limit of the queue that a refusal named is kept to."""

_TAKEN_SECONDS = 20.0
"""Seconds of ordinary requests between two looks at the batches."""

_LATE_PAUSE = 1.0
"""Seconds between two looks at what is late, where nothing could be sent."""

_MOST_BARREN = 10
"""After this many batches in a row that ended without an answer, a job is given up."""

_warned: set[str] = set()
"""Jobs for which the log has said that they are late."""

_RATE_PAUSE = 30.0

_PASSING = frozenset(
    {Kind.THROTTLED, Kind.TIMED_OUT, Kind.UNREACHABLE, Kind.OVERLOADED, Kind.FAILED}
)


class EmbedNow(Protocol):
    """Embeds texts by ordinary requests into the journal."""

    def __call__(self, texts: list[str]) -> tuple[Report, Sequence[Failure]]:
        """Return what it cost, and the texts without a vector."""
        ...


@dataclass(frozen=True, kw_only=True)
class Tools:
    """What a worker works with.

    Attributes:
        store: the tables of the jobs.
        service: the Batch API.
        journal: where vectors go.
        space: what makes them.
        dimensions: that the requests ask for.
        body: the JSON of a request but for its texts.
        empty: what is sent for an empty text.
        agree: raises if vectors of so many dimensions, of that model, do not go with earlier ones.
        expect_model: names the model of earlier ones.
        embed_now: sends what is late by ordinary requests.
        tell: is told of the model, the texts and the tokens of each line that is billed.
        calendar: time and waiting.
    """

    store: JobStore
    service: BatchService
    journal: Journal
    space: Space
    dimensions: int | None
    body: Mapping[str, Any]
    empty: str
    agree: Callable[[int, str | None], None]
    expect_model: Callable[[str | None], None]
    embed_now: EmbedNow
    tell: Callable[[str | None, int, int], object]
    calendar: Calendar


class Worker:
    """Does one round of work on a job at a time.

    Args:
        tools: what it works with.
        given: texts by their keys, for parts that have no file yet.

    Attributes:
        stranded: texts whose process ended before it had uploaded them.
    """

    def __init__(self, tools: Tools, given: Mapping[bytes, str] | None = None) -> None:
        self._tools = tools
        self._store = tools.store
        self._service = tools.service
        self._now = tools.calendar.time
        self._space = tools.space.digest
        self._given = given or {}
        self._read: tuple[str, dict[bytes, str]] = "", {}  # the texts of the file read last
        self.stranded = 0
        self._lacks_room = False

    def round(self, job_id: str, *, takes_over: bool = True) -> float:
        """Do all that can be done about a job now.

        Args:
            job_id: the job.
            takes_over: also send what is late by ordinary requests, which takes a while.

        Returns:
            Seconds until there is something to do; infinite where there is not.

        Raises:
            Exception: whatever the SDK raises. All that was done before is in the journal.
        """
        self.stranded = 0
        self._lacks_room = False
        job = self._store.job(job_id)
        due = [
            self._round(self._store.job(other), takes_over=takes_over)
            for other in (*job.waits_for, job_id)
        ]
        if self._lacks_room:
            stranded = self.stranded
            self._make_room((*job.waits_for, job_id))
            self.stranded = stranded
        self._sweep()
        return max(0.0, min(due) - self._now())

    def _make_room(self, done: Sequence[str]) -> None:
        """Look after other jobs, whose batches may have ended while nobody waits for them."""
        for job in self._store.jobs():
            if job.ended is None and job.space == self._space and job.id not in done:
                try:
                    self._round(job, takes_over=False)
                except Exception as error:  # noqa: BLE001  # for those who wait for that job
                    logger.info("job %s cannot go on now: %s", job.id, type(error).__name__)

    def _round(self, job: JobRecord, *, takes_over: bool) -> float:
        if job.ended is not None:
            return float("inf")
        passing: list[Exception] = []
        due = []
        parts = self._store.parts(job.id)
        late = self._late(job, parts).take
        for part in parts:
            try:
                due.append(self._work_on(job, part, is_late=part.id in late))
            except Exception as error:  # the others, and what is late, must not wait for it
                if not passes(error):
                    raise
                passing.append(error)
        if takes_over:
            due.append(self._take_over(job.id))
        self._end(job.id)
        if passing:
            raise passing[0]
        return min(due, default=float("inf"))

    def _work_on(self, job: JobRecord, part: Part, *, is_late: bool) -> float:
        """Do one step after the other about a part; return when there is the next one to do."""
        steps = {
            Step.SUPPLY: self._supply,
            Step.CREATE: self._create,
            Step.LOOK: self._look,
            Step.POLL: self._poll,
        }
        while True:
            if self._store.job(job.id).fatal is not None:
                self._give_up(part)
                return self._now()
            now = self._now()
            limit = self._limit(now)
            room = limit - self._store.enqueued(self._space)
            if part.tokens > limit:  # it never fits: `_create` cuts it
                room = part.tokens
            is_cancelled = job.cancelled is not None
            if is_cancelled and part.state == "running" and not part.is_cancelling:
                part = self._cancel(part)
            step = decisions.next_step(
                part, now=now, room=room, is_cancelled=is_cancelled, is_late=is_late
            )
            if step.step is Step.REST:
                self._lacks_room |= part.state == "ready" and room < part.tokens
                return step.until
            if step.step is Step.COLLECT:
                self._collect(self._store.job(job.id), part)
                return now  # its successors are next
            found = steps[step.step](part)
            if found is None:  # it is stranded, or others have its lines now
                is_open = self._store.part(part.id).state != "closed"
                return float("inf") if is_open else now
            part = found

    # --- Files ---------------------------------------------------------------------------------

    def _supply(self, part: Part) -> Part | None:
        """Give a part its file."""
        if part.state == "uploading":
            file_id = self._service.find_file(part.file_name, part.octets)
            if file_id is not None:
                return self._store.save_part(replace(part, state="ready", file_id=file_id))
        lines = self._store.lines(part.id)
        wanted = {key for line in lines for key in line.keys}
        texts = self._texts(part, wanted)
        if texts is None:
            if not self._split_off(part, lines):
                self.stranded += part.texts
            return None
        content = b"".join(written(lines, texts, self._tools.body, empty=self._tools.empty))
        part = self._store.save_part(replace(part, state="uploading", octets=len(content)))
        file_id = self._service.upload(part.file_name, content)
        return self._store.save_part(replace(part, state="ready", file_id=file_id))

    def _texts(self, part: Part, wanted: set[bytes]) -> Mapping[bytes, str] | None:
        """Return a part's texts by their keys; `None` where nobody has them any more."""
        if wanted <= self._given.keys():
            return self._given
        file_id = part.file_id
        if file_id is None and part.source is not None:
            file_id = self._store.part(part.source).file_id
        if file_id is None:
            return None
        if self._read[0] != file_id or not wanted <= self._read[1].keys():
            try:
                lines = self._service.lines(file_id)
                found = dict(texts_in(lines, self._tools.space, wanted.__contains__))
            except Exception as error:
                if is_gone(error):
                    return None
                raise
            self._read = file_id, found
        return self._read[1] if wanted <= self._read[1].keys() else None

    def _split_off(self, part: Part, lines: Sequence[Line]) -> bool:
        """Give those texts of a part that are given a part of their own; return whether any are."""
        here: list[Line] = []
        missing: list[Line] = []
        for line in lines:
            is_given = np.array([key in self._given for key in line.keys])
            for found, positions in (
                (here, np.flatnonzero(is_given)),
                (missing, np.flatnonzero(~is_given)),
            ):
                if positions.size:
                    found.append(chosen(line, positions, name=new_id))
        if not here:
            return False
        self._succeed(part, [here, missing])
        return True

    def _sweep(self) -> None:
        """Delete files that nobody needs; those that cannot be deleted are for another time."""
        self._store.release_files(self._space)
        for file_id in self._store.unneeded(self._space):
            try:
                self._service.delete(file_id)
            except Exception as error:  # noqa: BLE001  # whatever the SDK raises
                logger.debug("a file could not be deleted: %s", type(error).__name__)
                return
            self._store.forget_file(file_id)

    # --- Batches -------------------------------------------------------------------------------

    def _create(self, part: Part) -> Part | None:
        """Ask for a part's batch, once."""
        limit = self._limit(self._now())
        if part.tokens > limit and self._repack(part, limit):
            return None
        anchor = self._service.newest()
        asked = replace(
            part,
            state="asked",
            attempt=part.attempt + 1,
            asked=self._now(),
            doubted=0.0,
            anchor=anchor,
        )
        part = self._store.save_part(asked)
        assert part.file_id is not None  # noqa: S101  # or it would not be `ready`
        try:
            view = self._service.create(part.file_id, part.intent)
        except Exception as error:  # noqa: BLE001  # whatever the SDK raises
            if is_doubtful(error):
                logger.info("whether a batch was created is not known: %s", type(error).__name__)
                return part
            return self._refused(part, error)
        return self._created(part, view)

    def _refused(self, part: Part, error: Exception) -> Part | None:
        """Return a part for which the server has created no batch."""
        faults = faults_of(error)
        reason = decisions.reason_of(faults)
        ready = replace(part, state="ready", asked=0.0)
        if reason in (Reason.ODD, Reason.LINES, Reason.FATAL):
            kind = diagnose(error).kind
            if kind is Kind.THROTTLED:
                return self._store.save_part(replace(ready, not_before=self._now() + _RATE_PAUSE))
            if kind is not Kind.REFUSED:
                self._store.save_part(ready)
                raise error
        return self._failed(part, faults)

    def _look(self, part: Part) -> Part:
        """Look for the batch that was asked for."""
        view = self._service.find(part.intent, part.anchor)
        if view is None:
            return self._store.save_part(decisions.unseen(part, now=self._now()))
        return self._created(part, view)

    def _created(self, part: Part, view: BatchView) -> Part:
        self._store.add_to_job(part.job, batches=1)
        return self._store.save_part(decisions.created(part, view, now=self._now()))

    def _poll(self, part: Part) -> Part | None:
        """Ask how far a batch is."""
        assert part.batch_id is not None  # noqa: S101  # or it would not be `running`
        view = self._service.retrieve(part.batch_id)
        if view.status == "failed":
            return self._failed(part, view.faults)
        seen = decisions.observed(part, view, now=self._now())
        if seen.state == "ended":
            self._store.let_queue_move(self._space)
        return self._store.save_part(seen)

    def _failed(self, part: Part, faults: Sequence[Fault]) -> Part | None:
        """Return a part whose batch has failed; `None` where other parts have its lines now."""
        now = self._now()
        limit = decisions.told_limit(faults)
        if limit is not None:
            self._store.learn_limit(self._space, limit, now)
        named = decisions.refused(faults)
        if decisions.reason_of(faults) is Reason.LINES and self._isolate(part, named):
            return None
        others = self._store.enqueued(self._space) - part.tokens
        waiting = decisions.failed(
            part, faults, now=now, limit=self._limit(now), in_queue=others > 0
        )
        part = self._store.save_part(waiting.part)
        if waiting.fatal is not None:
            self._store.change_job(part.job, fatal=waiting.fatal)
        elif (waiting.repack is not None and self._repack(part, waiting.repack)) or (
            waiting.again and self._upload_again(part)
        ):
            return None
        return part

    def _cancel(self, part: Part) -> Part:
        assert part.batch_id is not None  # noqa: S101  # or it would not be `running`
        self._service.cancel(part.batch_id)
        return self._store.save_part(replace(part, is_cancelling=True, not_before=0.0))

    def _limit(self, now: float) -> float:
        return self._store.limit(self._space, since=now - LIMIT_HOLDS)

    # --- What is sent again --------------------------------------------------------------------

    def _repack(self, part: Part, most: float) -> bool:
        """Put a part's lines into smaller files; return whether they could be made smaller."""
        lines = [
            piece
            for line in self._store.lines(part.id)
            for piece in cut(line, splits(line, max_tokens=most), name=new_id, sent=line.sent)
        ]
        files = group(lines, max_tokens=most)
        if len(files) <= 1:
            return False
        self._succeed(part, files, tries=part.tries, not_before=part.not_before)
        return True

    def _upload_again(self, part: Part) -> bool:
        """Give a part's lines a new file; return whether that is possible."""
        lines = self._store.lines(part.id)
        wanted = {key for line in lines for key in line.keys}
        if self._texts(part, wanted) is None:
            return False
        fresh = [cut(line, (), name=new_id, sent=line.sent)[0] for line in lines]
        self._succeed(part, [fresh], tries=part.tries, not_before=part.not_before)
        return True

    def _isolate(self, part: Part, named: Mapping[int, str]) -> bool:
        """Send the lines that a failed batch names in smaller ones; return whether it names any."""
        lines = self._store.lines(part.id, only_open=False)
        if not named.keys() & set(range(1, len(lines) + 1)):
            return False
        pieces: list[Line] = []
        for number, line in enumerate(lines, 1):
            read = Read(verdict=Verdict.UNANSWERED)
            if number in named:
                read = Read(verdict=Verdict.REFUSED, error=named[number])
            pieces += again(line, read, name=new_id) if line.state == "open" else []
        self._succeed_or_lose(part, pieces)
        return True

    def _succeed(
        self, part: Part, files: Sequence[Sequence[Line]], *, tries: int = 0, not_before: float = 0
    ) -> None:
        successors = [
            (replace(_after(part, lines), tries=tries, not_before=not_before), lines)
            for lines in files
        ]
        self._store.replace_lines(part, successors, space=self._space)

    def _succeed_or_lose(self, part: Part, pieces: Sequence[Line], **values: Any) -> None:
        """Close a part; lines that are open go into successors, the others are lost."""
        files = group(
            (line for line in pieces if line.state == "open"),
            max_tokens=self._limit(self._now()),
        )
        self._store.replace_lines(
            part,
            [(_after(part, lines), lines) for lines in files],
            [line for line in pieces if line.state != "open"],
            space=self._space,
            **values,
        )

    # --- What has come -------------------------------------------------------------------------

    def _collect(self, job: JobRecord, part: Part) -> None:
        """Read the answers of a batch into the journal, and see what is left."""
        self._tools.expect_model(job.answered_by)
        left = {line.id: line for line in self._store.lines(part.id)}
        before = len(left)
        reads: dict[str, Read] = {}
        for file_id in (part.output_id, part.error_id):
            for line, read in self._reads(job.id, file_id, left):
                if read.verdict is Verdict.ANSWERED:
                    continue  # it is in the journal
                reads[line.id] = read
        unread = Read(verdict=Verdict.FAILED, error="no answer in the output")
        if part.status != "completed":
            unread = Read(verdict=Verdict.UNANSWERED, error=part.status or "")
        pieces: list[Line] = []
        for line in left.values():
            if job.cancelled is not None:
                pieces.append(replace(line, id=new_id(), state="cancelled"))
            else:
                pieces += again(line, reads.get(line.id, unread), name=new_id)
        is_fruitful = len(left) < before or any(
            read.verdict in (Verdict.REFUSED, Verdict.TOO_LARGE) for read in reads.values()
        )
        barren = 0 if is_fruitful else job.barren + (not part.is_cancelling)
        self._succeed_or_lose(
            part,
            pieces,
            unneeded=(part.output_id, part.error_id),
            barren=barren,
            half_tokens=sum(read.tokens for read in reads.values()),
        )
        for line in left.values():
            self._tell(line, reads.get(line.id, unread))
        self._give_up_if_barren(job.id, f"batches ended ({part.status})")

    def _give_up_if_barren(self, job_id: str, what: str) -> None:
        barren = self._store.job(job_id).barren
        if barren >= _MOST_BARREN:
            words = f"{barren} times in a row {what} without an answer"
            self._store.change_job(job_id, fatal=words)

    def _reads(
        self, job_id: str, file_id: str | None, left: dict[str, Line]
    ) -> Iterator[tuple[Line, Read]]:
        """Yield what a file says about each line; answers are in the journal by then.

        Args:
            job_id: whose lines they are.
            file_id: the output or the errors of a batch; `None`: it has none.
            left: lines that are open; those that are answered are taken out.
        """
        if not file_id:
            return
        waiting: list[tuple[Line, Read]] = []
        texts = 0
        try:
            for row in self._service.lines(file_id):
                found = self._read_one(row, left)
                if found is None:
                    continue
                line, read = found
                if read.verdict is not Verdict.ANSWERED:
                    yield found
                    continue
                waiting.append(found)
                del left[line.id]
                texts += len(line.keys)
                if texts >= WRITTEN_AT_ONCE:
                    self._write(job_id, waiting)
                    yield from waiting
                    waiting, texts = [], 0
        except Exception as error:
            self._write(job_id, waiting)  # paid for, and read
            if not is_gone(error):
                raise
            logger.warning("a batch's output is not at the server any more; its rest is sent again")
            return
        self._write(job_id, waiting)
        yield from waiting

    def _read_one(self, row: bytes, left: Mapping[str, Line]) -> tuple[Line, Read] | None:
        try:
            parsed = jiter.from_json(row)
        except ValueError:
            return None  # whichever line it is has no answer
        line = left.get(str(parsed.get("custom_id"))) if isinstance(parsed, dict) else None
        if line is None:
            return None
        tools = self._tools
        return line, read_line(parsed, line, dimensions=tools.dimensions, agree=tools.agree)

    def _write(self, job_id: str, found: Sequence[tuple[Line, Read]]) -> None:
        """Put vectors into the journal, and note that their lines are done."""
        if not found:
            return
        keys = [key for line, _ in found for key in line.keys]
        answers = [read.answer for _, read in found if read.answer is not None]
        vectors: NDArray[np.float32] = (
            answers[0].vectors
            if len(answers) == 1
            else np.concatenate([answer.vectors for answer in answers])
        )
        self._tools.journal.put(keys, vectors, space=self._tools.space)
        self._store.finish_lines(
            job_id,
            [line.id for line, _ in found],
            answered_by=answers[0].model,
            half_tokens=sum(read.tokens for _, read in found),
        )
        for line, read in found:
            self._tell(line, read)

    def _tell(self, line: Line, read: Read) -> None:
        """Tell the user of a line that is billed."""
        if read.tokens:
            model = None if read.answer is None else read.answer.model
            self._tools.tell(model, len(line.keys), read.tokens)

    # --- What is late --------------------------------------------------------------------------

    def _late(self, job: JobRecord, parts: Sequence[Part]) -> Takeover:
        """Decide what ordinary requests have to take over, and may."""
        if job.cancelled is not None or job.fatal is not None:
            return Takeover()
        plan = decisions.take_over(job, parts, now=self._now())
        if (plan.take or plan.cancel) and not decisions.may_take_over(job, parts):
            if job.id not in _warned:
                logger.warning(
                    "job %s is late, and max_dollars=%g does not allow ordinary requests",
                    job.id,
                    job.max_dollars,
                )
                _warned.add(job.id)
            return Takeover()
        return plan

    def _take_over(self, job_id: str) -> float:
        """Send what is late by ordinary requests, a little at a time; return when to look again."""
        job = self._store.job(job_id)
        parts = {part.id: part for part in self._store.parts(job_id)}
        plan = self._late(job, list(parts.values()))
        for part_id in plan.cancel:
            self._cancel(parts[part_id])
        for part_id in plan.take:
            if self._take(job, self._store.part(part_id)):
                return self._now()
        return max(plan.until, self._now() + _LATE_PAUSE)

    def _take(self, job: JobRecord, part: Part) -> bool:
        """Send some lines of a part now; return whether anything was sent."""
        lines = self._store.lines(part.id)
        rate = job.seconds / max(1, job.tokens)
        count = 1
        while (
            count < len(lines)
            and rate * sum(line.weight for line in lines[: count + 1]) <= _TAKEN_SECONDS
        ):
            count += 1
        chunk = lines[:count]
        texts = self._texts(part, {key for line in chunk for key in line.keys})
        if texts is None:
            return False  # as long as nobody has them
        report, failures = self._tools.embed_now(
            [texts[key] for line in chunk for key in line.keys]
        )
        lost = {failure.index: failure.error for failure in failures}
        keys = [key for line in chunk for key in line.keys]
        is_there = known(self._tools.journal, keys)  # else the journal could not be written
        done: list[str] = []
        pieces: list[Line] = []
        left = lines[count:]
        start = 0
        for line in chunk:
            stop = start + len(line.keys)
            if is_there[start:stop].all():
                done.append(line.id)
            else:
                for piece in _pieces(line, is_there[start:stop], lost, start):
                    (left if piece.state == "open" else pieces).append(piece)
            start = stop
        self._store.overtake(
            part,
            done,
            pieces,
            (_after(part, left), left) if left else None,
            full_tokens=report.tokens,
            requests=report.requests,
            overtaken=len(keys) if part.state in ("asked", "running") else 0,
        )
        if done or pieces:
            return True
        self._store.add_to_job(job.id, barren=1)
        self._give_up_if_barren(job.id, "ordinary requests failed")
        return False

    # --- The end -------------------------------------------------------------------------------

    def _give_up(self, part: Part) -> None:
        """Close a part of a job that cannot go on."""
        job = self._store.job(part.job)
        if part.state == "running" and part.batch_id is not None:
            self._service.cancel(part.batch_id)
        lost = [
            replace(line, id=new_id(), state="failed", error=job.fatal)
            for line in self._store.lines(part.id)
        ]
        self._store.replace_lines(part, [], lost, space=self._space)

    def _end(self, job_id: str) -> None:
        if not self._store.parts(job_id):
            job = self._store.job(job_id)
            if all(self._store.job(other).ended is not None for other in job.waits_for):
                self._store.end(job_id, self._now())


def passes(error: BaseException) -> bool:
    """Tell whether an error can be waited out: the network, or a server that is busy."""
    return diagnose(error).kind in _PASSING


def new_id() -> str:
    """Return an id that nothing else has."""
    return uuid.uuid4().hex


def part_of(job_id: str, number: int, lines: Sequence[Line], source: str | None = None) -> Part:
    """Return a new part with some lines."""
    return Part(
        id=new_id(),
        job=job_id,
        number=number,
        source=source,
        texts=sum(len(line.keys) for line in lines),
        tokens=sum(line.weight for line in lines),
    )


def _after(part: Part, lines: Sequence[Line]) -> Part:
    """Return a part that goes on with lines of another one, whose file has their texts."""
    source = part.id if part.file_id is not None else part.source
    return part_of(part.job, part.number, lines, source)


def known(journal: Journal, keys: Sequence[bytes]) -> NDArray[np.bool_]:
    """Tell which keys a journal has, a few at a time, as it reads the vectors too."""
    found = np.zeros(len(keys), np.bool_)
    for start in range(0, len(keys), WRITTEN_AT_ONCE):
        positions, _ = journal.get(keys[start : start + WRITTEN_AT_ONCE])
        found[start + positions] = True
    return found


def _pieces(
    line: Line, is_there: NDArray[np.bool_], lost: Mapping[int, BaseException], offset: int
) -> list[Line]:
    """Cut a line of which some texts have no vector.

    Args:
        line: the line.
        is_there: which of its texts have one.
        lost: why others have none, by their position from `offset` on.
        offset: the position of its first text.
    """
    missing = np.flatnonzero(~is_there).tolist()
    borders = {border for position in missing for border in (position, position + 1)}
    pieces: list[Line] = []
    start = 0
    for piece in cut(line, borders, name=new_id, sent=line.sent):
        error = lost.get(offset + start)
        if is_there[start]:
            pieces.append(replace(piece, state="done"))
        elif error is None or passes(error) or isinstance(error, NotSentError | BudgetError):
            pieces.append(piece)  # another request may bring it yet
        else:
            pieces.append(replace(piece, state="failed", error=diagnose(error).signature))
        start += len(piece.keys)
    return pieces
