"""Reads and embeds ahead of the store, no further than is allowed and than has proved to be of use.

Until the store has taken something, only a few texts are paid for: a wrong table is noticed before
thousands are.
"""

import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from itertools import islice

from langchain_batch_embed.calls.prefetch import RUNS, Prefetch
from langchain_batch_embed.stores.documents import Item, Reader

__all__ = ["Ahead", "Batch"]

LEAST = 32
"""Documents that are worth a call of the store while the rest of their batch is on its way. A store
that is slower than the embedding then waits as little as possible. During a call more vectors
arrive, so calls stay small only while the store is faster."""

FIRST = 100
"""Texts that are embedded ahead until the store has taken one: one request to most providers."""

Complete = Callable[[Sequence[str]], Mapping[int, BaseException]]


class Batch:
    """The next documents for the store.

    Attributes:
        items: all of them.
        good: those with a vector.
        failed: those without, and why.
        is_whole: whether they are a batch of their own; else others of it were handed out before,
            or are on their way.
    """

    def __init__(
        self, items: Sequence[Item], failed: Mapping[int, BaseException], *, is_whole: bool
    ) -> None:
        self.items = items
        self.good = [item for position, item in enumerate(items) if position not in failed]
        self.failed = [(items[position], failed[position]) for position in sorted(failed)]
        self.is_whole = is_whole


class Ahead:
    """The documents that are read and not written yet.

    Args:
        reader: reads them.
        prefetch: embeds them, and keeps vectors until they are released.
        complete: waits for the vectors of some texts in the prefetch; returns the positions that
            failed, and why.
        most: documents that are read ahead.
        cancelled: set, with a `wake`, to stop from another thread.
    """

    def __init__(
        self,
        reader: Reader,
        prefetch: Prefetch,
        complete: Complete,
        *,
        most: int,
        cancelled: threading.Event | None,
    ) -> None:
        self._is_proven = False
        self._reader = reader
        self._prefetch = prefetch
        self._complete = complete
        self._most = most
        self._cancelled = cancelled
        self._queue: deque[Item] = deque()
        self._handed_out = 0

    def read(self) -> bool:
        """Read on; return whether there is anything to write."""
        # A full run of the prefetch at a time, not a small run for each batch.
        step = max(1, self._most // RUNS)
        while self._most - len(self._queue) >= step:
            items = self._reader.next(step)
            if not items:
                break
            self._queue.extend(items)
            self._prefetch.announce([item.document.page_content for item in items])
        return bool(self._queue)

    def go_on(self) -> None:
        """Embed as far ahead as is allowed: the store has taken something."""
        if not self._is_proven:
            self._is_proven = True
            self._prefetch.go_ahead()

    def next(self, size: int) -> Batch:
        """Wait for vectors, and return the next documents that are worth a call of the store.

        Args:
            size: documents of a batch. One that cannot be had at once is handed out in parts.
        """
        rest = size - self._handed_out % size
        most = rest if self._is_proven else min(rest, FIRST)
        texts = (item.document.page_content for item in islice(self._queue, most))
        count = self._prefetch.wait_for_some(texts, least=LEAST, cancelled=self._cancelled)
        items = [self._queue.popleft() for _ in range(count)]
        failed = self._complete([item.document.page_content for item in items])
        from_start = rest == size or not self._is_proven
        self._handed_out += count
        return Batch(items, failed, is_whole=from_start and (count == most or not self._queue))

    def release(self, items: Sequence[Item]) -> None:
        """Drop the vectors of documents that are written, or have failed."""
        self._prefetch.release(item.document.page_content for item in items)
