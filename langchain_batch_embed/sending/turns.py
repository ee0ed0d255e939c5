"""Whose turn it is at one deployment: a pure choice among the calls of one object.

Turns alternate between the oldest call and the one with the least work left: so a query need not
wait for the end of a corpus, nor a corpus for that of the queries. Calls that are one small batch
share a request with others of their kind.
"""

import math
from collections.abc import Sequence

from langchain_batch_embed.sending.budget import Budget
from langchain_batch_embed.sending.deployment import Deployment
from langchain_batch_embed.sending.queue import Queue
from langchain_batch_embed.sending.work import Batch

__all__ = ["Turns"]

LINGER = 0.008
"""Seconds that a small call waits for others to share its request with, for each request with small
calls that is in flight. If none is in flight, it waits only where several calls are waiting and a
request was sent within that time. So a single query, and those of a loop, are sent at once."""

LONGEST_LINGER = 0.02
"""It never waits for longer than this many seconds."""

SHARED_TOKENS = 64_000
"""Tokens of a request that several calls share, at most."""

Turn = Sequence[tuple[Queue, Batch]]


class Turns:
    """The calls under way, and which of them sends next.

    Attributes:
        queues: all calls under way, the oldest first.
        large: those that take turns of their own.
        with_deadline: those that must end in time.
    """

    def __init__(self) -> None:
        self.queues: dict[Queue, None] = {}  # a set that keeps its order
        self.large: dict[Queue, None] = {}
        self.with_deadline: dict[Queue, None] = {}
        self._small: dict[Queue, float] = {}  # and when each was added
        self._small_in_flight: list[Queue] = []  # the first of each request with small calls
        self._sent = -math.inf  # the last request with small calls
        self._turn = 0
        # Tokens that were let past the one whose turn it is, by deployment.
        self._overtaken: dict[int, int] = {}

    @property
    def end(self) -> float:
        """When the last deadline of the calls is."""
        return max((queue.end for queue in self.queues), default=math.inf)

    def add(self, queue: Queue, now: float) -> None:
        """Add a call."""
        self.queues[queue] = None
        if queue.end < math.inf:
            self.with_deadline[queue] = None
        if queue.is_small:
            self._small[queue] = now
        else:
            self.large[queue] = None

    def come_back(self, queue: Queue, now: float, *, alone: bool) -> None:
        """Let a call send again what it sent with others.

        Args:
            queue: the call.
            now: the time.
            alone: not with others again: one of its texts may be the cause.
        """
        if queue not in self.queues or queue in self.large:
            return
        if alone or not queue.is_small:
            self._small.pop(queue, None)
            self.large[queue] = None
        else:
            self._small[queue] = now

    def remove(self, queue: Queue) -> None:
        """Forget a call."""
        self.queues.pop(queue, None)
        self.large.pop(queue, None)
        self._small.pop(queue, None)
        self.with_deadline.pop(queue, None)

    def next(self, at: Deployment, now: float) -> Turn | float:
        """Return the batches that share the next request, or the seconds until there may be some.

        While a batch waits for quota in its turn, others may overtake it, by no more tokens than
        it has itself.

        Args:
            at: where the request is sent.
            now: the time.
        """
        waiting: list[tuple[Queue, Batch]] = []
        wait = math.inf
        for queue in self.large:
            queue.waits_for_answers = False
            batch = _affordable(queue, at, now)
            if batch is None:
                wait = min(wait, queue.due(now))
            else:
                waiting.append((queue, batch))
        shared, delay = self._gather(at, now)
        wait = min(wait, delay)
        if shared:
            waiting.append(shared[0])
        if not waiting:
            return wait
        oldest = waiting[0]
        if len(waiting) > 1:
            waiting.sort(key=lambda each: each[0].left())
        turn = oldest if self._turn % 2 else waiting[0]
        delay = at.pacer.delay(self._charge(turn, shared), now)
        if delay <= 0:
            self._turn += 1
            self._overtaken[at.number] = 0
            return self._take(turn, shared, at, now)
        for queue, _ in waiting:
            queue.waits_for_answers = delay == math.inf
        for other in waiting:
            charge = self._charge(other, shared)
            overtaken = self._overtaken.get(at.number, 0) + charge
            fits = overtaken <= self._charge(turn, shared)
            if other is not turn and fits and at.pacer.delay(charge, now) <= 0:
                self._overtaken[at.number] = overtaken
                return self._take(other, shared, at, now)
        return min(wait, delay)

    def _take(
        self,
        turn: tuple[Queue, Batch],
        shared: list[tuple[Queue, Batch]],
        at: Deployment,
        now: float,
    ) -> Turn:
        if not shared or turn is not shared[0]:
            turn[0].take(turn[1], at, now)
            return [turn]
        for queue, batch in shared:
            queue.take(batch, at, now)
            del self._small[queue]
            if len(batch.rows) < queue.open:  # it needs more than one request
                self.large[queue] = None
        self._small_in_flight.append(shared[0][0])
        self._sent = now
        return shared

    def _gather(self, at: Deployment, now: float) -> tuple[list[tuple[Queue, Batch]], float]:
        """Return the small calls that are to share a request, or the seconds until there are."""
        if not self._small:
            return [], math.inf
        self._small_in_flight = [q for q in self._small_in_flight if q.in_flight]
        is_crowd = len(self._small) > 1 and now < self._sent + LINGER
        linger = min(LONGEST_LINGER, LINGER * max(len(self._small_in_flight), is_crowd))
        shared: list[tuple[Queue, Batch]] = []
        items = tokens = charge = 0
        wait = math.inf
        for queue, added in self._small.items():
            batch = _affordable(queue, at, now)
            if batch is None:
                wait = min(wait, queue.due(now))
                continue
            if not shared and added + linger > now + 1e-9:
                return [], min(wait, added + linger - now)
            items += len(batch.rows)
            tokens += batch.tokens
            charge += batch.charge
            work = queue.work
            fits = (
                work.sends == shared[0][0].work.sends
                and items <= min(work.max_items, at.limits.items)
                and tokens <= min(work.max_tokens, at.limits.tokens, SHARED_TOKENS)
                and charge <= at.pacer.batch_sizes.largest()
                and _can_afford(shared, batch, work.budget)
                if shared
                else True
            )
            if not fits:
                break
            shared.append((queue, batch))
        return shared, wait

    def _charge(self, turn: tuple[Queue, Batch], shared: Sequence[tuple[Queue, Batch]]) -> int:
        if shared and turn is shared[0]:
            return sum(batch.charge for _, batch in shared)
        return turn[1].charge


def _can_afford(shared: Sequence[tuple[Queue, Batch]], batch: Batch, budget: Budget | None) -> bool:
    """Tell whether calls that share a budget can afford to send one more batch together."""
    if budget is None:
        return True
    spent = sum(other.tokens for queue, other in shared if queue.work.budget is budget)
    return spent + batch.tokens <= budget.left


def _affordable(queue: Queue, at: Deployment, now: float) -> Batch | None:
    """Return the batch that is to start next; give the call up if it can afford no more."""
    batch, budget = queue.peek(at, now), queue.work.budget
    if batch is None or budget is None or batch.tokens <= budget.left:
        return batch
    if budget.is_settled:  # else answers may have cost less than was expected
        queue.give_up(budget.error())
    return None
