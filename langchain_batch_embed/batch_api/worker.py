"""Works on a job by taking each part through the steps that `decisions` chooses.

Each step is in the journal before it starts and after it ends. Only one process at a time works on
the jobs of a journal, and the caller holds the lock.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace

from langchain_batch_embed.batch_api import decisions
from langchain_batch_embed.batch_api.batches import Batches
from langchain_batch_embed.batch_api.collect import Collector
from langchain_batch_embed.batch_api.decisions import Step
from langchain_batch_embed.batch_api.faults import passes
from langchain_batch_embed.batch_api.ordinary import OrdinaryRequests
from langchain_batch_embed.batch_api.records import JobRecord, Part
from langchain_batch_embed.batch_api.successors import Successors
from langchain_batch_embed.batch_api.supply import Supply
from langchain_batch_embed.batch_api.tools import Tools, new_id

__all__ = ["Worker"]

logger = logging.getLogger(__name__)


class Worker:
    """Works on jobs, one round of one job at a time.

    Args:
        tools: the store, the service and the other tools of a job.
        given: texts by their keys, for parts that have no file yet.

    Attributes:
        stranded: how many texts cannot be found, because the process that submitted them ended
            before it had uploaded them.
    """

    def __init__(self, tools: Tools, given: Mapping[bytes, str] | None = None) -> None:
        self._store = tools.store
        self._service = tools.service
        self._now = tools.calendar.time
        self._space = tools.space.digest
        successors = Successors(tools)
        self._supply = Supply(tools, successors, given or {})
        self._batches = Batches(tools, self._supply, successors)
        self._collector = Collector(tools, successors)
        self._ordinary = OrdinaryRequests(tools, self._supply, self._batches)
        self._steps = {
            Step.SUPPLY: self._supply.upload,
            Step.CREATE: self._batches.create,
            Step.LOOK: self._batches.look,
            Step.POLL: self._batches.poll,
        }
        self.stranded = 0
        self._lacks_room = False

    def round(self, job_id: str, *, takes_over: bool = True) -> float:
        """Do everything that can be done for a job now.

        Args:
            job_id: the job.
            takes_over: also send late texts by ordinary requests, which takes a while.

        Returns:
            Seconds until there is more to do; infinite if there is nothing left.

        Raises:
            Exception: whatever the SDK raises. All work done before is in the journal.
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
        self._supply.sweep()
        return max(0.0, min(due) - self._now())

    def _make_room(self, done: Sequence[str]) -> None:
        """Work on other jobs, whose batches may have ended while no process waits for them."""
        for job in self._store.jobs():
            if job.ended is None and job.space == self._space and job.id not in done:
                try:
                    self._round(job, takes_over=False)
                except Exception as error:  # noqa: BLE001  # callers waiting for it see it
                    logger.info("job %s cannot continue for now: %s", job.id, type(error).__name__)

    def _round(self, job: JobRecord, *, takes_over: bool) -> float:
        """Work on one job, and return the time of its next step."""
        if job.ended is not None:
            return float("inf")
        passing: list[Exception] = []
        due = []
        parts = self._store.parts(job.id)
        late = self._ordinary.late(job, parts).take
        for part in parts:
            try:
                due.append(self._work_on(job, part, is_late=part.id in late))
            except Exception as error:  # the other parts and the late texts still get their turn
                if not passes(error):
                    raise
                passing.append(error)
        if takes_over:
            due.append(self._ordinary.take_over(job.id))
        self._end(job.id)
        if passing:
            raise passing[0]
        return min(due, default=float("inf"))

    def _work_on(self, job: JobRecord, part: Part, *, is_late: bool) -> float:
        """Take a part through its steps until it has to wait; return the time of the next step."""
        while True:
            if self._store.job(job.id).fatal is not None:
                self._give_up(part)
                return self._now()
            now = self._now()
            limit = self._store.limit(self._space, now=now)
            room = limit - self._store.enqueued(self._space)
            if part.tokens > limit:  # it can never fit, so `Batches.create` cuts it
                room = part.tokens
            is_cancelled = job.cancelled is not None
            if is_cancelled and part.state == "running" and not part.is_cancelling:
                part = self._batches.cancel(part)
            step = decisions.next_step(
                part, now=now, room=room, is_cancelled=is_cancelled, is_late=is_late
            )
            if step.step is Step.REST:
                self._lacks_room |= part.state == "ready" and room < part.tokens
                return step.until
            if step.step is Step.COLLECT:
                self._collector.collect(self._store.job(job.id), part)
                return now  # its successors are due at once
            found = self._steps[step.step](part)
            if found is None:
                if self._store.part(part.id).state == "closed":  # other parts have its lines now
                    return now
                self.stranded += part.texts  # its texts cannot be found
                return float("inf")
            part = found

    def _give_up(self, part: Part) -> None:
        """Close a part of a job that cannot continue, and mark its lines as failed."""
        job = self._store.job(part.job)
        if part.state == "running" and part.batch_id is not None:
            self._service.cancel(part.batch_id)
        lost = [
            replace(line, id=new_id(), state="failed", error=job.fatal)
            for line in self._store.lines(part.id)
        ]
        self._store.replace_lines(part, [], lost, space=self._space)

    def _end(self, job_id: str) -> None:
        """End a job that has no open part, once the jobs that it waits for have ended."""
        if not self._store.parts(job_id):
            job = self._store.job(job_id)
            if all(self._store.job(other).ended is not None for other in job.waits_for):
                self._store.end(job_id, self._now())
