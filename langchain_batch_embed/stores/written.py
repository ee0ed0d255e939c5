"""What happened to each document of an ingest. Pure."""

from collections.abc import Sequence
from typing import Literal

from langchain_batch_embed.errors import causes
from langchain_batch_embed.report import IngestFailure
from langchain_batch_embed.stores.documents import Item
from langchain_batch_embed.stores.streak import Streak

__all__ = ["Written"]


class Written:
    """Counts documents that are stored, lost, or neither for certain.

    Attributes:
        stored: documents that are in the store.
        replaced: documents with an id that a later one of the same call has too.
        ids: what the store returned.
        failures: documents that are not in the store.
        unknown: positions of documents that may be in the store or not.
        retries: calls made again, or in parts.
        settled: positions of documents that are counted above; whoever reads them clears them.
        streak: failures in a row, those of embedding included.
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
        """Note documents that are in the store, and the ids of their rows."""
        if items:
            self.streak.stored()
            self.settled.update(item.index for item in items)
            self.stored += len(items)
            self.ids += ids

    def lose(
        self, item: Item, stage: Literal["embedding", "writing"], error: BaseException
    ) -> None:
        """Note a document that is not in the store."""
        for link in causes(error):
            link.__traceback__ = None  # its frames would keep whole batches in memory
        self.settled.add(item.index)
        own = None if item.made else item.id
        self.failures.append(IngestFailure(index=item.index, id=own, stage=stage, error=error))

    def doubt(self, items: Sequence[Item]) -> None:
        """Note documents that may be in the store or not."""
        indices = [item.index for item in items]
        self.unknown += indices
        self.settled.update(indices)
