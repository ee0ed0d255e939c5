"""`BatchEmbeddings`: the pipeline from texts to vectors.

texts -> inputs (unique, counted, over-long ones cut) -> those that are not kept already
-> batches -> paced, concurrent requests -> checked vectors (-> journal)
-> the caller's order
"""

import asyncio
import math
import os
import random
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NoReturn, TypeVar

import numpy as np
from langchain_core.embeddings import Embeddings
from langchain_core.stores import ByteStore
from numpy.typing import NDArray
from tqdm.auto import tqdm

from langchain_batch_embed.dispatch import SYSTEM_CLOCK, Clock, Dispatcher, Work
from langchain_batch_embed.errors import OptionError, PartialEmbeddingsError
from langchain_batch_embed.inputs import Inputs, LongInputs, check_texts, prepare
from langchain_batch_embed.journal import Journal, open_journal
from langchain_batch_embed.limits import Limits, limits_of
from langchain_batch_embed.options import check_options
from langchain_batch_embed.pacing import Pacer
from langchain_batch_embed.packing import pack
from langchain_batch_embed.providers import Answer, pack_up, provider_for, unpack
from langchain_batch_embed.recovery import Recovery
from langchain_batch_embed.report import Report, Tally, dollars
from langchain_batch_embed.results import Results
from langchain_batch_embed.tokens import counter_for

__all__ = ["BatchEmbeddings"]

_TIMEOUT = 120.0
"""Seconds for one request where nobody says otherwise. The largest one takes OpenAI some 2 s,
and one in a hundred many times that; a small machine's own server can take minutes."""

_T = TypeVar("_T")


