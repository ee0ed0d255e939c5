"""Reads and embeds documents ahead of the store, up to a limit.

Until the store has accepted something, only a few texts are embedded, so that a wrong table is
noticed before thousands of texts are paid for. If it has asked for none of these, because it adds a
title to each text, say, nothing more is embedded ahead of it.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice

from langchain_batch_embed.calls.prefetch import RUNS, Prefetch
from langchain_batch_embed.stores.documents import Item, Reader

__all__ = ["Ahead", "Batch"]

logger = logging.getLogger(__name__)

LEAST = 32
"""Documents that are worth a call to the store while the rest of their batch is being embedded. A
store that is slower than the embedding then waits as little as possible. More vectors arrive during
a call, so calls stay small only while the store is the faster one."""

FIRST = 100
"""Texts to embed ahead until the store has accepted one. Most providers take them in one
request."""

Complete = Callable[[Sequence[str]], Mapping[int, BaseException]]


class Batch:
    """The next documents for the store.

    Attributes:
        items: all its documents.
        good: documents that have a vector.
        failed: documents that have none, each with its error.
        is_whole: whether these are all documents of their batch. If not, others were handed out
            before, or are still being embedded.
    """

    def __init__(
        self, items: Sequence[Item], failed: Mapping[int, BaseException], *, is_whole: bool
    ) -> None:
        self.items = items
        self.good = [item for position, item in enumerate(items) if position not in failed]
        self.failed = [(items[position], failed[position]) for position in sorted(failed)]
        self.is_whole = is_whole


class Ahead:
    """The documents that were read and are not written yet.

    Args:
        reader: reads the documents.
        prefetch: embeds their texts, and keeps the vectors until they are released.
        complete: waits for the vectors of some texts in the prefetch; returns the positions that
            failed, with their errors.
        most: largest number of documents to read ahead.
        cancelled: set it, and call `wake`, to stop from another thread.
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
        self._is_useful = True  # the store asks for the texts that are embedded ahead
        self._reader = reader
        self._prefetch = prefetch
        self._complete = complete
        self._most = most
        self._cancelled = cancelled
        self._queue: deque[Item] = deque()
        self._handed_out = 0
        self._kept = 0

    def read(self) -> bool:
        """Read more documents; return whether there are any to write."""
        # Announce enough for a full run of the prefetch, instead of a small run for each batch.
        step = max(1, self._most // RUNS)
        while self._most - len(self._queue) >= step:
            items = self._reader.next(step)
            if not items:
                break
            self._queue.extend(items)
            if self._is_useful:
                self._prefetch.announce([item.document.page_content for item in items])
        return bool(self._queue)

    def go_on(self) -> None:
        """Embed as far ahead as allowed, because the store has accepted something.

        If it asked for none of the texts, embed nothing ahead: all would be paid for twice.
        """
        if self._is_proven:
            return
        self._is_proven = True
        self._is_useful = self._prefetch.was_asked
        if self._is_useful:
            self._prefetch.go_ahead()
        else:
            logger.warning(
                "the store does not ask for the vectors of the documents' own texts (it may change "
                "them first), so ingest embeds nothing ahead of it any more"
            )

    def next(self, size: int) -> Batch:
        """Wait for vectors, and return the next documents that are worth a call to the store.

        Args:
            size: documents in a batch. A batch that is not ready at once is handed out in parts.
        """
        rest = size - self._handed_out % size
        most = rest if self._is_proven else min(rest, FIRST)
        failed: Mapping[int, BaseException] = {}
        if self._is_useful:
            texts = self._texts(most)
            count = self._prefetch.wait_for_some(texts, least=LEAST, cancelled=self._cancelled)
            failed = self._complete(list(self._texts(count)))
        else:
            count = min(most, len(self._queue))
        items = [self._queue.popleft() for _ in range(count)]
        from_start = rest == size or not self._is_proven
        self._handed_out += count
        return Batch(items, failed, is_whole=from_start and (count == most or not self._queue))

    def release(self, items: Sequence[Item], *, lost: Sequence[int] = ()) -> None:
        """Drop the vectors of documents that were written or have failed.

        Args:
            items: the documents.
            lost: positions of documents that the store refused. Their vectors are kept elsewhere,
                up to a limit, because the user will try to write them again.
        """
        if not self._is_useful:
            return
        if lost and self._kept < self._most:
            self._kept += len(lost)
            indices = set(lost)
            self._prefetch.keep_elsewhere(
                item.document.page_content for item in items if item.index in indices
            )
        self._prefetch.release(item.document.page_content for item in items)

    def _texts(self, count: int) -> Iterator[str]:
        return (item.document.page_content for item in islice(self._queue, count))
