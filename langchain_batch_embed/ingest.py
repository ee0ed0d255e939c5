"""Puts any number of documents into any vector store: embedding and writing overlap.

The store's own `add_documents` does the writing, in the caller's thread. What it asks its
embeddings for is there already, because the documents ahead of it are prefetched.
"""

import itertools
import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from langchain_core.documents import Document
from langchain_core.vectorstores import VectorStore

from langchain_batch_embed.errors import IngestError
from langchain_batch_embed.prefetch import Prefetch

__all__ = ["IngestFailure", "IngestReport", "Ingestion"]

logger = logging.getLogger(__name__)

FAILED_IN_A_ROW = 8
"""So many documents failed alone, and none got in between them: it is not the documents."""

Embed = Callable[[Sequence[str]], Mapping[int, BaseException]]


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestFailure:
    """A document that is not in the store.

    Attributes:
        index: its position among the documents that were given.
        id: its id, if it has one.
        stage: `"embedding"` or `"writing"`.
        error: why.
    """

    index: int
    id: str | None
    stage: Literal["embedding", "writing"]
    error: BaseException


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestReport:
    """What `ingest` did.

    Attributes:
        documents: how many were given.
        stored: how many of them are in the store now.
        failures: those that are not, in order.
        ids: the ids that the store returned, in the order of the documents stored.
        seconds: how long it took.
    """

    documents: int
    stored: int
    failures: tuple[IngestFailure, ...]
    ids: tuple[str, ...]
    seconds: float


@dataclass(frozen=True, slots=True)
class _Item:
    index: int
    document: Document
    id: str | None


class Ingestion:
    """One `ingest` under way; `steps` does the work, a batch of documents a step.

    Args:
        store: whose `add_documents` is called.
        documents: any iterable; read as far ahead as vectors may be buffered, and no further.
        ids: the documents' ids; `None`: those that the documents have.
        embed: waits for the vectors of some texts; returns the positions that failed, and why.
        prefetch: embeds ahead, and keeps vectors until they are released.
        batch_size: documents in one call of the store.
        ahead: documents that are read ahead.
    """

    def __init__(
        self,
        store: VectorStore,
        documents: Iterable[Document],
        *,
        ids: Iterable[str] | None,
        embed: Embed,
        prefetch: Prefetch,
        batch_size: int,
        ahead: int,
    ) -> None:
        self._store = store
        self._given = _items(documents, ids)
        self._embed = embed
        self._prefetch = prefetch
        self._batch_size = batch_size
        self._ahead = ahead
        self._queue: deque[_Item] = deque()
        self._failed_in_a_row = 0
        self._stored_ids: list[str] = []
        self._failures: list[IngestFailure] = []
        self.documents = 0
        self.stored = 0

    def steps(self) -> Iterator[int]:
        """Write batch after batch; yield how many documents are dealt with.

        Raises:
            IngestError: several documents in a row failed, each alone.
        """
        self._read(self._ahead)
        while self._queue:
            batch = [self._queue.popleft() for _ in range(min(self._batch_size, len(self._queue)))]
            texts = [item.document.page_content for item in batch]
            failed = self._embed(texts)
            for position in sorted(failed):
                self._lose(batch[position], "embedding", failed[position])
            self._write([item for i, item in enumerate(batch) if i not in failed])
            self._prefetch.release(texts)
            self._read(len(batch))
            yield len(batch)

    def report(self, seconds: float = 0.0) -> IngestReport:
        """Return what was done so far."""
        return IngestReport(
            documents=self.documents,
            stored=self.stored,
            failures=tuple(sorted(self._failures, key=lambda failure: failure.index)),
            ids=tuple(self._stored_ids),
            seconds=seconds,
        )

    def _read(self, count: int) -> None:
        items = list(itertools.islice(self._given, count))
        self.documents += len(items)
        self._queue.extend(items)
        self._prefetch.announce(item.document.page_content for item in items)

    def _write(self, items: Sequence[_Item]) -> None:
        """Write documents; those that the store refuses are found by halving, and noted."""
        if not items:
            return
        options: dict[str, Any] = {}
        if all(item.id is not None for item in items):
            options["ids"] = [item.id for item in items]
        try:
            written = self._store.add_documents([item.document for item in items], **options)
        except Exception as error:  # noqa: BLE001  # whatever this store's client raises
            if len(items) == 1:
                self._lose(items[0], "writing", error)
                return
            logger.info("writing %d documents: %s, halving", len(items), type(error).__name__)
            middle = len(items) // 2
            self._write(items[:middle])
            self._write(items[middle:])
        else:
            self.stored += len(items)
            self._failed_in_a_row = 0
            self._stored_ids.extend(written or ())

    def _lose(
        self, item: _Item, stage: Literal["embedding", "writing"], error: BaseException
    ) -> None:
        self._failures.append(IngestFailure(index=item.index, id=item.id, stage=stage, error=error))
        self._failed_in_a_row += 1
        if self._failed_in_a_row >= FAILED_IN_A_ROW:
            raise IngestError(self.report()) from error


def _items(documents: Iterable[Document], ids: Iterable[str] | None) -> Iterator[_Item]:
    if ids is None:
        for index, document in enumerate(documents):
            yield _Item(index, document, document.id)
        return
    for index, (document, name) in enumerate(zip(documents, ids, strict=True)):
        yield _Item(index, document, name)
