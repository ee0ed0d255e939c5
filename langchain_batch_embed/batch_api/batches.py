"""Creates a part's batch, searches for it if its creation is in doubt, polls and cancels it."""

import logging
from collections.abc import Sequence
from dataclasses import replace

from langchain_batch_embed.batch_api import decisions
from langchain_batch_embed.batch_api.decisions import BatchView
from langchain_batch_embed.batch_api.faults import Fault, Reason, reason_of, refused, told_limit
from langchain_batch_embed.batch_api.records import Part
from langchain_batch_embed.batch_api.service import faults_of, is_doubtful
from langchain_batch_embed.batch_api.successors import Successors
from langchain_batch_embed.batch_api.supply import Supply
from langchain_batch_embed.batch_api.tools import Tools
from langchain_batch_embed.pacing.diagnosis import Kind, diagnose

__all__ = ["Batches"]

logger = logging.getLogger(__name__)

_RATE_PAUSE = 30.0
"""Seconds to wait after a rate limit has refused to create a batch."""


class Batches:
    """Takes each part through the states of its batch.

    Args:
        tools: the store, the service and the other tools of a job.
        supply: uploads the files of parts.
        successors: moves lines into new parts.
    """

    def __init__(self, tools: Tools, supply: Supply, successors: Successors) -> None:
        self._store = tools.store
        self._service = tools.service
        self._now = tools.calendar.time
        self._space = tools.space.digest
        self._supply = supply
        self._successors = successors

    def create(self, part: Part) -> Part | None:
        """Request a part's batch, once; return `None` if other parts have its lines now."""
        limit = self._store.limit(self._space, now=self._now())
        if part.tokens > limit and self._successors.repack(part, limit):
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
        assert part.file_id is not None  # noqa: S101  # a `ready` part has a file
        try:
            view = self._service.create(part.file_id, part.intent)
        except Exception as error:  # noqa: BLE001  # whatever the SDK raises
            if is_doubtful(error):
                logger.info(
                    "the server may or may not have created a batch (%s); looking for it",
                    type(error).__name__,
                )
                return part
            return self._refused(part, error)
        return self._created(part, view)

    def look(self, part: Part) -> Part:
        """Search for a batch whose creation was not confirmed."""
        view = self._service.find(part.intent, part.anchor)
        if view is None:
            return self._store.save_part(decisions.unseen(part, now=self._now()))
        return self._created(part, view)

    def poll(self, part: Part) -> Part | None:
        """Ask for a batch's progress; return `None` if other parts have the part's lines now."""
        assert part.batch_id is not None  # noqa: S101  # a `running` part has a batch
        view = self._service.retrieve(part.batch_id)
        if view.status == "failed":
            return self._failed(part, view.faults)
        seen = decisions.observed(part, view, now=self._now())
        if seen.state == "ended":
            self._store.let_queue_move(self._space)
        return self._store.save_part(seen)

    def cancel(self, part: Part) -> Part:
        """Ask the server to cancel a running batch."""
        assert part.batch_id is not None  # noqa: S101  # a `running` part has a batch
        self._service.cancel(part.batch_id)
        return self._store.save_part(replace(part, is_cancelling=True, not_before=0.0))

    def _created(self, part: Part, view: BatchView) -> Part:
        self._store.add_to_job(part.job, batches=1)
        return self._store.save_part(decisions.created(part, view, now=self._now()))

    def _refused(self, part: Part, error: Exception) -> Part | None:
        """Return a part after the server refused to create its batch; `None` as for `_failed`."""
        faults = faults_of(error)
        ready = replace(part, state="ready", asked=0.0)
        if reason_of(faults) in (Reason.ODD, Reason.LINES, Reason.FATAL):
            kind = diagnose(error).kind
            if kind is Kind.THROTTLED:
                return self._store.save_part(replace(ready, not_before=self._now() + _RATE_PAUSE))
            if kind is not Kind.REFUSED:
                self._store.save_part(ready)
                raise error
        return self._failed(part, faults)

    def _failed(self, part: Part, faults: Sequence[Fault]) -> Part | None:
        """Return a part after its batch failed, or `None` if other parts have its lines now."""
        now = self._now()
        limit = told_limit(faults)
        if limit is not None:
            self._store.learn_limit(self._space, limit, now)
        if reason_of(faults) is Reason.LINES and self._successors.isolate(part, refused(faults)):
            return None
        others = self._store.enqueued(self._space) - part.tokens
        waiting = decisions.failed(
            part,
            faults,
            now=now,
            limit=self._store.limit(self._space, now=now),
            in_queue=others > 0,
        )
        part = self._store.save_part(waiting.part)
        if waiting.fatal is not None:
            self._store.change_job(part.job, fatal=waiting.fatal)
        elif (waiting.repack is not None and self._successors.repack(part, waiting.repack)) or (
            waiting.again and self._supply.upload_again(part)
        ):
            return None
        return part
