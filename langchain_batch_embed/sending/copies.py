"""Chooses which late request to send a second time, and where to. Pure decisions.

There are two reasons for a copy. A straggler at the end of a call holds up all of it; its copy is
paid from a budget (`Hedges`). And a request of several deployments may be in flight only at one
that has stopped.
"""

import math
from collections.abc import Collection
from dataclasses import dataclass

from langchain_batch_embed.sending.choice import Choice
from langchain_batch_embed.sending.deployment import Deployment
from langchain_batch_embed.sending.queue import Queue
from langchain_batch_embed.sending.turns import Turns
from langchain_batch_embed.sending.work import Batch

__all__ = ["Copies", "Copy", "straggler", "stuck"]

MOST_COPIES = 2
"""Most copies of a request in flight. One copy in a hundred is late as well."""


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
            batch = straggler(queue, now)
            if isinstance(batch, float):
                wait = min(wait, batch)
                continue
            left = _stuck_charge(queue, batch.at[-1:])
            at, delay = self._choice.for_copy(batch.charge, now, left=left, but=batch.at)
            if at is None:
                continue
            if delay == 0 and _affords(queue, batch):
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
            batch = stuck(queue, stopped, first=first)
            if batch is None:
                continue
            left = _stuck_charge(queue, stopped)
            at, delay = self._choice.for_copy(batch.charge, now, left=left, but=stopped)
            if at is not None and delay == 0 and _affords(queue, batch):
                return Copy(queue, batch, at)
            wait = min(wait, delay or math.inf)
        return wait


def straggler(queue: Queue, now: float) -> Batch | float:
    """Return a batch of a call to send a second time, or the seconds until there may be one."""
    if queue.is_given_up or queue.has_unsent or queue.has_delayed:
        return math.inf
    silent = {each.number for each in queue.deployments if each.is_silent}
    late = [(each, _copies(each, silent)) for each in queue.in_flight.values()]
    patience = queue.hedges.patience(sum(batch.charge for batch, n in late if n <= 1))
    wait = math.inf
    for batch, copies in late:
        if not batch.is_awaited or copies > MOST_COPIES or not queue.hedges.affords(batch.charge):
            continue
        left = batch.sent + patience - now
        if left <= 0:
            return batch
        wait = min(wait, left)
    return wait


def stuck(queue: Queue, at: Collection[int], *, first: bool) -> Batch | None:
    """Return a batch of a call that is in flight only at these silent deployments, or `None`.

    Args:
        queue: the call.
        at: the numbers of the deployments.
        first: whether to return one even before unsent batches.
    """
    if queue.is_given_up or (not first and queue.has_unsent):
        return None
    batches = queue.in_flight.values()
    return next((batch for batch in batches if batch.is_awaited and _is_only(batch, at)), None)


def _stuck_charge(queue: Queue, at: Collection[int]) -> int:
    """Return the tokens of a call that are in flight only at these deployments."""
    return sum(batch.charge for batch in queue.in_flight.values() if _is_only(batch, at))


def _affords(queue: Queue, copy: Batch) -> bool:
    """Return whether the call's cost limit allows a copy of a batch."""
    budget = queue.work.budget
    return budget is None or copy.tokens <= budget.left


def _is_only(batch: Batch, at: Collection[int]) -> bool:
    """Return whether a batch is in flight at none but these deployments."""
    return all(number in at for number in batch.at)


def _copies(batch: Batch, silent: Collection[int]) -> int:
    """Return how many requests for a batch are in flight at deployments that answer."""
    return sum(number not in silent for number in batch.at)
