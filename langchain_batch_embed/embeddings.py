"""`BatchEmbeddings`: its options and its methods; `calls` and `stores` do the work."""

import asyncio
import inspect
import os
import random
from collections.abc import AsyncIterable, Callable, Iterable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, Literal, Never, Self, overload

import numpy as np
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.rate_limiters import BaseRateLimiter
from langchain_core.stores import ByteStore
from langchain_core.vectorstores import VectorStore
from numpy.typing import NDArray

from langchain_batch_embed.batch_api import Desk, Job
from langchain_batch_embed.calls import event_loop
from langchain_batch_embed.calls.assembly import Assembly
from langchain_batch_embed.calls.dimensions import Dimensions
from langchain_batch_embed.calls.estimate import AccountQuota
from langchain_batch_embed.calls.fleet_plan import FleetPlan, make_fleet_plan
from langchain_batch_embed.calls.pipeline import Pipeline
from langchain_batch_embed.calls.plan import Plan, make_plan, ordinary_seconds
from langchain_batch_embed.calls.prefetch import Prefetch
from langchain_batch_embed.clock import SYSTEM_CALENDAR, SYSTEM_CLOCK, Calendar, Clock
from langchain_batch_embed.errors import Failure, PartialEmbeddingsError
from langchain_batch_embed.journal import Journal
from langchain_batch_embed.limits import Limits
from langchain_batch_embed.options import Empty, Option, Options, check_names, deployments_of
from langchain_batch_embed.providers.copies import pack_up, unpack
from langchain_batch_embed.providers.replaced import warn_of_replaced
from langchain_batch_embed.report import IngestReport, Report, Usage
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
        embeddings: the `Embeddings` that makes the vectors, or a name with its provider, such as
            `"openai:text-embedding-3-small"`, for LangChain's `init_embeddings`. Its options are
            read once, here. Those that do not act as before are named in a warning. Or a list of
            several: deployments, regions or accounts of one model, used as one. Each has its own
            quota, pace and health, and work goes where there is room.
        max_batch_size: texts in one request; OpenAI takes 2,048.
        max_tokens_per_request: tokens in one request; OpenAI takes 300,000.
        max_tokens_per_input: tokens in one text, above which `long_inputs` applies; 8,191 at
            OpenAI.
        max_workers: requests in flight at most, at each deployment, each in a thread.
        requests_per_minute: your quota, of all deployments together and the same at each; `None`:
            read from the answers' headers.
        tokens_per_minute: the same for tokens.
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
        show_progress: show a `tqdm.auto` bar that counts texts; `None`: as the wrapped object does.
        hedge: send a straggler at the end of a call a second time, and use the first answer. Both
            are paid for, so never more than 5 % of the tokens, beside what is in flight at one of
            several deployments that has stopped. `None`: only at hosted providers.
        max_outage: seconds without any answer after which a call gives up; 600 by default.
        empty: what to do with an empty text. `"error"` refuses it before anything is sent;
            `"skip-vector"` gives it the server's vector of it or, where the server refuses it, of
            a space. `None`: `"skip-vector"` if the wrapped object has `skip_empty`, else an error
            where the provider refuses it.
        rate_limiter: a `BaseRateLimiter` of langchain-core, asked before each request.
        query_cache_size: queries whose vectors are kept in memory, those asked last; 0: none.
        on_usage: called with the `Usage` of each answer, one at a time, in the thread that received
            it. Its sum is what is billed, queries and late answers among them.
        max_dollars: what one call, `prefetch` or `ingest` may cost. Texts that it cannot afford are
            reported as failed. Only for models whose price is known.
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
        embeddings: Embeddings | str | Iterable[Embeddings | str],
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
        show_progress: bool | None = None,
        hedge: bool | None = None,
        max_outage: float = Options.max_outage,
        empty: Empty | None = None,
        rate_limiter: BaseRateLimiter | None = None,
        query_cache_size: int = 0,
        on_usage: Callable[[Usage], object] | None = None,
        max_dollars: float | None = None,
        quota: SharedQuota | None = None,
        _clock: Clock = SYSTEM_CLOCK,
        _calendar: Calendar = SYSTEM_CALENDAR,
        _draw: Callable[[], float] = random.random,
        **unknown: Never,  # for an error that names what there is
    ) -> None:
        check_names(unknown)
        wrapped = deployments_of(embeddings, BatchEmbeddings)
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
            empty=empty,
            rate_limiter=rate_limiter,
            query_cache_size=query_cache_size,
            on_usage=on_usage,
            max_dollars=max_dollars,
            quota=quota,
            clock=_clock,
            calendar=_calendar,
            draw=_draw,
        )
        self._set_up(wrapped, options)
        for each in self.deployments:
            warn_of_replaced(each, self.limits)

    def _set_up(self, wrapped: Sequence[Embeddings], options: Options) -> None:
        self._options = options
        self._assembly = Assembly(wrapped, options)
        self.embeddings = self._assembly.deployments[0]

    @property
    def deployments(self) -> tuple[Embeddings, ...]:
        """The wrapped objects, in order; `embeddings` is the first of them."""
        return self._assembly.deployments

    @property
    def _pipeline(self) -> Pipeline:
        return self._assembly.pipeline

    limits = Option["Limits"](lambda self: self._assembly.limits, "What one request may hold.")
    journal = Option["Journal"](
        lambda self: self._assembly.journal, "Where finished vectors are kept."
    )
    model = Option["str | None"](lambda self: self._pipeline.provider.model, "The model's name.")
    max_batch_size = Option["int"](lambda self: self.limits.max_batch_size)
    max_tokens_per_request = Option["int | None"](lambda self: self.limits.max_tokens_per_request)
    max_tokens_per_input = Option["int | None"](lambda self: self.limits.max_tokens_per_input)
    max_workers = Option["int"](lambda self: self.limits.max_workers)
    requests_per_minute = Option["float | None"](lambda self: self._options.requests_a_minute())
    tokens_per_minute = Option["float | None"](lambda self: self._options.tokens_per_minute)
    long_inputs = Option["LongInputs"](lambda self: self._options.long_inputs)
    max_retries = Option["int"](lambda self: self._options.max_retries)
    timeout = Option["float"](
        lambda self: self._options.timeout_for(self._pipeline.provider.timeout)
    )
    deadline = Option["float | None"](lambda self: self._options.deadline)
    show_progress = Option["bool"](lambda self: self._assembly.shows_progress)
    hedge = Option["bool"](lambda self: self._options.hedges(self.limits))
    max_outage = Option["float"](lambda self: self._options.max_outage)
    empty = Option["Empty | None"](
        lambda self: (
            "skip-vector"
            if any(map(self._options.replaces_empty, self.deployments))
            else self._options.empty
        )
    )
    rate_limiter = Option["BaseRateLimiter | None"](lambda self: self._options.rate_limiter)
    query_cache_size = Option["int"](lambda self: self._options.query_cache_size)
    on_usage = Option["Callable[[Usage], object] | None"](lambda self: self._options.on_usage)
    max_dollars = Option["float | None"](lambda self: self._options.max_dollars)
    quota = Option["SharedQuota | None"](lambda self: self._options.quota)

    @property
    def last_report(self) -> Report | None:
        """What the last call did and cost, also where it failed; `None` before the first.

        After the `with` block of a `prefetch`, and after an `ingest`, it covers all of that. A call
        of the store for vectors that an `ingest` holds already has no report of its own.
        """
        return self._pipeline.last_report

    def embed_documents(
        self, texts: Iterable[str], chunk_size: int | None = None
    ) -> list[list[float]]:
        """Return one vector a text, in order.

        Args:
            texts: any iterable of strings; identical ones are sent once.
            chunk_size: taken as `OpenAIEmbeddings` takes it, and not used: `max_batch_size` is.

        Raises:
            InputError: a text can never be embedded; nothing was sent.
            PartialEmbeddingsError: some texts failed; it holds the vectors of all others. Where one
                cause ended the call it is of the cause's class too.
            JournalError: the journal cannot be read; nothing was sent.
            DimensionsError: the journal or a `prefetch` holds vectors for the texts with other
                dimensions than those of earlier calls.
        """
        del chunk_size
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
            PartialEmbeddingsError: it failed; the error is of the class of the provider's own too.
        """
        return self._pipeline.query(text)

    async def aembed_documents(
        self, texts: Iterable[str], chunk_size: int | None = None
    ) -> list[list[float]]:
        """Return one vector a text, without blocking the event loop.

        Cancelling the task stops the work. No further request starts, and finished vectors are
        kept as after a failure. It raises what `embed_documents` raises.
        """
        del chunk_size
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

    def submit(
        self,
        texts: Iterable[str],
        *,
        finish_by: float | timedelta | datetime | None = None,
        max_dollars: float | None = None,
    ) -> Job:
        """Send texts through OpenAI's Batch API, at half the price; return at once.

        ```python
        job = embeddings.submit(texts)
        job.wait()  # or tomorrow, in another process: embeddings.jobs()[0].wait()
        SQLiteVec.from_texts(texts, embeddings)  # no request: all is in the journal
        ```

        Most batches are answered within an hour, and all within a day or sent again. The texts are
        uploaded now. Batches are created as far as the account's queue has room, the others while
        somebody calls `Job.wait` or `Job.refresh`. Texts whose vectors are in the journal, or on
        their way in an earlier job, are not sent. So after a crash the same call goes on where it
        was, and nothing is paid for twice. It needs a journal in a file.

        The texts are in files at OpenAI until their vectors are in the journal. Then the files are
        deleted. The journal has no text.

        Args:
            texts: any iterable of strings.
            finish_by: when everything is to be done: seconds from now, a `timedelta`, or a
                `datetime` with its zone. `Job.wait` and `Job.refresh` send what is late by ordinary
                requests, at full price.
            max_dollars: nothing is sent if it costs more at half price, and no ordinary request if
                that would cost more. `None`: this object's `max_dollars`.

        Raises:
            OptionError: the journal is no file, or the server has no Batch API for embeddings, as
                Azure; or the price is over `max_dollars`. Nothing was uploaded.
            InputError: a text can never be embedded; nothing was uploaded.
            JournalError: the journal cannot be read or written.
            Exception: whatever the SDK raises. What was uploaded is not uploaded again.
        """
        return self._desk().submit(texts, finish_by=finish_by, max_dollars=max_dollars)

    def jobs(self) -> list[Job]:
        """Return the jobs that the journal knows: first those that have not ended, newest first.

        Raises:
            OptionError: the journal is no file.
            JournalError: the journal cannot be read.
        """
        return self._desk().jobs()

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
        ids: Iterable[str] | Literal["content"] | None = None,
        batch_size: int | None = None,
        max_buffered: int = 8_000,
        show_progress: bool | None = None,
    ) -> IngestReport:
        """Add any number of documents to a store; embedding and writing overlap.

        Documents are read when they are needed, so they may be a generator over more than fits into
        memory. The store's own `add_documents` writes them in order, in this thread.

        A store that is away or busy is waited for, up to `max_outage`. A call that is too large is
        halved, and the size is remembered. Halving also finds a document that cannot be embedded
        or written: it is in the report, and all others are in the store. A few documents are
        written before more are paid for, so that a wrong table costs little.

        Every document has an id before it is written, where the store takes ids. Writing it again,
        after an error or in another run, replaces its row. Where the store takes none, as
        SQLiteVec, another run adds rows again, and `report.keeps_ids` is `False`. Nothing is
        written twice there within a run: if nothing tells what became of a call, the ingest stops.

        While it runs, a store with a SQLite connection of its own (`_connection`, as SQLiteVec) has
        a page cache of at least 32 MB.

        Args:
            store: a vector store whose embeddings are this object.
            documents: any iterable.
            ids: one a document. `"content"`: made of text and metadata, so that equal documents are
                one row. `None`: the documents' own, else made of the content, so that a second run
                replaces rows, and one for each of several equal documents. Where an id comes twice,
                the last document counts.
            batch_size: documents in one call of the store, at most; `None`: its `chunk_size` or
                `bulk_size`, or 1,024.
            max_buffered: documents read ahead, and so vectors held at a time, here or on their
                way; at least `batch_size`.
            show_progress: show a `tqdm.auto` bar that counts documents; `None`: as this object.

        Raises:
            OptionError: not a store, one that uses other embeddings, or not as many ids as
                documents.
            IngestError: nothing was stored, whole batches failed one after the other, the store was
                away for too long, or it cannot tell what it has stored. Vectors that are paid for
                are kept for the next call.
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
            show_progress=self.show_progress if show_progress is None else show_progress,
            patience=self._options.max_outage,
            draw=self._options.draw,
        )

    async def aingest(
        self,
        store: VectorStore,
        documents: Iterable[Document] | AsyncIterable[Document],
        *,
        ids: Iterable[str] | Literal["content"] | None = None,
        batch_size: int | None = None,
        max_buffered: int = 8_000,
        show_progress: bool | None = None,
    ) -> IngestReport:
        """Add any number of documents to a store, without blocking the event loop.

        It takes and raises what `ingest` does, and takes asynchronous iterables, too. The store's
        `aadd_documents` is awaited in this loop. Where that is LangChain's own, it calls
        `add_documents` in another thread, which a SQLite connection has to allow:
        `check_same_thread=False`. Another thread also reads the documents of an ordinary iterable.
        Cancelling the task stops it after the batch that is being written.
        """
        loop = asyncio.get_running_loop()
        return await event_loop.in_thread(
            lambda cancelled: ingest(
                self._pipeline,
                store,
                documents,
                embeddings=self,
                ids=ids,
                batch_size=batch_size,
                max_buffered=max_buffered,
                show_progress=self.show_progress if show_progress is None else show_progress,
                patience=self._options.max_outage,
                draw=self._options.draw,
                cancelled=cancelled,
                loop=loop,
            ),
            self._pipeline.wake,
        )

    def _desk(self) -> Desk:
        """Return where jobs come in, of this process."""
        pipeline = self._pipeline
        number = pipeline.fetcher.batch_number
        dimensions = Dimensions(pipeline.fetcher.known_dimensions)

        def embed_now(texts: list[str]) -> tuple[Report, Sequence[Failure]]:
            try:
                pipeline.embed(texts, lists=False)
            except PartialEmbeddingsError as error:
                return error.report, error.failures
            assert pipeline.last_report is not None  # noqa: S101  # of the call just now
            return pipeline.last_report, ()

        return Desk(
            journal=self.journal,
            provider=pipeline.fetcher.providers[number],
            limits=replace(
                self.limits, provider=self._options.limits_for(self.deployments[number]).provider
            ),
            prepare=pipeline.prepare,
            embed_now=embed_now,
            seconds=lambda inputs, rows: ordinary_seconds(pipeline, inputs, rows),
            agree=lambda number, model: dimensions.check(number, answer=True, model=model),
            expect_model=dimensions.expect_model,
            on_usage=pipeline.fetcher.on_usage,
            max_dollars=self._options.max_dollars,
            calendar=self._options.calendar,
        )

    def close(self) -> None:
        """Release the journal's file, and end the prefetches that are open.

        A later call opens the file again. A `with` block closes at its end.
        """
        self._assembly.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        """Name what is wrapped, and within which limits; no key."""
        names = ", ".join(type(each).__name__ for each in self.deployments)
        servers = ", ".join(
            repr(each.server) for each in self._pipeline.dispatcher.sender.deployments
        )
        if len(self.deployments) > 1:
            names, servers = f"[{names}]", f"[{servers}]"
        limits = ", ".join(
            f"{name}={getattr(self, name)!r}"
            for name in ("max_batch_size", "max_tokens_per_request", "max_workers")
        )
        journal = self._options.journal
        if journal is not None:
            path = getattr(self.journal, "path", None)
            journal = type(journal).__name__ if path is None else str(path)
        return (
            f"{type(self).__name__}({names}, model={self.model!r}, "
            f"server={servers}, {limits}, journal={journal!r})"
        )

    def __getstate__(self) -> dict[str, Any]:
        """Pickle the options and what a subclass has added; locks and threads are made again."""
        return {
            "deployments": [pack_up(each) for each in self.deployments],
            "options": self._options,
            "added": {name: value for name, value in vars(self).items() if name not in _SET_HERE},
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Make the object from its options, as a subclass's `__init__` may take other arguments."""
        self._set_up([unpack(each) for each in state["deployments"]], state["options"])
        vars(self).update(state["added"])


def _without_internals(function: Callable[..., Any]) -> inspect.Signature:
    """Return a signature for `help()`, without what is only for tests and for error messages."""
    signature = inspect.signature(function)
    shown = [
        each
        for each in signature.parameters.values()
        if not each.name.startswith("_") and each.kind is not each.VAR_KEYWORD
    ]
    return signature.replace(parameters=shown)


vars(BatchEmbeddings.__init__)["__signature__"] = _without_internals(BatchEmbeddings.__init__)
