"""Adds any number of documents to any vector store, with embedding and writing overlapped.

The store's own `add_documents` writes. The vectors that it asks for have already arrived, because
the next documents are prefetched.

`documents` reads, `ahead` embeds ahead, `writing` writes, `rows` finds out which documents of a
failed call are stored, and `troubles` interprets its error. This module connects them and decides
when the ingest ends.
"""

import asyncio
import logging
import threading
from collections.abc import AsyncIterable, Callable, Iterable, Sized
from functools import partial
from typing import Any

from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.vectorstores import VectorStore

from langchain_batch_embed.calls.explanation import explain
from langchain_batch_embed.calls.pipeline import Pipeline
from langchain_batch_embed.calls.prefetch_progress import watched
from langchain_batch_embed.errors import (
    BatchEmbeddingsError,
    IngestError,
    InputError,
    InputTypeError,
    OptionError,
    root_of,
)
from langchain_batch_embed.limits import plain, positive
from langchain_batch_embed.pacing.diagnosis import Kind, diagnose
from langchain_batch_embed.report import IngestReport
from langchain_batch_embed.stores.ahead import FIRST, Ahead, Batch
from langchain_batch_embed.stores.calls import StoreCalls, run_in_loop
from langchain_batch_embed.stores.documents import (
    Ids,
    Reader,
    Take,
    check_ids,
    take_from,
    take_from_async,
)
from langchain_batch_embed.stores.given_ids import GivenIds
from langchain_batch_embed.stores.patience import Patience
from langchain_batch_embed.stores.rows import rows_of
from langchain_batch_embed.stores.sqlite import large_page_cache
from langchain_batch_embed.stores.streak import Stop
from langchain_batch_embed.stores.traits import (
    batch_size_of,
    check_store,
    core_of,
    place_of,
    replaces_by_id,
)
from langchain_batch_embed.stores.writing import Writer

__all__ = ["ingest"]

logger = logging.getLogger(__name__)

_OF_THE_TEXT = frozenset({Kind.REFUSED, Kind.TOO_LARGE})
"""Refusals of one text that say nothing about the next one."""


def ingest(
    pipeline: Pipeline,
    store: VectorStore,
    documents: Iterable[Document] | AsyncIterable[Document],
    *,
    embeddings: Embeddings,
    ids: Ids,
    batch_size: int | None,
    max_buffered: int,
    show_progress: bool,
    patience: float,
    draw: Callable[[], float],
    cancelled: threading.Event | None = None,
    loop: asyncio.AbstractEventLoop | None = None,
) -> IngestReport:
    """Add any number of documents to a store; see `BatchEmbeddings.ingest`.

    Args:
        pipeline: embeds the texts.
        store: the store, whose `add_documents` is called.
        documents: any iterable; an asynchronous one needs a `loop`.
        embeddings: the object that the store must use.
        ids: one per document; `"content"` generates them from text and metadata; `None` takes the
            documents' own, and generates those that are missing.
        batch_size: largest number of documents in one call to the store; `None` takes that of
            `batch_size_of`.
        max_buffered: largest number of documents read ahead; raised to `batch_size` if smaller.
        show_progress: whether to show a progress bar that counts documents.
        patience: seconds to wait for a store that is away.
        draw: a source of random numbers, uniform between 0 and 1.
        cancelled: set it, and call `wake`, to stop after the batch that is being written.
        loop: the event loop in which the store's `aadd_documents` is awaited from this thread,
            which must not be the loop's own; `None` calls the store's `add_documents`.
    """
    check_store(store, embeddings, is_async=loop is not None)
    if batch_size is None:
        batch_size = batch_size_of(store)
    batch_size = positive("batch_size", batch_size)
    max_buffered = positive("max_buffered", max_buffered)
    show_progress = plain(show_progress)
    if not isinstance(show_progress, bool):
        raise OptionError(f"show_progress must be True, False or None, not {show_progress!r}")
    check_ids(documents, ids)
    wait = None if loop is None else run_in_loop(loop, cancelled or threading.Event())
    calls = StoreCalls(store, wait)
    takes_ids = replaces_by_id(store)
    if isinstance(ids, str) and not takes_ids:
        logger.warning(
            "%s takes no ids, so a second ingest adds the rows again", type(store).__name__
        )
    reader = Reader(_take(documents, wait), ids, make_ids=takes_ids, place=place_of(core_of(store)))
    total = len(documents) if isinstance(documents, Sized) else None
    clock = pipeline.dispatcher.clock
    most = max(batch_size, max_buffered)
    with (
        pipeline.prefetches.open(max_buffered=most, until_released=True, first=FIRST) as prefetch,
        watched(pipeline, prefetch, total=total, unit="document", shown=show_progress) as bar,
        large_page_cache(core_of(store)),
    ):
        ahead = Ahead(
            reader,
            prefetch,
            partial(pipeline.prefetches.complete, prefetch, cancelled=cancelled),
            most=most,
            cancelled=cancelled,
        )
        writer = Writer(
            calls,
            rows_of(calls),
            GivenIds(takes=takes_ids, passes=ids is not None and not isinstance(ids, str)),
            batch_size=batch_size,
            patience=Patience(
                patience,
                now=clock.now,
                pause=partial(prefetch.pause, cancelled=cancelled),
                draw=draw,
            ),
        )
        provider = pipeline.provider
        ingestion = Ingestion(
            reader,
            ahead,
            writer,
            now=clock.now,
            explain=partial(
                explain,
                address=provider.address,
                model=provider.model,
                method=f"{provider.class_name}.embed_documents",
            ),
        )
        return ingestion.run(bar.update, cancelled=cancelled)


