"""The pipeline from texts to vectors, readable in one screen.

texts -> inputs (unique, counted, over-long ones cut) -> those that are not kept already
-> batches -> paced, concurrent requests -> checked vectors (-> journal)
-> the caller's order
"""

import asyncio
import math
import threading
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from langchain_batch_embed.dispatch import Dispatcher, Done, Work
from langchain_batch_embed.errors import InputError, PartialEmbeddingsError
from langchain_batch_embed.inputs import Inputs, LongInputs, check_texts, prepare
from langchain_batch_embed.limits import Limits
from langchain_batch_embed.packing import pack
from langchain_batch_embed.prefetch import Arrived, Prefetch
from langchain_batch_embed.providers import Answer, Provider
from langchain_batch_embed.recovery import Recovery
from langchain_batch_embed.report import Report, Tally, dollars
from langchain_batch_embed.results import Results
from langchain_batch_embed.tokens import TokenCounter

__all__ = ["Pipeline"]


class Pipeline:
    """What one `BatchEmbeddings` is made of; all its calls go through here.

    Attributes:
        last_report: what the last call did, also where it failed.
        prefetches: those that are open; replaced as a whole, so never seen half changed.
    """

    def __init__(
        self,
        *,
        limits: Limits,
        provider: Provider,
        counter: TokenCounter,
        dispatcher: Dispatcher,
        recovery: Recovery,
        long_inputs: LongInputs,
        deadline: float | None,
        show_progress: bool,
    ) -> None:
        self.limits = limits
        self.provider = provider
        self.counter = counter
        self.dispatcher = dispatcher
        self.recovery = recovery
        self._long_inputs: LongInputs = long_inputs
        self._deadline = deadline
        self._show_progress = show_progress
        self._width: int | None = None  # of the vectors, once some have come
        self.last_report: Report | None = None
        self.prefetches: tuple[Prefetch, ...] = ()

    def embed(
        self,
        texts: Iterable[str],
        *,
        lists: bool = True,
        query: bool = False,
        cancelled: threading.Event | None = None,
        arrived: Arrived | None = None,
    ) -> Results:
        """Embed texts: everything that `BatchEmbeddings` promises happens in here.

        Args:
            texts: what the caller gave.
            lists: the caller wants lists of floats, which are then made on the way.
            query: the text is a query: not kept, and sent as the provider sends queries.
            cancelled: set, with a `wake` of the dispatcher, to stop from another thread.
            arrived: called with each text and its vector as answers come.

        Returns:
            The results, complete.

        Raises:
            InputError: a text can never be embedded; nothing was sent.
            PartialEmbeddingsError: some texts failed; it holds the vectors of all others.
            asyncio.CancelledError: it was cancelled.
        """
        clock = self.dispatcher.clock
        started = clock.now()
        given = check_texts(texts)
        inputs = prepare(
            given, counter=self.counter, limits=self.limits, long_inputs=self._long_inputs
        )
        results = Results(inputs, width=self._width, lists=lists)
        if arrived is None and not query:  # else this is what the prefetches wait for
            for prefetch in self.prefetches:
                prefetch.fill(inputs, results)
        safe = self.recovery.begin(inputs, results, query=query)
        tally = Tally(recalled=safe.recall())
        work = Work(
            batches=self._batches(inputs, inputs.missing(results.done)),
            weights=inputs.weights,
            charges=inputs.charges,
            send=self._sender(inputs, query=query),
            keep=safe.keep,
        )
        hidden = query or not self._show_progress
        try:
            with tqdm(total=len(given), unit=" texts", disable=hidden) as bar:
                for outcome in self.dispatcher.run(
                    work, tally, deadline=self._deadline, cancelled=cancelled
                ):
                    results.take(outcome)
                    if arrived is not None and isinstance(outcome, Done):
                        for row, vector in zip(outcome.rows, outcome.vectors, strict=True):
                            arrived(inputs.texts[row], vector)
                    if not hidden:
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
                dollars=dollars(self.provider.model, tally.tokens),
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
        shared = self.dispatcher
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
        send = self.provider.send_query if query else self.provider.send

        def send_rows(rows: NDArray[np.intp], timeout: float) -> Answer:
            return send([inputs.texts[row] for row in rows.tolist()], timeout=timeout)

        return send_rows

    def prefetch(self, *, max_buffered: int, until_released: bool = False) -> Prefetch:
        """Open a prefetch, from which all calls are answered until it is closed."""

        def embed(texts: list[str], arrived: Arrived, cancelled: threading.Event) -> None:
            results = self.embed(texts, lists=False, cancelled=cancelled, arrived=arrived)
            for text, vector in zip(texts, results.array(), strict=True):
                arrived(text, vector)  # those that were over-long, or in the journal

        def forget(prefetch: Prefetch) -> None:
            self.prefetches = tuple(p for p in self.prefetches if p is not prefetch)
            self.dispatcher.wake()

        prefetch = Prefetch(
            embed, max_buffered=max_buffered, until_released=until_released, on_close=forget
        )
        self.prefetches = (*self.prefetches, prefetch)
        return prefetch

    def embed_into(self, prefetch: Prefetch, texts: Sequence[str]) -> dict[int, BaseException]:
        """Wait until the texts are in a prefetch; return the positions that failed, and why."""
        try:
            prefetch.put(texts, self.embed(texts, lists=False).array())
        except PartialEmbeddingsError as error:
            vectors = [None if v is None else np.asarray(v) for v in error.embeddings]
            prefetch.put(texts, vectors)
            return {failure.index: failure.error for failure in error.failures}
        except InputError as error:
            failed: dict[int, BaseException] = dict.fromkeys(error.indices, error)
            if not failed:
                raise
            good = [position for position in range(len(texts)) if position not in failed]
            others = self.embed_into(prefetch, [texts[position] for position in good])
            return failed | {good[i]: cause for i, cause in others.items()}
        return {}
