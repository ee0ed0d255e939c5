"""`BatchEmbeddings`: its options and public methods; what they do is in `pipeline`."""

import asyncio
import os
import random
import threading
from collections.abc import Callable, Iterable, Sized
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Never, TypeVar

import numpy as np
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.stores import ByteStore
from langchain_core.vectorstores import VectorStore
from numpy.typing import NDArray
from tqdm.auto import tqdm

from langchain_batch_embed.calls.pipeline import Pipeline
from langchain_batch_embed.calls.plan import Plan, make_plan
from langchain_batch_embed.calls.prefetch import Prefetch
from langchain_batch_embed.calls.recovery import Recovery
from langchain_batch_embed.clock import SYSTEM_CLOCK, Clock
from langchain_batch_embed.errors import OptionError, PartialEmbeddingsError
from langchain_batch_embed.journal import Journal, open_journal
from langchain_batch_embed.limits import FIRST_REQUESTS, Limits, check_positive, limits_of
from langchain_batch_embed.options import check_options
from langchain_batch_embed.pacing.pacer import MAX_OUTAGE, Pacer
from langchain_batch_embed.providers import Connections, provider_for
from langchain_batch_embed.providers.copies import pack_up, unpack
from langchain_batch_embed.report import IngestReport, Report
from langchain_batch_embed.sending.dispatcher import Dispatcher
from langchain_batch_embed.sending.sender import Sender
from langchain_batch_embed.stores.ingest import Ingestion, default_batch_size
from langchain_batch_embed.texts.inputs import LongInputs, check_texts
from langchain_batch_embed.texts.tokens import counter_for

__all__ = ["BatchEmbeddings"]

_TIMEOUT = 120.0
"""Seconds for one request where nobody says otherwise. The largest one takes OpenAI some 2 s,
and one in a hundred many times that; a small machine's own server can take minutes."""

_MADE_HERE = frozenset(
    {"_has_sent", "_made", "_options", "_process", "embeddings", "journal", "limits"}
)
"""The attributes that `__init__` sets."""

_renewing = threading.Lock()
"""Held while an object is made anew after a fork, so that all threads get the same."""


def _after_fork() -> None:
    global _renewing  # noqa: PLW0603  # a thread that is not in the child may hold it
    _renewing = threading.Lock()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_after_fork)

_T = TypeVar("_T")


