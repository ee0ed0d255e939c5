"""`BatchEmbeddings`, the public class; `calls` and `stores` do its work."""

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

from langchain_batch_embed.batch_api import Desk, Job, OnTheWay
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
from langchain_batch_embed.limits import Limits, plain
from langchain_batch_embed.options import Empty, Option, Options, check_names, deployments_of
from langchain_batch_embed.providers.copies import pack_up, unpack
from langchain_batch_embed.providers.replaced import warn_of_replaced
from langchain_batch_embed.report import IngestReport, Report, Usage
from langchain_batch_embed.shared.quota import SharedQuota
from langchain_batch_embed.stores.ingest import ingest
from langchain_batch_embed.texts.inputs import LongInputs

__all__ = ["BatchEmbeddings"]

_SET_HERE = frozenset({"_assembly", "_on_the_way", "_options"})
"""The attributes that this class sets. Any others belong to a subclass."""


class BatchEmbeddings(Embeddings):
    """Embeds many texts fast, in token-aware, parallel batches, with any `Embeddings` object.

    Setup:
        Run `pip install langchain-batch-embed`, install the package of the class that you wrap,
        and set that class's API key.

    Key init args:
        embeddings: the `Embeddings` object that makes the vectors, or a string of its provider and
            model for LangChain's `init_embeddings`, such as `"openai:text-embedding-3-small"`. The
            object's options are read once, here, and a warning names those that behave differently
            from now on. Several deployments, regions or accounts of one model can be given as a
            list and are used as one. Each of them has its own quota, pace and health, and every
            request goes to one that has room.
        max_batch_size: the most texts in one request; OpenAI accepts 2,048. `None`: the provider's
            limit, also for the next three options.
        max_tokens_per_request: the most tokens in one request; OpenAI accepts 300,000.
        max_tokens_per_input: the most tokens in one text; `long_inputs` applies to longer ones.
            OpenAI accepts 8,191.
        max_workers: the most requests in flight at each deployment. Each request uses a thread.
        requests_per_minute: your quota of requests, in total for all deployments, which get equal
            parts of it. `None`: learnt from the headers and refusals of the server.
        tokens_per_minute: your quota of tokens; otherwise like `requests_per_minute`.
        long_inputs: what to do with a text of more than `max_tokens_per_input` tokens. `"average"`
            embeds it in windows and returns their token-weighted mean at unit length, as
            `OpenAIEmbeddings` does; `"truncate"` embeds its beginning; `"error"` raises
            `InputError` before anything is sent.
        max_retries: how often a text may fail with temporary errors while others are answered. With
            0, a text that is sent alone and gets a 5xx error is not sent again, even if no other
            request is in flight.
        timeout: seconds for one request. `None`: the wrapped object's time-out, or 120 if it has
            none.
        deadline: seconds for one call. Texts that have no vector when it passes are reported as
            failed. `None`: no limit.
        journal: where finished vectors are kept: a path (SQLite), a LangChain `ByteStore` or a
            `Journal`. `None`: in memory, and only after a failed call, until a later call has used
            them.
        model: the model's name, for the journal and the price. It is needed where the wrapped
            object does not name its model, or several deployments name one model differently.
        limits: a `Limits` object to use in place of the recognised provider's limits.
        show_progress: whether to show a `tqdm.auto` bar that counts texts. `None`: shown if the
            wrapped object is set to show one.
        hedge: whether to send a late request a second time at the end of a call, and use the answer
            that comes first. Both are billed, so this is done for at most 5 % of a call's tokens,
            plus what is in flight at one of several deployments that has stopped answering. `None`:
            only at hosted providers, and not with a `rate_limiter`.
        max_outage: seconds without any answer after which a call gives up; 600 by default.
        empty: what to do with an empty text. `"error"` raises `InputError` before anything is sent.
            `"skip-vector"` returns the server's vector of the empty text or, where the server
            refuses that, its vector of a single space. `None`: `"skip-vector"` if the wrapped
            object's `skip_empty` is set, otherwise an error where the provider refuses empty texts.
        rate_limiter: a `BaseRateLimiter` of langchain-core, which is asked before each request. If
            it has `requests_per_second`, and `requests_per_minute` is not given, that sets the
            quota.
        query_cache_size: how many of the most recent queries keep their vectors in memory; 0 for
            none.
        on_usage: a function that is called with the `Usage` of each answer, one at a time, in one
            of the threads that receive answers. The usages add up to what is billed, including
            queries and answers that come too late. An exception that it raises is only logged. It
            must not embed with this object, as the answer's request still holds its place.
        max_dollars: the most that one call, `prefetch`, `ingest` or `submit` may cost, in dollars.
            Texts beyond that are reported as failed, while `submit` sends nothing at all. It works
            only for models whose price is known.
        quota: a `SharedQuota`. All processes that name the same one stay within one account's quota
            together.

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
        OptionError: an option has a value that cannot work, or there is nothing to wrap.
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
        **unknown: Never,  # for an error that suggests the right name
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
        self._on_the_way = OnTheWay(lambda: self._assembly.journal)
        self._assembly = Assembly(wrapped, options, note_missing=self._on_the_way.note)

    @property
    def deployments(self) -> tuple[Embeddings, ...]:
        """The wrapped objects, in the order given; `embeddings` is the first of them.

        An `OpenAIEmbeddings` with the server, model and key of an earlier one is left out.
        """
        return self._assembly.deployments

    @property
    def _pipeline(self) -> Pipeline:
        return self._assembly.pipeline

    embeddings = Option["Embeddings"](
        lambda self: self.deployments[0],
        "The first of the wrapped objects.",
        make="BatchEmbeddings(other)",
    )
    limits = Option["Limits"](lambda self: self._assembly.limits, "The limits of one request.")
    journal = Option["Journal"](
        lambda self: self._assembly.journal, "The journal that keeps finished vectors."
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
        """What the last call did and cost, even if it failed; `None` before the first call.

        After the `with` block of a `prefetch`, and after an `ingest`, the report covers the whole
        of it. While an `ingest` runs, the store's own calls for vectors that are already here have
        no reports.
        """
        return self._pipeline.last_report

    def embed_documents(
        self, texts: Iterable[str], chunk_size: int | None = None
    ) -> list[list[float]]:
        """Return one vector for each text, a list of d floats, in the order of the texts.

        Args:
            texts: any iterable of strings; identical ones are sent once.
            chunk_size: accepted because `OpenAIEmbeddings` has it, and ignored; `max_batch_size`
                sets the size of a request.

        Raises:
            InputError: a text can never be embedded; nothing was sent.
            PartialEmbeddingsError: some texts failed; the error holds the vectors of all others. If
                a single cause ended the call, the error is also of that exception's class.
            JournalError: the journal cannot be read; nothing was sent.
            DimensionsError: the journal or a `prefetch` holds vectors of some of the texts, and
                their dimensions differ from those of earlier calls.
        """
        del chunk_size
        return self._pipeline.lists(texts)

    def embed_numpy(self, texts: Iterable[str]) -> NDArray[np.float32]:
        """Return the vectors as a float32 array of shape (n, d), in a tenth of the memory of lists.

        Row i is the vector of text i.

        Args:
            texts: any iterable of strings; identical ones are sent once.

        Raises:
            InputError: a text can never be embedded; nothing was sent.
            PartialEmbeddingsError: some texts failed; the error holds the vectors of all others, as
                float32 of shape (d,). If a single cause ended the call, the error is also of that
                exception's class.
            JournalError: the journal cannot be read; nothing was sent.
            DimensionsError: the journal or a `prefetch` holds vectors of some of the texts, and
                their dimensions differ from those of earlier calls.
        """
        return self._pipeline.embed(texts, lists=False).array()

    def embed_query(self, text: str) -> list[float]:
        """Return the vector of one query, a list of d floats.

        A query is subject to the same quota and retries as documents. It is never read from the
        journal or written to it.

        Raises:
            InputError: the text can never be embedded; nothing was sent.
            PartialEmbeddingsError: the query failed. The error is also of the class of the
                provider's exception; where no class can be both, that exception itself is raised.
        """
        return self._pipeline.query(text)

    async def aembed_documents(
        self, texts: Iterable[str], chunk_size: int | None = None
    ) -> list[list[float]]:
        """Return one vector for each text, like `embed_documents`, without blocking the event loop.

        The arguments and the errors are those of `embed_documents`. If the task is cancelled, no
        further request is sent, and finished vectors are kept as after a failure.
        """
        del chunk_size
        return await event_loop.embed(self._pipeline, texts)

    async def aembed_query(self, text: str) -> list[float]:
        """Return the vector of one query, like `embed_query`, without blocking the event loop.

        The errors are those of `embed_query`.
        """
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
        """Predict the requests, price and time for embedding texts; nothing is sent.

        Texts whose vectors are in the journal are free. The time in seconds comes from a rehearsal
        in simulated time, with OpenAI's latency and the account's quota. The quota is taken from
        the first of these that has one: the arguments, the tier, this object's options, earlier
        answers.

        With `workers`, or with `count` for texts that do not exist yet, the result is a `FleetPlan`
        instead. It is calculated without a rehearsal, and shows which limit binds and what more
        workers or more quota would change.

        Args:
            texts: any iterable of strings.
            count: the number of texts, in place of `texts`.
            tokens_each: the average number of tokens in a text; required with `count`.
            workers: how many processes share the quota, each with a processor core of its own.
            quota: your account's quota, for a plan with `workers` or `count`.
            tier: your account's usage tier at OpenAI, 1 to 5.
            requests_per_minute: your account's quota of requests.
            tokens_per_minute: your account's quota of tokens.
            price: dollars per million tokens. `None`: OpenAI's list price for its models.

        Returns:
            A `Plan`, or a `FleetPlan` if any of `count`, `tokens_each`, `workers` and `quota` is
            given.

        Raises:
            InputError: a text can never be embedded.
            OptionError: an argument has a value that cannot work, or arguments do not go together.
            JournalError: the journal cannot be read.
        """
        count, tokens_each, workers = map(plain, (count, tokens_each, workers))
        tier, price = map(plain, (tier, price))
        requests_per_minute = plain(requests_per_minute)
        tokens_per_minute = plain(tokens_per_minute)
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
        """Send texts through OpenAI's Batch API, at half the price; return when they are uploaded.

        ```python
        job = embeddings.submit(texts)
        job.wait()  # or tomorrow, in another process: embeddings.jobs()[0].wait()
        SQLiteVec.from_texts(texts, embeddings)  # sends nothing: the journal has all vectors
        ```

        Most batches are answered within an hour. A batch that is not answered within a day is sent
        again. All texts are uploaded now. Batches are created now as long as the account's queue
        has room, and the remaining ones during calls of `Job.wait` or `Job.refresh`. Texts whose
        vectors are in the journal, or that an earlier job is embedding, are not sent. (An ordinary
        call for texts of a job pays for them again, and logs a warning.) After a
        crash, the same call therefore continues where the first one stopped, and nothing is paid
        for twice. The journal has to be a file.

        The texts are stored in files at OpenAI until their vectors are in the journal, and the
        files are then deleted. The journal never contains texts.

        Args:
            texts: any iterable of strings.
            finish_by: when everything has to be done: seconds from now, a `timedelta` from now, or
                a `datetime` with a time zone. `Job.wait` and `Job.refresh` send texts that would be
                late as ordinary requests, at full price.
            max_dollars: the most that the job may cost, in dollars. Nothing is sent if half price
                is already more, and no ordinary request is sent that would exceed it. `None`: this
                object's `max_dollars`.

        Raises:
            OptionError: the journal is not a file, the server has no Batch API for embeddings (such
                as Azure), `finish_by` is not above 0 seconds or has no time zone, or the price is
                over `max_dollars`. Nothing was uploaded.
            InputError: a text can never be embedded; nothing was uploaded.
            JournalError: the journal cannot be read or written.
            Exception: whatever the SDK raises. The next call does not upload again what was
                uploaded before the error.
        """
        return self._desk().submit(texts, finish_by=finish_by, max_dollars=max_dollars)

    def jobs(self) -> list[Job]:
        """Return the journal's jobs: first those that have not ended, then the others.

        The newest come first in each group.

        Raises:
            OptionError: the journal is not a file.
            JournalError: the journal cannot be read.
        """
        return self._desk().jobs()

    def prefetch(self, texts: Iterable[str], *, max_buffered: int = 20_000) -> Prefetch:
        """Embed texts in the background, for code that requests their vectors in small portions.

        ```python
        with embeddings.prefetch(doc.page_content for doc in docs):
            index(docs, record_manager, store, batch_size=100)
        ```

        While the `with` block runs, calls of this object's `embed_documents` use the vectors that
        have arrived, and wait only for texts that are being embedded. Other texts are embedded as
        usual. A text that cannot be embedded fails in the call that requests it. A vector is
        dropped after its last use. Vectors that were not requested by the end of the block are
        lost, unless there is a journal or the block ends with an exception.

        Args:
            texts: the texts that will be requested, each as many times as it will be requested,
                ideally in the same order.
            max_buffered: the most vectors held in memory or being embedded at a time. At 1,536
                dimensions a vector takes 6 KB, so 20,000 take 120 MB, and as much again while they
                arrive.

        Raises:
            InputTypeError: `texts` is not an iterable of strings.
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

        Documents are read only as they are needed, so `documents` can be a generator over more than
        fits into memory. The store's own `add_documents` writes them in order, in this thread.

        If the store is unreachable or busy, its calls are tried again for up to `max_outage`
        seconds. A call that is too large is halved, and the size is remembered. Halving also finds
        a document that cannot be embedded or written. The report lists that document, and all
        others are in the store. A few documents are written before more are paid for, so that a
        wrong table costs little.

        If the store accepts ids, every document has one before it is written. Writing the document
        again, after an error or in another run, then replaces its row. If the store accepts none,
        like SQLiteVec, another run adds the rows again, and `report.keeps_ids` is `False`. Within a
        run even such a store gets no document twice, because the ingest stops if it cannot find out
        whether a failed call was stored.

        During the ingest, a store that has its own SQLite connection (`_connection`, like
        SQLiteVec) gets a page cache of at least 32 MB.

        Args:
            store: a vector store that uses this object as its embeddings.
            documents: any iterable of documents.
            ids: one id for each document. `"content"`: ids are made from text and metadata, so
                equal documents become one row. `None`: each document's own id, or else one made
                from its content, so that a second run replaces rows; each of several equal
                documents gets an id of its own. If an id occurs twice, the last document counts.
            batch_size: the most documents in one call of the store. `None`: the store's
                `chunk_size` or `bulk_size`, or 1,024.
            max_buffered: how many documents are read ahead, and so how many vectors are held in
                memory or being embedded at a time; at least `batch_size`.
            show_progress: whether to show a `tqdm.auto` bar that counts documents. `None`: as this
                object's `show_progress`.

        Returns:
            What was stored, what failed, and how long it took.

        Raises:
            OptionError: `store` is not a vector store or does not use this object, the number of
                ids is not that of the documents, or an argument has a value that cannot work.
            InputTypeError: `documents` contains something that is not a `Document`, or is an
                asynchronous iterable.
            IngestError: nothing was stored, several whole batches failed in a row, the account or
                the embedding server failed for a whole batch, the store was unreachable for too
                long, or it cannot be found out what is stored. Vectors that are paid for are kept
                for the next call.
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

        The arguments, the result and the errors are those of `ingest`, and `documents` can also be
        an asynchronous iterable. The store's `aadd_documents` is awaited in this event loop. If a
        store has only LangChain's default for it, `add_documents` runs in another thread, and a
        SQLite connection must allow that with `check_same_thread=False`. An ordinary iterable of
        documents is also read in another thread. If the task is cancelled, the ingest stops after
        the batch that is being written.
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
        """Return the object that submits and finds jobs, with this process's pipeline."""
        pipeline = self._pipeline
        number = pipeline.fetcher.batch_number
        dimensions = Dimensions(pipeline.fetcher.known_dimensions)

        def embed_now(texts: list[str]) -> tuple[Report, Sequence[Failure]]:
            try:
                with self._on_the_way.silent():
                    return pipeline.embed_for_report(texts), ()
            except PartialEmbeddingsError as error:
                return error.report, error.failures

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
        """Close the journal's file, and end the prefetches that are open.

        A later call opens the file again. A journal object that the user made is left open. As a
        context manager, this object closes at the end of the `with` block.
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
        """Return the wrapped classes, model, server, limits and journal; never a key."""
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
        """Return the wrapped objects, the options and a subclass's attributes, to be pickled.

        Locks and threads are left out; unpickling makes new ones.
        """
        return {
            "deployments": [pack_up(each) for each in self.deployments],
            "options": self._options,
            "added": {name: value for name, value in vars(self).items() if name not in _SET_HERE},
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Set this object up from pickled options.

        It does not call `__init__`, because a subclass's may take other arguments.
        """
        self._set_up([unpack(each) for each in state["deployments"]], state["options"])
        vars(self).update(state["added"])


def _without_internals(function: Callable[..., Any]) -> inspect.Signature:
    """Return a function's signature for `help()`, without private parameters and `**unknown`."""
    signature = inspect.signature(function)
    shown = [
        each
        for each in signature.parameters.values()
        if not each.name.startswith("_") and each.kind is not each.VAR_KEYWORD
    ]
    return signature.replace(parameters=shown)


vars(BatchEmbeddings.__init__)["__signature__"] = _without_internals(BatchEmbeddings.__init__)
