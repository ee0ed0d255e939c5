"""Sends late texts by ordinary requests, at the full price."""

import logging
from collections.abc import Sequence

from langchain_batch_embed.batch_api import decisions, takeover
from langchain_batch_embed.batch_api.batches import Batches
from langchain_batch_embed.batch_api.packing import after
from langchain_batch_embed.batch_api.records import JobRecord, Part
from langchain_batch_embed.batch_api.supply import Supply
from langchain_batch_embed.batch_api.takeover import Takeover
from langchain_batch_embed.batch_api.tools import Tools, known, new_id

__all__ = ["OrdinaryRequests"]

logger = logging.getLogger(__name__)

_PAUSE = 1.0
"""Seconds until the next attempt when no late text could be sent."""

_warned: set[str] = set()
"""Jobs whose lateness has already been logged."""


class OrdinaryRequests:
    """Takes over the parts that the Batch API would finish too late.

    Args:
        tools: the store, the service and the other tools of a job.
        supply: finds the texts of parts.
        batches: cancels batches.
    """

    def __init__(self, tools: Tools, supply: Supply, batches: Batches) -> None:
        self._tools = tools
        self._store = tools.store
        self._now = tools.calendar.time
        self._supply = supply
        self._batches = batches

    def late(self, job: JobRecord, parts: Sequence[Part]) -> Takeover:
        """Return what ordinary requests have to take over; nothing if the budget forbids it."""
        if job.cancelled is not None or job.fatal is not None:
            return Takeover()
        plan = takeover.take_over(job, parts, now=self._now())
        if (plan.take or plan.cancel) and not takeover.may_take_over(job, parts):
            if job.id not in _warned:
                logger.warning(
                    "job %s is late, but max_dollars=%g is too low for ordinary requests",
                    job.id,
                    job.max_dollars,
                )
                _warned.add(job.id)
            return Takeover()
        return plan

    def take_over(self, job_id: str) -> float:
        """Send one portion of the late texts; return when to call again."""
        job = self._store.job(job_id)
        parts = {part.id: part for part in self._store.parts(job_id)}
        plan = self.late(job, list(parts.values()))
        for part_id in plan.cancel:
            self._batches.cancel(parts[part_id])
        for part_id in plan.take:
            if self._send(job, self._store.part(part_id)):
                return self._now()
        return max(plan.until, self._now() + _PAUSE)

    def _send(self, job: JobRecord, part: Part) -> bool:
        """Send some lines of a part now; return whether any text was embedded or has failed."""
        lines = self._store.lines(part.id)
        count = takeover.portion(lines, job.seconds / max(1, job.tokens))
        chunk, rest = lines[:count], lines[count:]
        texts = self._supply.texts(part, chunk)
        if texts is None:
            return False  # the texts are not available now
        keys = [key for line in chunk for key in line.keys]
        report, failures = self._tools.embed_now([texts[key] for key in keys])
        lost = {failure.index: failure.error for failure in failures}
        # Ask the journal, because a vector that could not be written does not count.
        is_there = known(self._tools.journal, keys)
        done, settled, still_open = takeover.sorted_out(chunk, is_there, lost, name=new_id)
        left = rest + still_open
        self._store.take_over(
            part,
            done,
            settled,
            (after(part, left, name=new_id), left) if left else None,
            full_tokens=report.tokens,
            requests=report.requests,
            overtaken=len(keys) if part.state in ("asked", "running") else 0,
        )
        barren = 0 if done or settled else self._store.job(job.id).barren + 1
        self._store.change_job(job.id, barren=barren)
        if not barren:
            return True
        fatal = decisions.hopeless(barren, "ordinary requests")
        if fatal is not None:
            self._store.change_job(job.id, fatal=fatal)
        return False