class BatchEmbeddings(Embeddings):
    """Embeds many texts fast: token-aware, parallel batches around any `Embeddings`.

    Setup:
        `pip install langchain-batch-embed`, and the package of the wrapped class with its key.

    Key init args:
        embeddings: the `Embeddings` that makes the vectors; its options are read once, so they have
            to be set before.
        max_batch_size: texts a request; OpenAI takes 2,048.
        max_tokens_per_request: tokens summed over a request; OpenAI takes 300,000.
        max_tokens_per_input: tokens a text, before `long_inputs` applies; 8,191 at OpenAI.
        max_workers: requests in flight at most, threads of one `ThreadPoolExecutor`.
        requests_per_minute: your quota; `None`: learnt from the answers' headers.
        tokens_per_minute: your quota; `None`: learnt from the answers' headers.
        long_inputs: for a text over `max_tokens_per_input`: `"average"` embeds its windows and
            returns their token-weighted mean at unit length, as `OpenAIEmbeddings` does;
            `"truncate"` embeds its beginning; `"error"` refuses it before anything is sent.
        max_retries: how often one batch may fail with errors that pass, while others are answered.
        timeout: seconds for one request; `None`: the wrapped object's own, or 120.
        deadline: seconds for one call; what is not done by then is reported as failed.
        journal: where finished vectors are kept: a path (SQLite), a LangChain `ByteStore`, or
            `None`: in memory, from a failed call until one that needs them succeeds.
        model: the model's name, for the journal and the price, where the wrapped object does
            not tell it.
        limits: limits in place of those of the provider that is recognised.
        show_progress: show a `tqdm.auto` bar that counts texts.
        hedge: send a straggler at the end of a call a second time, and take the answer that
            comes first. Both are paid for, so never more than 5 % of the tokens. `None`: at hosted
            providers.
        max_outage: seconds without any answer after which a call gives the server up.

    Instantiate:
        ```python
        from langchain_openai import OpenAIEmbeddings
        from langchain_batch_embed import BatchEmbeddings

        embeddings = BatchEmbeddings(OpenAIEmbeddings(model="text-embedding-3-small"))
        ```

    Embed:
        ```python
        vectors = embeddings.embed_documents(["first text", "second text"])
        vector = embeddings.embed_query("a question")
        matrix = embeddings.embed_numpy(["first text", "second text"])  # float32, (2, d)
        ```

    Async:
        ```python
        vectors = await embeddings.aembed_documents(["first text", "second text"])
        ```

    Raises:
        OptionError: an option cannot work.
        UnknownOptionError: an option does not exist.
        JournalError: the journal cannot be opened.
    """

    def __init__(
        self,
        embeddings: Embeddings,
        *,
        max_batch_size: int | None = None,
        max_tokens_per_request: int | None = None,
        max_tokens_per_input: int | None = None,
        max_workers: int | None = None,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        long_inputs: LongInputs = "average",
        max_retries: int = 8,
        timeout: float | None = None,
        deadline: float | None = None,
        journal: "Journal | ByteStore | str | os.PathLike[str] | None" = None,
        model: str | None = None,
        limits: Limits | None = None,
        show_progress: bool = False,
        hedge: bool | None = None,
        max_outage: float = MAX_OUTAGE,
        _clock: Clock = SYSTEM_CLOCK,
        _draw: Callable[[], float] = random.random,
        **unknown: Never,  # for an error that names what there is
    ) -> None:
        self._options = {k: v for k, v in locals().items() if k not in ("self", "unknown")}
        check_options(BatchEmbeddings.__init__, self._options, unknown)
        self.embeddings = embeddings
        self.limits = (limits or limits_of(embeddings)).override(
            max_batch_size=max_batch_size,
            max_tokens_per_request=max_tokens_per_request,
            max_tokens_per_input=max_tokens_per_input,
            max_workers=max_workers,
        )
        self.journal = open_journal(journal)
        self._process = os.getpid()
        self._has_sent = False  # in a process that this one was forked from
        self._made = self._make("ours")

    def _make(self, connections: Connections) -> Pipeline:
        """Make all that a call goes through, for this process; see `provider_for`."""
        options = self._options
        provider = provider_for(
            self.embeddings,
            limits=self.limits,
            model=options["model"],
            timeout=options["timeout"],
            connections=connections,
        )
        if self.journal.persistent and not provider.space.model:
            raise OptionError(
                f"{type(self.embeddings).__name__} does not say which model it uses, and a journal "
                "must not mix models: pass model= with its name"
            )
        draw = options["_draw"]
        pacer = Pacer(
            max_workers=self.limits.max_workers,
            first_requests=self.limits.first_requests if provider.is_known else FIRST_REQUESTS,
            is_known=provider.is_known,
            requests_per_minute=options["requests_per_minute"],
            tokens_per_minute=options["tokens_per_minute"],
            max_outage=options["max_outage"],
            draw=draw,
        )
        hedge = options["hedge"]
        sender = Sender(
            pacer,
            max_retries=options["max_retries"],
            timeout=options["timeout"] or provider.timeout or _TIMEOUT,
            hedge=self.limits.is_remote if hedge is None else hedge,
            server=provider.address,
            draw=draw,
        )
        dispatcher = Dispatcher(
            sender, max_workers=self.limits.max_workers, clock=options["_clock"]
        )
        return Pipeline(
            limits=self.limits,
            provider=provider,
            counter=counter_for(provider.encoding),
            dispatcher=dispatcher,
            recovery=Recovery(self.journal, provider.space),
            long_inputs=options["long_inputs"],
            deadline=options["deadline"],
            show_progress=options["show_progress"],
        )

    @property
    def _pipeline(self) -> Pipeline:
        # A forked process has none of the parent's threads, and must not read its answers.
        if self._process != os.getpid():
            with _renewing:
                if self._process != os.getpid():
                    self._has_sent |= self._made.dispatcher.sender.pacer.has_started
                    if self._options["journal"] is None:
                        self.journal = open_journal(None)  # its lock may be held for ever
                    self._made = self._make("theirs" if self._has_sent else "perhaps theirs")
                    self._process = os.getpid()
        return self._made

    @property
    def last_report(self) -> Report | None:
        """What the last call did and cost, also where it failed; `None` before the first.

        After the `with` block of a `prefetch`, and after an `ingest`, it is what all of that did; a
        call for what an `ingest` under way has already is a part of that.
        """
        return self._pipeline.last_report

    def embed_documents(self, texts: Iterable[str]) -> list[list[float]]:
        """Return one vector a text, in order.

        Args:
            texts: any iterable of strings; identical ones are sent once.

        Raises:
            InputError: a text can never be embedded; nothing was sent.
            PartialEmbeddingsError: some texts failed; it holds the vectors of all others.
            JournalError: the journal cannot be read; nothing was sent.
            DimensionsError: what the journal or a `prefetch` holds for the texts is not as wide as
                the vectors of earlier calls.
        """
        return self._pipeline.lists(texts)

    def embed_numpy(self, texts: Iterable[str]) -> NDArray[np.float32]:
        """Return the vectors as float32, shape (n, d): a tenth of the memory of lists.

        Raises:
            InputError: a text can never be embedded; nothing was sent.
            PartialEmbeddingsError: some texts failed; it holds the vectors of all others.
            JournalError: the journal cannot be read; nothing was sent.
            DimensionsError: what the journal or a `prefetch` holds for the texts is not as wide as
                the vectors of earlier calls.
        """
        return self._pipeline.embed(texts, lists=False).array()

    def embed_query(self, text: str) -> list[float]:
        """Return the vector of one query, within the same quota and with the same retries.

        Raises:
            InputError: the text can never be embedded; nothing was sent.
            Exception: the provider's own, where no retry helped.
        """
        try:
            return self._pipeline.embed([text], query=True).lists()[0]
        except PartialEmbeddingsError as error:
            cause = error.failures[0].error
        raise cause  # out here, so that its own causes are all that it has

    async def aembed_documents(self, texts: Iterable[str]) -> list[list[float]]:
        """Return one vector a text, without blocking the event loop.

        Cancelling the task stops the work: no further request starts, and what is finished is
        kept as after a failure. Raises as `embed_documents` does.
        """
        pipeline = self._pipeline
        given = check_texts(texts)
        if pipeline.is_small(given):
            return (await pipeline.aembed(given)).lists()
        return await self._in_thread(lambda cancelled: pipeline.lists(given, cancelled=cancelled))

    async def aembed_query(self, text: str) -> list[float]:
        """Return the vector of one query, without blocking the event loop."""
        pipeline = self._pipeline
        try:
            if pipeline.is_small(check_texts([text])):
                return (await pipeline.aembed([text], query=True)).lists()[0]
            embed = partial(pipeline.embed, [text], query=True)
            return await self._in_thread(lambda stop: embed(cancelled=stop).lists()[0])
        except PartialEmbeddingsError as error:
            cause = error.failures[0].error
        raise cause

    def plan(
        self,
        texts: Iterable[str],
        *,
        tier: int | None = None,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        price: float | None = None,
    ) -> Plan:
        """Tell what embedding these texts will send, cost and take; nothing is sent.

        Texts whose vectors are in the journal are free. The seconds are rehearsed in simulated
        time with OpenAI's latency and the account's quota, which is the first that is known of
        the arguments, the tier, this object's options and what earlier answers said.

        Args:
            texts: any iterable of strings.
            tier: OpenAI's usage tier of your account, 1 to 5.
            requests_per_minute: your account's quota.
            tokens_per_minute: your account's quota.
            price: dollars for a million tokens; `None`: OpenAI's list price, for its models.

        Raises:
            InputError: a text can never be embedded.
            OptionError: an option cannot work.
            JournalError: the journal cannot be read.
        """
        return make_plan(
            self._pipeline,
            texts,
            tier=tier,
            requests_per_minute=requests_per_minute,
            tokens_per_minute=tokens_per_minute,
            price=price,
        )

    def prefetch(self, texts: Iterable[str], *, max_buffered: int = 20_000) -> Prefetch:
        """Embed texts in the background that callers will then ask for in small portions.

        ```python
        with embeddings.prefetch(doc.page_content for doc in docs):
            index(docs, record_manager, store, batch_size=100)
        ```

        While the `with` block runs, every `embed_documents` of this object is answered from what
        has arrived, and waits only for what is on its way. Texts that were not announced are
        embedded as usual, and a text that cannot be embedded fails in the call that asks for it.
        A vector is dropped when it is handed out for the last time; what the block leaves
        behind is kept by a journal alone.

        Args:
            texts: what will be asked for, best in that order; a text as often as it will be.
            max_buffered: vectors held at a time, here or on their way: 6 KB each at 1,536
                dimensions, so 120 MB, and as much again while they arrive.

        Raises:
            InputTypeError: not an iterable of strings.
            OptionError: `max_buffered` is not a whole number of at least 1.
        """
        check_positive("max_buffered", max_buffered)
        listed = check_texts(texts)
        prefetch = self._pipeline.prefetch(max_buffered=max_buffered)
        prefetch.announce(listed)
        return prefetch

    def ingest(
        self,
        store: VectorStore,
        documents: Iterable[Document],
        *,
        ids: Iterable[str] | None = None,
        batch_size: int | None = None,
        max_buffered: int = 8_000,
        show_progress: bool | None = None,
        _cancelled: threading.Event | None = None,
    ) -> IngestReport:
        """Add any number of documents to a store; embedding and writing overlap.

        Documents are read as they are needed, so a generator over more than memory holds will
        do, and written in order by the store's own `add_documents`, in this thread. A document
        that cannot be embedded or written is found by halving and is in the report; all others
        are in the store. With a journal a second run pays for nothing twice; whether it also
        writes nothing twice is up to the store and the ids. A store with a SQLite connection of
        its own (`_connection`, as SQLiteVec) has a page cache of 32 MB at least meanwhile.

        Args:
            store: a vector store whose embeddings are this object.
            documents: any iterable.
            ids: one a document; `None`: what the store makes of the documents' own, or of none.
            batch_size: documents in one call of the store, at most; `None`: its `chunk_size`,
                which Supabase writes in one statement, or 1,024. A store that writes a call in
                several parts may keep some of them when another one fails, and then needs ids
                to have no document twice.
            max_buffered: documents read ahead, and so vectors held at a time, here or on their
                way; never less than `batch_size`.
            show_progress: a `tqdm.auto` bar that counts documents; `None`: as this object.

        Raises:
            OptionError: the store uses other embeddings, or there are not as many ids as
                documents.
            IngestError: several documents in a row failed, and none between them succeeded.
            Exception: whatever `documents` raises, with a note of how many are stored.
        """
        if batch_size is None:
            batch_size = default_batch_size(store)
        check_positive("batch_size", batch_size)
        check_positive("max_buffered", max_buffered)
        # SQLiteVec, for one, has no `embeddings`, but keeps them where most stores do.
        used = store.embeddings or getattr(store, "_embedding", self)
        if used is not self:
            raise OptionError(
                f"this {type(store).__name__} does not use these embeddings; make the store with "
                "this BatchEmbeddings object"
            )
        ahead = max(batch_size, max_buffered)
        shown = self._options["show_progress"] if show_progress is None else show_progress
        total = len(documents) if isinstance(documents, Sized) else None
        with (
            self._pipeline.prefetch(max_buffered=ahead, until_released=True) as prefetch,
            tqdm(total=total, unit=" documents", disable=not shown) as bar,
        ):
            return Ingestion(
                store,
                documents,
                ids=ids,
                complete=partial(self._pipeline.complete, prefetch, cancelled=_cancelled),
                prefetch=prefetch,
                batch_size=batch_size,
                ahead=ahead,
                now=self._pipeline.dispatcher.clock.now,
            ).run(bar.update, cancelled=_cancelled)

    async def aingest(
        self,
        store: VectorStore,
        documents: Iterable[Document],
        *,
        ids: Iterable[str] | None = None,
        batch_size: int | None = None,
        max_buffered: int = 8_000,
        show_progress: bool | None = None,
    ) -> IngestReport:
        """Add any number of documents to a store, without blocking the event loop.

        Takes and raises what `ingest` does; documents are read, and the store is called, in
        another thread. A SQLite connection has to allow that: `check_same_thread=False`.
        Cancelling the task stops it after the batch that is being written.
        """
        return await self._in_thread(
            lambda cancelled: self.ingest(
                store,
                documents,
                ids=ids,
                batch_size=batch_size,
                max_buffered=max_buffered,
                show_progress=show_progress,
                _cancelled=cancelled,
            )
        )

    def __getstate__(self) -> dict[str, Any]:
        """Pickle the options, and what a subclass has added.

        Locks, threads and learnt limits are made anew.
        """
        options = {**self._options, "embeddings": pack_up(self.embeddings)}
        added = {name: value for name, value in vars(self).items() if name not in _MADE_HERE}
        return {"options": options, "added": added}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Make the object from its options; a subclass' own `__init__` may take others."""
        options = state["options"]
        BatchEmbeddings.__init__(self, **{**options, "embeddings": unpack(options["embeddings"])})
        vars(self).update(state["added"])

    async def _in_thread(self, work: Callable[[threading.Event], _T]) -> _T:
        """Run a call in a thread of its own; cancelling the task stops it."""
        cancelled = threading.Event()
        # Not the loop's default executor: its few threads would hold up further calls.
        executor = ThreadPoolExecutor(1, "batch-embed-async")
        try:
            return await asyncio.get_running_loop().run_in_executor(executor, work, cancelled)
        except asyncio.CancelledError:
            cancelled.set()
            self._pipeline.wake()
            raise
        finally:
            executor.shutdown(wait=False)
