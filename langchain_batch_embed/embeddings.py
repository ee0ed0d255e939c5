"""`BatchEmbeddings`: its options and its methods; `calls` and `stores` do the work."""

import os
import random
import threading
from collections.abc import Callable, Iterable
from typing import Any, Never, overload

import numpy as np
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.stores import ByteStore
from langchain_core.vectorstores import VectorStore
from numpy.typing import NDArray

from langchain_batch_embed.calls import event_loop
from langchain_batch_embed.calls.assembly import Assembly
from langchain_batch_embed.calls.fleet_plan import FleetPlan, make_fleet_plan
from langchain_batch_embed.calls.pipeline import Pipeline
from langchain_batch_embed.calls.plan import AccountQuota, Plan, make_plan
from langchain_batch_embed.calls.prefetch import Prefetch
from langchain_batch_embed.clock import SYSTEM_CLOCK, Clock
from langchain_batch_embed.journal import Journal
from langchain_batch_embed.limits import Limits
from langchain_batch_embed.options import Options, check_names, check_wrapped
from langchain_batch_embed.providers.copies import pack_up, unpack
from langchain_batch_embed.report import IngestReport, Report
from langchain_batch_embed.shared.quota import SharedQuota
from langchain_batch_embed.stores.ingest import ingest
from langchain_batch_embed.texts.inputs import LongInputs

__all__ = ["BatchEmbeddings"]

_SET_HERE = frozenset({"_assembly", "_options", "embeddings"})
"""The attributes that this class sets; any other is a subclass's own."""


