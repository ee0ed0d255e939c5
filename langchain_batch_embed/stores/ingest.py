"""Puts any number of documents into any vector store, while embedding and writing overlap.

The store's own `add_documents` writes, in the caller's thread. The vectors that it asks for are
there already, because the next documents are prefetched.
"""

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from functools import partial
from itertools import islice, zip_longest
from typing import Any, Literal

from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.vectorstores import VectorStore

from langchain_batch_embed.calls.pipeline import Pipeline
from langchain_batch_embed.calls.prefetch import RUNS, Prefetch
from langchain_batch_embed.calls.prefetch_progress import watched
from langchain_batch_embed.errors import (
    IngestError,
    InputError,
    InputTypeError,
    OptionError,
    causes,
    root_of,
)
from langchain_batch_embed.limits import check_positive
from langchain_batch_embed.report import IngestFailure, IngestReport
from langchain_batch_embed.stores.sqlite import large_page_cache, roll_back

__all__ = ["BATCH_SIZE", "ingest"]

logger = logging.getLogger(__name__)

BATCH_SIZE = 1024
"""Documents in one call of a store that has no `chunk_size`, at most. sqlite-vec keeps vectors in
chunks of this many."""

LEAST = 32
"""Documents that are worth a call of the store while the rest of their batch is on its way. A store
that is slower than the embedding then waits as little as possible. During a call more vectors
arrive, so calls stay small only while the store is faster."""

FAILED_IN_A_ROW = 8
"""After this many failures in a row the cause is not the documents: stop."""

_Complete = Callable[[Sequence[str]], Mapping[int, BaseException]]


@dataclass(frozen=True, slots=True)
class _Item:
    index: int
    document: Document
    id: str | None


def ingest(
    pipeline: Pipeline,
    store: VectorStore,
    documents: Iterable[Document],
    *,
    embeddings: Embeddings,
    ids: Iterable[str] | None,
    batch_size: int | None,
    max_buffered: int,
    show_progress: bool,
    cancelled: threading.Event | None,
) -> IngestReport:
    """Add any number of documents to a store; see `BatchEmbeddings.ingest`.

    Args:
        pipeline: embeds.
        store: whose `add_documents` is called.
        documents: any iterable.
        embeddings: the object that the store has to use.
        ids: one a document; `None`: up to the store.
        batch_size: documents in one call of the store, at most; `None`: see `_batch_size`.
        max_buffered: documents read ahead, at least a batch.
        show_progress: show a bar that counts documents.
        cancelled: set, with a `wake`, to stop after the batch that is being written.
    """
    if batch_size is None:
        batch_size = _batch_size(store)
    check_positive("batch_size", batch_size)
    check_positive("max_buffered", max_buffered)
    # SQLiteVec, for one, has no `embeddings`, but keeps them where most stores do.
    used = store.embeddings or getattr(store, "_embedding", embeddings)
    if used is not embeddings:
        raise OptionError(
            f"this {type(store).__name__} does not use these embeddings; make the store with "
            "this BatchEmbeddings object"
        )
    ahead = max(batch_size, max_buffered)
    total = len(documents) if isinstance(documents, Sized) else None
    with (
        pipeline.prefetches.open(max_buffered=ahead, until_released=True) as prefetch,
        watched(pipeline, prefetch, total=total, unit="document", shown=show_progress) as bar,
    ):
        return Ingestion(
            store,
            documents,
            ids=ids,
            complete=partial(pipeline.prefetches.complete, prefetch, cancelled=cancelled),
            prefetch=prefetch,
            batch_size=batch_size,
            ahead=ahead,
            now=pipeline.dispatcher.clock.now,
        ).run(bar.update, cancelled=cancelled)


def _batch_size(store: VectorStore) -> int:
    """Return how many documents to give to one call of the store.

    Some stores, such as Supabase's, write a call in statements of `chunk_size` rows each. One
    statement is all or nothing. Of several, some may have succeeded when another one fails.
    """
    size = getattr(store, "chunk_size", None)
    return size if isinstance(size, int) and size > 0 else BATCH_SIZE


