"""The batches of one call that failed or were refused, or their parts, until they are sent again.

Some are ready. The others wait for a time, for an answer to a later request, or until the parts of
another batch have shown why both were refused. Pure: time is handed in.
"""

import heapq
import itertools
import math
from collections import deque
from collections.abc import Sequence

from langchain_batch_embed.sending.work import Batch

__all__ = ["Waiting"]


class Waiting:
    """The batches of one call that wait to be sent again.

    The queue takes batches out of `ready`, or puts them in; all other changes are methods.

    Attributes:
        ready: batches that may be sent now, in this order.
        delayed: a heap of batches that wait for a time: when they are due, a number that keeps the
            heap from comparing batches, and the batch.
        deferred: batches that wait until a request from this number on is answered.
    """

    def __init__(self) -> None:
        self.ready: deque[Batch] = deque()
        self.delayed: list[tuple[float, int, Batch]] = []
        self.deferred: list[tuple[int, Batch]] = []
        self._number = itertools.count()
        self._parked: dict[int, Batch] = {}  # wait for the parts of another batch

    @property
    def are_few(self) -> bool:
        """Whether at most one batch waits, and not for other batches."""
        return len(self.ready) + len(self.delayed) <= 1 and not (self._parked or self.deferred)

    @property
    def all(self) -> Sequence[Batch]:
        """All batches that wait."""
        return [
            *self.ready,
            *(batch for _, _, batch in self.delayed),
            *self._parked.values(),
            *(batch for _, batch in self.deferred),
        ]

    def clear(self) -> None:
        """Forget all batches."""
        self.ready.clear()
        self.delayed.clear()
        self._parked.clear()
        self.deferred.clear()

    # For a time.

    def delay(self, batch: Batch, until: float) -> None:
        """Let a batch wait until this time."""
        heapq.heappush(self.delayed, (until, next(self._number), batch))

    def due(self, now: float) -> float:
        """Return the seconds until a delayed batch is due; `inf` if there is none."""
        return max(0.0, self.delayed[0][0] - now) if self.delayed else math.inf

    def release_due(self, now: float) -> None:
        """Make the delayed batches ready that are due."""
        while self.delayed and self.delayed[0][0] <= now:
            batch = heapq.heappop(self.delayed)[2]
            batch.tried.clear()
            self.ready.appendleft(batch)

    def release_delayed(self) -> None:
        """Make all delayed batches ready, as the server is back.

        Those that failed most often go first. Otherwise, at a server that restarts again and
        again, they would always be in flight when it goes down next.
        """
        batches = sorted((batch for _, _, batch in self.delayed), key=lambda each: each.failures)
        for batch in batches:
            batch.tried.clear()
        self.delayed.clear()
        self.ready.extendleft(batches)

    def remove_delayed(self, batch: Batch) -> None:
        """Forget a delayed batch, as it is sent before it is due."""
        self.delayed = [each for each in self.delayed if each[2] is not batch]
        heapq.heapify(self.delayed)

    # For a later answer.

    def defer(self, batch: Batch, since: int) -> None:
        """Let a batch wait until a request from this number on is answered."""
        self.deferred.append((since, batch))

    def release_deferred(self, place: float = math.inf) -> None:
        """Make the deferred batches ready that wait for an answer to this or an earlier request."""
        self.ready.extendleft(batch for since, batch in self.deferred if since <= place)
        self.deferred = [each for each in self.deferred if each[0] > place]

    def take_deferred(self) -> Sequence[Batch]:
        """Return the deferred batches, and forget them."""
        deferred, self.deferred = self.deferred, []
        return [batch for _, batch in deferred]

    # For the parts of another batch.

    def park(self, batch: Batch) -> None:
        """Let a batch wait until the parts of another one have shown the cause."""
        self._parked[id(batch)] = batch

    def unpark(self, batch: Batch) -> None:
        """Make a parked batch ready."""
        if self._parked.pop(id(batch), None) is not None:
            self.ready.append(batch)