class BatchEmbeddings(Embeddings):
    """Embeds many texts fast: token-aware, parallel batches around any `Embeddings`.

    Setup:
        `pip install langchain-batch-embed`, and the package of the wrapped class with its key.

    Key init args:
        embeddings: the `Embeddings` that makes the vectors. Its options are read once, here.
        max_batch_size: texts in one request; OpenAI takes 2,048.
        max_tokens_per_request: tokens in one request; OpenAI takes 300,000.
        max_tokens_per_input: tokens in one text, above which `long_inputs` applies; 8,191 at
            OpenAI.
        max_workers: requests in flight at most, threads of one `ThreadPoolExecutor`.
        requests_per_minute: your quota; `None`: read from the answers' headers.
        tokens_per_minute: your quota; `None`: read from the answers' headers.
        long_inputs: what to do with a text over `max_tokens_per_input`. `"average"` embeds its
            windows and returns their token-weighted mean at unit length, as `OpenAIEmbeddings`
            does; `"truncate"` embeds its beginning; `"error"` refuses it before anything is sent.
        max_retries: how often one batch may fail with temporary errors while others are answered.
            With 0 a 5xx fails a single text at once, also where nothing else is in flight.
        timeout: seconds for one request; `None`: the wrapped object's own, or 120.
        deadline: seconds for one call; texts without a vector then are reported as failed.
        journal: where finished vectors are kept: a path (SQLite) or a LangChain `ByteStore`.
            `None` keeps them in memory, from a failed call until a later call has used them.
        model: the model's name, for the journal and the price, where the wrapped object has none.
        limits: limits to use in place of the recognised provider's.
        show_progress: show a `tqdm.auto` bar that counts texts.
        hedge: send a straggler at the end of a call a second time, and use the first answer. Both
            are paid for, so never more than 5 % of the tokens. `None`: only at hosted providers.
        max_outage: seconds without any answer after which a call gives up; 600 by default.
        quota: a `SharedQuota`, with which all processes that name it keep to one account's quota.

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
        long_inputs: LongInputs = Options.long_inputs,
        max_retries: int = Options.max_retries,
        timeout: float | None = None,
        deadline: float | None = None,
        journal: Journal | ByteStore | str | os.PathLike[str] | None = None,
        model: str | None = None,
        limits: Limits | None = None,
        show_progress: bool = False,
        hedge: bool | None = None,
        max_outage: float = Options.max_outage,
        quota: SharedQuota | None = None,
        _clock: Clock = SYSTEM_CLOCK,
        _draw: Callable[[], float] = random.random,
        **unknown: Never,  # for an error that names what there is
    ) -> None:
        check_names(unknown)
        check_wrapped(embeddings, BatchEmbeddings)
        options = Options(
            max_batch_size=max_batch_size,
            max_tokens_per_request=max_tokens_per_request,
            max_tokens_per_input=max_tokens_per_input,
            max_workers=max_workers,
            requests_per_minute=requests_per_minute,
            tokens_per_minute=tokens_per_minute,
            long_inputs=long_inputs,
            max_retries=max_retries,
            timeout=timeout,
            deadline=deadline,
            journal=journal,
            model=model,
            limits=limits,
            show_progress=show_progress,
            hedge=hedge,
            max_outage=max_outage,
            quota=quota,
            clock=_clock,
            draw=_draw,
        )
        self._set_up(embeddings, options)

    def _set_up(self, embeddings: Embeddings, options: Options) -> None:
        self.embeddings = embeddings
        self._options = options
        self._assembly = Assembly(embeddings, options)

    @property
    def _pipeline(self) -> Pipeline:
        return self._assembly.pipeline

    @property
    def limits(self) -> Limits:
        """What the provider allows in one request."""
        return self._assembly.limits

    @property
    def journal(self) -> Journal:
        """Where finished vectors are kept."""
        return self._assembly.journal

    @property
    def last_report(self) -> Report | None:
        """What the last call did and cost, also where it failed; `None` before the first.

        After the `with` block of a `prefetch`, and after an `ingest`, it covers all of that. A call
        of the store for vectors that an `ingest` holds already has no report of its own.
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
            DimensionsError: the journal or a `prefetch` holds vectors for the texts with other
                dimensions than those of earlier calls.
        """
        return self._pipeline.lists(texts)

    def embed_numpy(self, texts: Iterable[str]) -> NDArray[np.float32]:
        """Return the vectors as float32, shape (n, d), in a tenth of the memory of lists.

        Raises:
            InputError: a text can never be embedded; nothing was sent.
            PartialEmbeddingsError: some texts failed; it holds the vectors of all others.
            JournalError: the journal cannot be read; nothing was sent.
            DimensionsError: the journal or a `prefetch` holds vectors for the texts with other
                dimensions than those of earlier calls.
        """
        return self._pipeline.embed(texts, lists=False).array()

    def embed_query(self, text: str) -> list[float]:
        """Return the vector of one query, within the same quota and with the same retries.

        Raises:
            InputError: the text can never be embedded; nothing was sent.
            Exception: the provider's own, after the last retry.
        """
        return self._pipeline.query(text)

    async def aembed_documents(self, texts: Iterable[str]) -> list[list[float]]:
        """Return one vector a text, without blocking the event loop.

        Cancelling the task stops the work. No further request starts, and finished vectors are
        kept as after a failure. It raises what `embed_documents` raises.
        """
        return await event_loop.embed(self._pipeline, texts)

    async def aembed_query(self, text: str) -> list[float]:
        """Return the vector of one query, without blocking the event loop."""
        return await event_loop.embed_query(self._pipeline, text)

    @overload
    def plan(
        self,
        texts: Iterable[str],
        *,
        tier: int | None = None,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        price: float | None = None,
    ) -> Plan: ...

    @overload
    def plan(
        self,
        texts: Iterable[str],
        *,
        workers: int,
        quota: AccountQuota | None = None,
        tier: int | None = None,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        price: float | None = None,
    ) -> FleetPlan: ...

    @overload
    def plan(
        self,
        *,
        count: int,
        tokens_each: float,
        workers: int = 1,
        quota: AccountQuota | None = None,
        tier: int | None = None,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        price: float | None = None,
    ) -> FleetPlan: ...

    def plan(
        self,
        texts: Iterable[str] | None = None,
        *,
        count: int | None = None,
        tokens_each: float | None = None,
        workers: int | None = None,
        quota: AccountQuota | None = None,
        tier: int | None = None,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        price: float | None = None,
    ) -> Plan | FleetPlan:
        """Predict requests, price and time of embedding these texts; nothing is sent.

        Texts whose vectors are in the journal are free. The seconds come from a rehearsal in
        simulated time, with OpenAI's latency and the account's quota. The quota is the first known
        one of the arguments, the tier, this object's options and earlier answers.

        With `workers`, or a `count` of texts that are not here yet, it is arithmetic instead: which
        limit binds, and what more machines or more quota would change.

        Args:
            texts: any iterable of strings.
            count: how many texts, in place of `texts`.
            tokens_each: tokens in each of those, on average.
            workers: processes that share the quota, each with a processor core.
            quota: your account's, for a plan with `workers` or `count`.
            tier: OpenAI's usage tier of your account, 1 to 5.
            requests_per_minute: your account's quota.
            tokens_per_minute: your account's quota.
            price: dollars for a million tokens; `None`: OpenAI's list price, for its models.

        Raises:
            InputError: a text can never be embedded.
            OptionError: an option cannot work.
            JournalError: the journal cannot be read.
        """
        given = (count, tokens_each, workers, quota)
        if texts is not None and all(each is None for each in given):
            return make_plan(
                self._pipeline,
                texts,
                tier=tier,
                requests_per_minute=requests_per_minute,
                tokens_per_minute=tokens_per_minute,
                price=price,
            )
        return make_fleet_plan(
            self._pipeline,
            texts,
            count=count,
            tokens_each=tokens_each,
            workers=1 if workers is None else workers,
            quota=quota,
            tier=tier,
            requests_per_minute=requests_per_minute,
            tokens_per_minute=tokens_per_minute,
            price=price,
        )

    def prefetch(self, texts: Iterable[str], *, max_buffered: int = 20_000) -> Prefetch:
        """Embed texts in the background, for callers that ask for them in small portions.

        ```python
        with embeddings.prefetch(doc.page_content for doc in docs):
            index(docs, record_manager, store, batch_size=100)
        ```

        While the `with` block runs, every `embed_documents` of this object is answered from vectors
        that have arrived, and waits only for vectors that are on their way. Other texts are
        embedded as usual. A text that cannot be embedded fails in the call that asks for it.
        A vector is dropped when it is handed out for the last time. Vectors that nobody has asked
        for at the end of the block are kept only by a journal.

        Args:
            texts: the texts that will be asked for, each as often as it will be, and best in that
                order.
            max_buffered: vectors held at a time, here or on their way. At 1,536 dimensions a vector
                takes 6 KB, so 20,000 take 120 MB, and as much again while they arrive.

        Raises:
            InputTypeError: not an iterable of strings.
            OptionError: `max_buffered` is not a whole number of at least 1.
        """
        return self._pipeline.prefetch(texts, max_buffered=max_buffered)

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

        Documents are read when they are needed, so they may be a generator over more than fits into
        memory. The store's own `add_documents` writes them in order, in this thread. Halving finds
        a document that cannot be embedded or written. It is in the report, and all others are in
        the store. With a journal, a second run pays for nothing twice. Whether it also writes
        nothing twice depends on the store and the ids. While it runs, a store with a SQLite
        connection of its own (`_connection`, as SQLiteVec) has a page cache of at least 32 MB.

        Args:
            store: a vector store whose embeddings are this object.
            documents: any iterable.
            ids: one a document; `None`: the documents' own, or those that the store makes.
            batch_size: documents in one call of the store, at most; `None`: its `chunk_size`,
                which Supabase writes in one statement, or 1,024. A store that writes a call in
                several parts may keep some of them when another part fails. It needs ids, or the
                documents of those parts are stored twice.
            max_buffered: documents read ahead, and so vectors held at a time, here or on their
                way; at least `batch_size`.
            show_progress: show a `tqdm.auto` bar that counts documents; `None`: as this object.

        Raises:
            OptionError: the store uses other embeddings, or there are not as many ids as
                documents.
            IngestError: several documents in a row failed, and none between them succeeded.
            Exception: whatever `documents` raises, with a note of how many documents are stored.
        """
        return ingest(
            self._pipeline,
            store,
            documents,
            embeddings=self,
            ids=ids,
            batch_size=batch_size,
            max_buffered=max_buffered,
            show_progress=self._options.show_progress if show_progress is None else show_progress,
            cancelled=_cancelled,
        )

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

        It takes and raises what `ingest` does. Another thread reads the documents and calls the
        store. A SQLite connection has to allow that: `check_same_thread=False`.
        Cancelling the task stops it after the batch that is being written.
        """
        return await event_loop.in_thread(
            lambda cancelled: self.ingest(
                store,
                documents,
                ids=ids,
                batch_size=batch_size,
                max_buffered=max_buffered,
                show_progress=show_progress,
                _cancelled=cancelled,
            ),
            self._pipeline.wake,
        )

    def __getstate__(self) -> dict[str, Any]:
        """Pickle the options and what a subclass has added; locks and threads are made again."""
        return {
            "embeddings": pack_up(self.embeddings),
            "options": self._options,
            "added": {name: value for name, value in vars(self).items() if name not in _SET_HERE},
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Make the object from its options, as a subclass's `__init__` may take other arguments."""
        self._set_up(unpack(state["embeddings"]), state["options"])
        vars(self).update(state["added"])