class Ingestion:
    """One `ingest` under way.

    Args:
        store: whose `add_documents` is called.
        documents: any iterable; read no further ahead than `ahead` allows.
        ids: the documents' ids; `None`: up to the store.
        complete: waits for the vectors of some texts in the prefetch; returns the positions
            that failed, and why.
        prefetch: embeds ahead, and keeps vectors until they are released.
        batch_size: documents in one call of the store, at most.
        ahead: documents that are read ahead.
        now: returns the time in seconds.
    """

    def __init__(
        self,
        store: VectorStore,
        documents: Iterable[Document],
        *,
        ids: Iterable[str] | None,
        complete: _Complete,
        prefetch: Prefetch,
        batch_size: int,
        ahead: int,
        now: Callable[[], float],
    ) -> None:
        self._store = store
        self._given = _items(documents, ids)
        self._passes_ids = ids is not None
        self._complete = complete
        self._prefetch = prefetch
        self._batch_size = batch_size
        self._ahead = ahead
        self._now = now
        self._started = now()
        self._queue: deque[_Item] = deque()
        self._broken: Exception | None = None  # what the documents raised
        self._waited = 0.0
        self._read = 0
        self._tried = 0
        self._stored = 0
        self._stored_ids: list[str] = []
        self._failures: list[IngestFailure] = []
        self._failed_in_a_row = 0

    def run(
        self, progress: Callable[[int], object], *, cancelled: threading.Event | None = None
    ) -> IngestReport:
        """Write all batches.

        Args:
            progress: called after each batch with its number of documents.
            cancelled: set to stop after the batch that is being written.

        Raises:
            IngestError: several documents in a row failed, and none between them succeeded.
            asyncio.CancelledError: it was cancelled.
            Exception: whatever `documents` or `ids` raised, once what was read before is written.
        """
        try:
            with large_page_cache(self._store):
                self._read_ahead()
                while self._queue:
                    progress(self._write_batch(cancelled))
                    if cancelled is not None and cancelled.is_set():
                        raise asyncio.CancelledError
                    self._read_ahead()
            if self._broken is not None:
                raise self._broken
        except BaseException as error:
            if not isinstance(error, IngestError):
                error.add_note(
                    f"ingest stopped here: of its first {self._tried:,} documents {self._stored:,} "
                    f"are stored; {self._read - self._tried:,} more were read, and are not"
                )
            raise
        return self._report()

    def _read_ahead(self) -> None:
        # A full run of the prefetch at a time, not a small run for each batch.
        step = max(1, self._ahead // RUNS)
        while self._ahead - len(self._queue) >= step:
            items = self._next(step)
            if not items:
                return
            self._read += len(items)
            self._queue.extend(items)
            self._prefetch.announce([item.document.page_content for item in items])

    def _next(self, count: int) -> list[_Item]:
        items: list[_Item] = []
        if self._broken is None:
            try:
                for item in islice(self._given, count):  # one by one: what came before an error
                    items.append(item)  # noqa: PERF402  # is good
            except Exception as error:  # noqa: BLE001  # whatever a generator of the user's raises
                self._broken = error
        return items

    def _write_batch(self, cancelled: threading.Event | None) -> int:
        began_to_wait = self._now()
        written = self._read - len(self._queue)
        rest = self._batch_size - written % self._batch_size
        ahead = (item.document.page_content for item in islice(self._queue, rest))
        size = self._prefetch.wait_for_some(ahead, least=LEAST, cancelled=cancelled)
        batch = [self._queue.popleft() for _ in range(size)]
        texts = [item.document.page_content for item in batch]
        failed = self._complete(texts)
        self._waited += self._now() - began_to_wait
        for position in sorted(failed):
            self._lose(batch[position], "embedding", failed[position])
        good = [item for position, item in enumerate(batch) if position not in failed]
        if good:
            self._write(good)
        self._tried = batch[-1].index + 1
        if not good and rest == self._batch_size:  # no other part of this batch was good
            # An error of a document itself says nothing of the next one.
            outside = [error for error in failed.values() if not isinstance(error, InputError)]
            if outside:
                self._stop_if_hopeless(len(outside), outside[-1])
        self._prefetch.release(texts)
        return len(batch)

    def _write(self, items: Sequence[_Item]) -> None:
        """Write documents, and find those that the store refuses by halving."""
        options: dict[str, Any] = {"ids": [item.id for item in items]} if self._passes_ids else {}
        try:
            written = self._store.add_documents([item.document for item in items], **options)
        except BaseException as error:
            roll_back(self._store)
            if not isinstance(error, Exception):
                raise
            if len(items) == 1:
                self._lose(items[0], "writing", error)
                self._tried = items[0].index + 1
                self._stop_if_hopeless(1, error)
                return
            logger.info("writing %d documents: %s, halving", len(items), type(error).__name__)
        else:
            self._stored += len(items)
            self._stored_ids.extend(written or ())
            self._tried = items[-1].index + 1
            self._failed_in_a_row = 0
            return
        middle = len(items) // 2
        self._write(items[:middle])
        self._write(items[middle:])

    def _lose(
        self, item: _Item, stage: Literal["embedding", "writing"], error: BaseException
    ) -> None:
        for link in causes(error):
            link.__traceback__ = None  # its frames would keep whole batches in memory
        self._failures.append(IngestFailure(index=item.index, id=item.id, stage=stage, error=error))

    def _stop_if_hopeless(self, failed: int, error: BaseException) -> None:
        self._failed_in_a_row += failed
        if self._failed_in_a_row >= FAILED_IN_A_ROW:
            raise IngestError(self._report()) from root_of([error])

    def _report(self) -> IngestReport:
        return IngestReport(
            documents=self._read,
            tried=self._tried,
            stored=self._stored,
            failures=tuple(sorted(self._failures, key=lambda failure: failure.index)),
            ids=tuple(self._stored_ids),
            seconds=self._now() - self._started,
            waited=self._waited,
        )


def _items(documents: Iterable[Document], ids: Iterable[str] | None) -> Iterator[_Item]:
    """Yield the documents with their ids: those given, else their own.

    Raises:
        InputTypeError: one is not a `Document`.
        OptionError: there are not as many ids as documents.
    """
    own_ids = ids is None
    for index, (document, name) in enumerate(zip_longest(documents, () if ids is None else ids)):
        if not own_ids and (document is None or name is None):
            kind = "documents" if document is None else "ids"
            raise OptionError(f"ids must be one a document, but there are only {index:,} {kind}")
        if not isinstance(document, Document):
            raise InputTypeError(
                f"ingest takes documents, but number {index:,} is a {type(document).__name__}; "
                "make it a Document(page_content=...)"
            )
        yield _Item(index, document, document.id if own_ids else name)