class BatchEmbeddings(Embeddings):
    """Embeds many texts fast: token-aware, parallel batches around any `Embeddings`.

    Setup:
        `pip install langchain-batch-embed`, and the package of the wrapped class with its key.

    Key init args:
        embeddings: the `Embeddings` that makes the vectors.
        max_batch_size: texts a request; OpenAI takes 2,048.
        max_tokens_per_request: tokens summed over a request; OpenAI takes 300,000.
        max_tokens_per_input: tokens a text, before `long_inputs` applies; 8,191 at OpenAI.
        max_workers: requests in flight at most, threads of one `ThreadPoolExecutor`.
        requests_per_minute: your quota; `None`: learnt from the answers' headers.
        tokens_per_minute: your quota; `None`: learnt from the answers' headers.
        long_inputs: for a text over `max_tokens_per_input`: `"average"` embeds its windows and
            returns their token-weighted mean at unit length, as `OpenAIEmbeddings` does;
            `"truncate"` embeds its beginning; `"error"` refuses it before anything is sent.
        max_retries: how often one batch is sent again after errors that pass.
        timeout: seconds for one request; `None`: the wrapped object's own, or 120.
        deadline: seconds for one call; what is not done by then is reported as failed.
        journal: where finished vectors are kept: a path (SQLite), a LangChain `ByteStore`, or
            `None`: in memory, from a failed call until one that needs them succeeds.
        model: the model's name, for the journal and the price, where the wrapped object does
            not tell it.
        limits: limits in place of those of the provider that is recognised.
        show_progress: show a `tqdm.auto` bar that counts texts.

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
        _clock: Clock = SYSTEM_CLOCK,
        _draw: Callable[[], float] = random.random,
        **unknown: Any,
    ) -> None:
        self._options = {k: v for k, v in locals().items() if k not in ("self", "unknown")}
        check_options(type(self).__init__, self._options, unknown)
        self.embeddings = embeddings
        self.limits = (limits or limits_of(embeddings)).override(
            max_batch_size=max_batch_size,
            max_tokens_per_request=max_tokens_per_request,
            max_tokens_per_input=max_tokens_per_input,
            max_workers=max_workers,
        )
        self.last_report: Report | None = None
        self._long_inputs: LongInputs = long_inputs
        self._deadline = deadline
        self._show_progress = show_progress
        self._provider = provider_for(embeddings, limits=self.limits, model=model)
        self._counter = counter_for(self._provider.encoding)
        self._width: int | None = None  # of the vectors, once some have come
        self.journal = open_journal(journal)
        if self.journal.persistent and not self._provider.space.model:
            raise OptionError(
                f"{type(embeddings).__name__} does not say which model it uses, and a journal must "
                "not mix models: pass model= with its name"
            )
        self._recovery = Recovery(self.journal, self._provider.space)
        self._dispatcher = Dispatcher(
            Pacer(
                max_workers=self.limits.max_workers,
                requests_per_minute=requests_per_minute,
                tokens_per_minute=tokens_per_minute,
            ),
            max_workers=self.limits.max_workers,
            max_retries=max_retries,
            timeout=timeout or self._provider.timeout or _TIMEOUT,
            clock=_clock,
            draw=_draw,
        )

    def embed_documents(self, texts: Iterable[str]) -> list[list[float]]:
        """Return one vector a text, in order.

        Args:
            texts: any iterable of strings; identical ones are sent once.

        Raises:
            InputError: a text can never be embedded; nothing was sent.
            PartialEmbeddingsError: some texts failed; it holds the vectors of all others.
        """
        return self._embed(texts).lists()

    def embed_numpy(self, texts: Iterable[str]) -> NDArray[np.float32]:
        """Return the vectors as float32, shape (n, d): a tenth of the memory of lists.

        Raises:
            InputError: a text can never be embedded; nothing was sent.
            PartialEmbeddingsError: some texts failed; it holds the vectors of all others.
        """
        return self._embed(texts, lists=False).array()

    def embed_query(self, text: str) -> list[float]:
        """Return the vector of one query, within the same quota and with the same retries.

        Raises:
            InputError: the text can never be embedded; nothing was sent.
            Exception: the provider's own, where no retry helped.
        """
        try:
            return self._embed([text], query=True).lists()[0]
        except PartialEmbeddingsError as error:
            _raise_cause(error)

    async def aembed_documents(self, texts: Iterable[str]) -> list[list[float]]:
        """Return one vector a text, without blocking the event loop.

        Cancelling the task stops the work: no further request starts, and what is finished is
        kept as after a failure. Raises as `embed_documents` does.
        """
        return await self._in_thread(
            lambda cancelled: self._embed(texts, cancelled=cancelled).lists()
        )

    async def aembed_query(self, text: str) -> list[float]:
        """Return the vector of one query, without blocking the event loop."""
        try:
            return await self._in_thread(
                lambda cancelled: self._embed([text], query=True, cancelled=cancelled).lists()[0]
            )
        except PartialEmbeddingsError as error:
            _raise_cause(error)

    def __getstate__(self) -> dict[str, Any]:
        """Pickle the options alone: locks, threads and learnt limits are made anew."""
        return {**self._options, "embeddings": pack_up(self.embeddings)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Make the object from its options."""
        self.__init__(**{**state, "embeddings": unpack(state["embeddings"])})  # type: ignore[misc]

    # ---- the pipeline ----

    def _embed(
        self,
        texts: Iterable[str],
        *,
        lists: bool = True,
        query: bool = False,
        cancelled: threading.Event | None = None,
    ) -> Results:
        clock = self._dispatcher.clock
        started = clock.now()
        given = check_texts(texts)
        inputs = prepare(
            given, counter=self._counter, limits=self.limits, long_inputs=self._long_inputs
        )
        results = Results(inputs, width=self._width, lists=lists)
        safe = self._recovery.begin(inputs, results, query=query)
        tally = Tally(recalled=safe.recall())
        missing = inputs.sent[~results.done[inputs.sent]]
        work = Work(
            batches=self._batches(inputs, missing),
            weights=inputs.weights,
            charges=inputs.charges,
            send=self._sender(inputs, query=query),
            keep=safe.keep,
        )
        try:
            with tqdm(total=len(given), unit=" texts", disable=not self._show_progress) as bar:
                for outcome in self._dispatcher.run(
                    work, tally, deadline=self._deadline, cancelled=cancelled
                ):
                    results.take(outcome)
                    if self._show_progress:
                        bar.update(results.texts_done() - bar.n)
            if cancelled is not None and cancelled.is_set():
                raise asyncio.CancelledError
            failures = results.finish()
        except BaseException:
            safe.failed()
            raise
        finally:
            self._width = results.width
            self.last_report = Report.of(
                tally,
                texts=len(given),
                unique=inputs.unique,
                done=results.texts_done(),
                seconds=clock.now() - started,
                dollars=dollars(self._provider.model, tally.tokens),
            )
        if failures:
            safe.failed()
            raise PartialEmbeddingsError(
                results.partial(), failures, self.last_report
            ) from failures[0].error
        safe.succeeded()
        return results

    def _batches(self, inputs: Inputs, rows: NDArray[np.intp]) -> list[NDArray[np.intp]]:
        """Pack the rows, under the provider's limits and those that were learnt."""
        shared = self._dispatcher
        with shared.changed:
            requests = shared.pacer.requests.rate
            tokens = [shared.learnt_tokens, shared.pacer.largest()]
            items = min(self.limits.max_batch_size, shared.learnt_items)
            first = shared.pacer.window.opening()
        if self.limits.max_tokens_per_request is not None:
            tokens.append(self.limits.max_tokens_per_request)
        packed = pack(
            inputs.weights[rows],
            max_items=int(items),
            max_tokens=None if min(tokens) == math.inf else int(min(tokens)),
            workers=self.limits.max_workers,
            requests_per_minute=None if requests is None else requests * 60,
        )
        # While nothing is known of the quota the next requests wait for the first answers, so
        # the smallest batches, which are at the end, go first.
        opened = [*packed[-first:], *packed[:-first]] if 0 < first < len(packed) else packed
        return [rows[batch.start : batch.stop] for batch in opened]

    def _sender(
        self, inputs: Inputs, *, query: bool
    ) -> Callable[[NDArray[np.intp], float], Answer]:
        send = self._provider.send_query if query else self._provider.send

        def send_rows(rows: NDArray[np.intp], timeout: float) -> Answer:
            return send([inputs.texts[row] for row in rows.tolist()], timeout=timeout)

        return send_rows

    async def _in_thread(self, work: Callable[[threading.Event], _T]) -> _T:
        """Run a call in a thread of its own; cancelling the task stops it."""
        cancelled = threading.Event()
        # Not the loop's default executor: its few threads would hold up further calls.
        executor = ThreadPoolExecutor(1, "batch-embed-async")
        try:
            return await asyncio.get_running_loop().run_in_executor(executor, work, cancelled)
        except asyncio.CancelledError:
            cancelled.set()
            self._dispatcher.wake()
            raise
        finally:
            executor.shutdown(wait=False)


def _raise_cause(error: PartialEmbeddingsError) -> NoReturn:
    """Raise what kept the one text of a query from being embedded."""
    raise error.failures[0].error from None
