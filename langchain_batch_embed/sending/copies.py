"""Chooses which late request to send a second time, and where to. Pure decisions.

There are two reasons for a copy. A straggler at the end of a call holds up all of it; its copy is
paid from a budget (`Hedges`). And a request of several deployments may be in flight only at one
that has stopped.
"""

import math
from dataclasses import dataclass

from langchain_batch_embed.sending.choice import Choice
from langchain_batch_embed.sending.deployment import Deployment
from langchain_batch_embed.sending.queue import Queue
from langchain_batch_embed.sending.turns import Turns
from langchain_batch_embed.sending.work import Batch

__all__ = ["Copies", "Copy"]


@dataclass(frozen=True, slots=True)
class Copy:
    """A batch in flight that is sent a second time.

    Attributes:
        queue: its queue.
        batch: the batch.
        at: the deployment that gets the copy.
        is_hedge: whether it is paid from the budget for stragglers.
    """

    queue: Queue
    batch: Batch
    at: Deployment
    is_hedge: bool = False


class Copies:
    """Finds the batches of all calls that are worth a copy.

    Args:
        turns: the calls.
        choice: the deployments.
    """

    def __init__(self, turns: Turns, choice: Choice) -> None:
        self._turns = turns
        self._choice = choice

    def next(self, now: float, wait: float) -> Copy | float:
        """Return the next copy, or the seconds until there may be one, at most `wait`."""
        if len(self._choice.deployments) > 1:
            rescued = self.rescued(now)
            if isinstance(rescued, Copy):
                return rescued
            wait = min(wait, rescued)
        for queue in self._turns.large:
            batch, delay = queue.straggler(now)
            if batch is None:
                wait = min(wait, delay)
                continue
            left = queue.stuck_charge(batch.at[-1:])
            at, delay = self._choice.for_copy(batch.charge, now, left=left, but=batch.at)
            if at is None:
                continue
            if delay == 0 and queue.affords(batch):
                return Copy(queue, batch, at, is_hedge=True)
            if not at.is_alone and delay > 0:
                wait = min(wait, delay)
        return wait

    def rescued(self, now: float, *, first: bool = False) -> Copy | float:
        """Return a copy of a request that is in flight only at stopped deployments, or a delay.

        Args:
            now: the time.
            first: whether to copy it even before unsent batches.
        """
        wait, stopped = math.inf, set[int]()
        for each in self._choice.deployments:
            if each.pacer.in_flight:
                delay = self._choice.stops_in(each.number, now, for_good=first)
                if delay > 0:
                    wait = min(wait, delay)
                else:
                    stopped.add(each.number)
        for queue in self._turns.queues if stopped else ():
            batch = queue.stuck(stopped, first=first)
            if batch is None:
                continue
            left = queue.stuck_charge(stopped)
            at, delay = self._choice.for_copy(batch.charge, now, left=left, but=stopped)
            if at is not None and delay == 0 and queue.affords(batch):
                return Copy(queue, batch, at)
            wait = min(wait, delay or math.inf)
        return wait
