"""Keeps account of what happened to each document of an ingest.

Pure bookkeeping: no clock, thread or I/O.
"""

from collections.abc import Sequence
from typing import Literal

from langchain_batch_embed.causes import causes
from langchain_batch_embed.report import IngestFailure
from langchain_batch_embed.stores.documents import Item
from langchain_batch_embed.stores.streak import Streak

__all__ = ["Written"]


class Written:
    """Counts the documents that are stored, lost, or possibly stored.

    Attributes:
        stored: documents that are in the store.
        replaced: documents replaced by a later one with the same id in the same batch.
        ids: ids of the stored rows, where they are known.
        failures: documents that are not in the store, with their errors.
        unknown: positions of documents that may or may not be in the store.
        retries: failed calls that were made again, whole or in parts.
        settled: positions of documents that are counted above; the ingest clears it for each batch.
        streak: failures in a row, including those of embedding.
    """

    def __init__(self) -> None:
        self.stored = 0
        self.replaced = 0
        self.ids: list[str] = []
        self.failures: list[IngestFailure] = []
        self.unknown: list[int] = []
        self.retries = 0
        self.settled: set[int] = set()
        self.streak = Streak()

    def store(self, items: Sequence[Item], ids: Sequence[str]) -> None:
        """Record documents that are in the store, and the ids of their rows."""
        if items:
            self.streak.stored()
            self.settled.update(item.index for item in items)
            self.stored += len(items)
            self.ids += ids

    def replace(self, items: Sequence[Item]) -> None:
        """Record documents that a later one with the same id replaces."""
        self.settled.update(item.index for item in items)
        self.replaced += len(items)

    def lose(
        self, item: Item, stage: Literal["embedding", "writing"], error: BaseException
    ) -> None:
        """Record a document that is not in the store."""
        for link in causes(error):
            link.__traceback__ = None  # its frames would keep whole batches in memory
        self.settled.add(item.index)
        own = None if item.made else item.id
        self.failures.append(IngestFailure(index=item.index, id=own, stage=stage, error=error))

    def doubt(self, items: Sequence[Item]) -> None:
        """Record documents that may or may not be in the store."""
        indices = [item.index for item in items]
        self.unknown += indices
        self.settled.update(indices)