def _take(documents: Any, wait: Callable[[Any], Any] | None) -> Take:
    if isinstance(documents, AsyncIterable):
        if wait is None:
            raise InputTypeError(
                "documents is an asynchronous iterable; use await aingest(store, documents)"
            )
        return take_from_async(documents, wait)
    return take_from(documents)


class Ingestion:
    """One running `ingest`.

    Args:
        reader: reads the documents.
        ahead: embeds the documents ahead.
        writer: writes the documents.
        now: returns the time in seconds.
        explain: describes an embedding error, with the server and the model.
    """

    def __init__(
        self,
        reader: Reader,
        ahead: Ahead,
        writer: Writer,
        *,
        now: Callable[[], float],
        explain: Callable[[BaseException], str],
    ) -> None:
        self._reader = reader
        self._ahead = ahead
        self._writer = writer
        self._now = now
        self._explain = explain
        self._started = now()
        self._waited = 0.0
        self._tried = 0

    def run(
        self, progress: Callable[[int], object], *, cancelled: threading.Event | None = None
    ) -> IngestReport:
        """Write all batches.

        Args:
            progress: called with the number of documents after each batch.
            cancelled: set it to stop after the batch that is being written.

        Raises:
            IngestError: nothing more can be embedded or stored, or nothing was stored at all.
            asyncio.CancelledError: the ingest was cancelled.
            Exception: whatever `documents` or `ids` raised, after all that was read is written.
        """
        try:
            while self._ahead.read():
                progress(self._do_batch())
                if cancelled is not None and cancelled.is_set():
                    raise asyncio.CancelledError
            if self._reader.broken is not None:
                raise self._reader.broken
            return self._finished()
        except BaseException as error:
            if not isinstance(error, IngestError):
                error.add_note(
                    f"ingest stopped here: of its first {self._tried:,} documents "
                    f"{self._writer.written.stored:,} are stored; "
                    f"{self._reader.count - self._tried:,} more were read, and are not"
                )
            raise

    def _do_batch(self) -> int:
        began_to_wait = self._now()
        batch = self._ahead.next(self._writer.size.limit)
        self._waited += self._now() - began_to_wait
        writer = self._writer
        writer.written.settled.clear()
        for item, error in batch.failed:
            writer.written.lose(item, "embedding", error)
        stored, failed = writer.written.stored, len(writer.written.failures)
        try:
            if batch.good:
                writer.write(batch.good)
            if writer.written.stored == stored and batch.is_whole:
                self._note_whole_batch_failed(batch)
        except BaseException as error:
            self._note_tried(batch)
            if not isinstance(error, Stop):
                raise
            cause = root_of([error.cause])
            raise self._error(error.why, cause) from cause
        self._note_tried(batch)
        if writer.written.stored:
            self._ahead.go_on()
        lost = [failure.index for failure in writer.written.failures[failed:]]
        self._ahead.release(batch.items, lost=lost)
        return len(batch.items)

    def _note_whole_batch_failed(self, batch: Batch) -> None:
        """Record that nothing of a whole batch was stored; stop if its documents are not the cause.

        Raises:
            Stop: the cause is the account, the server or the store.
        """
        streak = self._writer.written.streak
        streak.batch_failed()
        for _, error in batch.failed:
            if not batch.good and not _is_of_the_text(error):
                raise Stop("a whole batch could not be embedded", error)
            streak.failed()
        if streak.is_hopeless:
            raise Stop(
                "whole batches failed one after the other", self._writer.written.failures[-1].error
            )

    def _note_tried(self, batch: Batch) -> None:
        settled = self._writer.written.settled
        left = (item.index for item in batch.items if item.index not in settled)
        self._tried = next(left, batch.items[-1].index + 1)

    def _finished(self) -> IngestReport:
        report = self._report()
        if report.failures and not report.stored:
            cause = root_of([failure.error for failure in report.failures])
            raise self._error("none could be stored", cause) from cause
        if report.failures or report.unknown:
            logger.warning("%s; see report.failures", report.missing())
        return report

    def _error(self, ended_by: str, cause: BaseException) -> IngestError:
        failures = self._writer.written.failures
        # Explain only embedding errors: a store's message may quote documents.
        is_ours = any(root_of([f.error]) is cause and f.stage == "embedding" for f in failures)
        why = self._explain(cause) if is_ours else ""
        return IngestError.because_of(cause, self._report(), ended_by, why)

    def _report(self) -> IngestReport:
        written = self._writer.written
        ids = tuple(written.ids)
        if self._writer.ids.are_kept:  # a later call has replaced the row of an earlier one
            ids = tuple(dict.fromkeys(ids))
        twice = len(written.ids) - len(ids)
        return IngestReport(
            documents=self._reader.count,
            tried=self._tried,
            stored=written.stored - twice,
            replaced=written.replaced + twice,
            failures=tuple(sorted(written.failures, key=lambda failure: failure.index)),
            unknown=tuple(sorted(written.unknown)),
            ids=ids,
            keeps_ids=self._writer.ids.are_kept,
            retries=written.retries,
            seconds=self._now() - self._started,
            waited=self._waited,
        )


def _is_of_the_text(error: BaseException) -> bool:
    if isinstance(error, BatchEmbeddingsError):  # a budget, a deadline, or the end of a call
        return isinstance(error, InputError)
    return diagnose(error).kind in _OF_THE_TEXT
