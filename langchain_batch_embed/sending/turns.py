"""Chooses which call of one object sends next at a deployment. Pure decisions.

Turns alternate between the oldest call and the one with the least work left, so that a query does
not wait for the end of a corpus, nor a corpus for the end of the queries. Calls of a single small
batch share requests.
"""

import math
from collections.abc import Sequence

from langchain_batch_embed.sending.budget import Budget
from langchain_batch_embed.sending.deployment import Deployment
from langchain_batch_embed.sending.queue import Queue
from langchain_batch_embed.sending.work import Batch

__all__ = ["Turns"]

LINGER = 0.008
"""Seconds that a small call waits for others to share its request, for each shared request that is
in flight. If none is, it waits only if several calls are waiting and a shared request was sent
within that time. So a single query, or one in a loop, is sent at once."""

LONGEST_LINGER = 0.02
"""Longest such wait, in seconds."""

SHARED_TOKENS = 64_000
"""Most tokens in a request that several calls share."""

Turn = Sequence[tuple[Queue, Batch]]


class Turns:
    """The running calls, and which of them sends next.

    Attributes:
        queues: all running calls, the oldest first.
        large: the calls that do not share requests.
        with_deadline: the calls with a deadline.
    """

    def __init__(self) -> None:
        self.queues: dict[Queue, None] = {}  # a set that keeps its order
        self.large: dict[Queue, None] = {}
        self.with_deadline: dict[Queue, None] = {}
        self._small: dict[Queue, float] = {}  # with the time at which each was added
        self._small_in_flight: list[Queue] = []  # one call of each shared request in flight
        self._sent = -math.inf  # when the last shared request was sent
        self._turn = 0
        # Tokens that overtook the batch whose turn it is, by deployment.
        self._overtaken: dict[int, int] = {}

    @property
    def end(self) -> float:
        """The latest deadline of all calls."""
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
        """Let a call send again what it sent in a shared request.

        Args:
            queue: the call.
            now: the time.
            alone: whether to send it by itself, as one of its texts may be the cause of a failure.
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
        """Return the batches of the next request, or the seconds until there may be one.

        While a batch waits for quota in its turn, others may overtake it, with no more tokens in
        all than it has itself.

        Args:
            at: the deployment of the request.
            now: the time.
        """
        waiting: list[tuple[Queue, Batch]] = []
        wait = math.inf
        for queue in self.large:
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
        for queue, _ in waiting if delay == math.inf else ():
            queue.full_at.add(at.number)
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
        """Return the small calls for a shared request, or the seconds until there are some."""
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
    """Return whether calls that share a budget can afford one more batch in this request."""
    if budget is None:
        return True
    spent = sum(other.tokens for queue, other in shared if queue.work.budget is budget)
    return spent + batch.tokens <= budget.left


def _affordable(queue: Queue, at: Deployment, now: float) -> Batch | None:
    """Return the next batch of a call; give the call up if it can afford no more."""
    batch, budget = queue.peek(at, now), queue.work.budget
    if batch is None or budget is None or batch.tokens <= budget.left:
        return batch
    if budget.is_settled:  # else answers may cost less than expected
        queue.give_up(budget.error())
    return None
