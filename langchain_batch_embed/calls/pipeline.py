"""The pipeline from texts to vectors.

texts -> inputs (unique, counted, over-long ones cut) -> those that are not kept already
-> batches -> paced, concurrent requests -> checked vectors (-> journal)
-> the caller's order
"""

import asyncio
import contextlib
import math
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from langchain_batch_embed.calls.dimensions import Width
from langchain_batch_embed.calls.prefetch import Prefetch
from langchain_batch_embed.calls.recovery import Recovery, Safe
from langchain_batch_embed.calls.results import Results
from langchain_batch_embed.errors import (
    DimensionsError,
    Failure,
    InputError,
    ModelError,
    NotSentError,
    PartialEmbeddingsError,
)
from langchain_batch_embed.limits import Limits, check_positive
from langchain_batch_embed.pacing.hedging import Hedges
from langchain_batch_embed.providers.decoding import to_lists
from langchain_batch_embed.providers.provider import Answer, Provider
from langchain_batch_embed.report import Report, Tally, dollars
from langchain_batch_embed.sending.dispatcher import Dispatcher
from langchain_batch_embed.sending.work import Done, Rows, Work
from langchain_batch_embed.texts.inputs import Inputs, LongInputs, check_texts, prepare
from langchain_batch_embed.texts.tokens import TokenCounter

__all__ = ["Pipeline"]


SMALL_CALL = 16
"""Texts of an asynchronous call that is worked on in the event loop itself, at most."""

SMALL_CALL_CHARACTERS = 32_000
"""Its characters, at most: counting their tokens takes 2 ms."""


@dataclass(slots=True, kw_only=True)
class _Call:
    """One call on its way.

    Attributes:
        started: when it began, in seconds of the clock.
        given: the texts of the caller.
        inputs: what is sent for them.
        results: where the vectors are gathered.
        safe: where they are kept.
        query: the text is a query.
        tally: what it has sent.
        failures: texts without a vector, at its end.
        report: what it did, at its end.
    """

    started: float
    given: list[str]
    inputs: Inputs
    results: Results
    safe: Safe
    query: bool
    tally: Tally = field(default_factory=Tally)
    failures: list[Failure] = field(default_factory=list)
    report: Report | None = None

    def end(self, failures: list[Failure]) -> None:
        """Keep what is done if some texts have failed."""
        if failures:
            self.safe.failed()
            failures = self.results.failures()  # without what came at the last moment
        self.failures = failures


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

    def lists(
        self, texts: Iterable[str], *, cancelled: threading.Event | None = None
    ) -> list[list[float]]:
        """Return the vectors as lists: what an ingest has for its store already, or see `embed`."""
        given = check_texts(texts)
        held = self._held(given)
        return self.embed(given, cancelled=cancelled).lists() if held is None else to_lists(held)

    def query(self, text: str, *, cancelled: threading.Event | None = None) -> list[float]:
        """Return the vector of one query; raise the provider's own error where there is none."""
        try:
            return self.embed([text], query=True, cancelled=cancelled).lists()[0]
        except PartialEmbeddingsError as error:
            cause = error.failures[0].error
        raise cause  # out here, so that its own causes are all that it has

    async def aquery(self, text: str) -> list[float]:
        """Return the same without a thread of its own."""
        try:
            return (await self.aembed([text], query=True)).lists()[0]
        except PartialEmbeddingsError as error:
            cause = error.failures[0].error
        raise cause

    def embed(
        self,
        texts: Iterable[str],
        *,
        lists: bool = True,
        query: bool = False,
        cancelled: threading.Event | None = None,
    ) -> Results:
        """Embed texts: everything that `BatchEmbeddings` promises happens in here.

        Args:
            texts: what the caller gave.
            lists: the caller wants lists of floats, which are made while answers are waited for.
            query: the text is a query: not kept, and sent as the provider sends queries.
            cancelled: set, with a `wake`, to stop from another thread.

        Returns:
            The results, complete.

        Raises:
            InputError: a text can never be embedded; nothing was sent.
            PartialEmbeddingsError: some texts failed; it holds the vectors of all others.
            JournalError: the journal cannot be read; nothing was sent.
            DimensionsError: what is kept for the texts has another width than earlier vectors.
            asyncio.CancelledError: it was cancelled.
        """
        call = self._begin(texts, lists=lists, query=query)
        hidden = query or not self._show_progress or self._is_ingesting()
        with self._reported(call):
            if not query:
                self._take_prefetched(
                    call.given, call.inputs, call.results, call.started, cancelled
                )
            with tqdm(total=len(call.given), unit=" texts", disable=hidden) as bar:
                failures = self._run(
                    call.inputs,
                    call.results,
                    call.safe,
                    call.tally,
                    query=query,
                    deadline=self._deadline,
                    since=call.started,
                    cancelled=cancelled,
                    progress=lambda: bar.update(call.results.texts_done() - bar.n),
                )
            call.end(failures)
        return self._finished(call)

    def is_small(self, texts: Sequence[str]) -> bool:
        """Tell whether a call is so small that an event loop can do its work in between."""
        return (
            not self.prefetches
            and not self.recovery.journal.persistent
            and len(texts) <= SMALL_CALL
            and sum(map(len, texts)) <= SMALL_CALL_CHARACTERS
        )

    async def aembed(self, texts: Sequence[str], *, query: bool = False) -> Results:
        """Embed a small call without a thread of its own; otherwise as `embed`."""
        call = self._begin(texts, lists=True, query=query)
        with self._reported(call):
            call.tally.recalled += call.safe.recall()
            work = self.work(call.inputs, call.results, keep=call.safe.keep, query=query)
            outcomes = self.dispatcher.arun(
                work, call.tally, deadline=self._deadline, since=call.started
            )
            async with contextlib.aclosing(outcomes):
                async for outcome in outcomes:
                    call.results.take(outcome)
            call.end(call.results.finish())
        return self._finished(call)

    def _begin(self, texts: Iterable[str], *, lists: bool, query: bool) -> "_Call":
        started = self.dispatcher.clock.now()
        given = check_texts(texts)
        inputs = self.prepare(given)
        results = Results(inputs, width=Width(self._known_width()), lists=lists)
        return _Call(
            started=started,
            given=given,
            inputs=inputs,
            results=results,
            safe=self.recovery.begin(inputs, results, query=query),
            query=query,
        )

    @contextlib.contextmanager
    def _reported(self, call: "_Call") -> Iterator[None]:
        """Keep what is paid for if the call fails, and make its report."""
        results, tally = call.results, call.tally
        try:
            yield
        except BaseException:
            call.safe.failed()
            raise
        finally:
            self._learn_width(results.width)
            with self.dispatcher.lock:
                for prefetch in self.prefetches:
                    prefetch.account.tally.add(tally)
            if not call.query:
                self._tell_prefetches(call.given, results)
            call.report = self.last_report = Report.of(
                tally,
                texts=len(call.given),
                unique=call.inputs.unique,
                done=results.texts_done(),
                seconds=self.dispatcher.clock.now() - call.started,
                dollars=dollars(self.provider.model, tally.tokens),
            )

    @staticmethod
    def _finished(call: "_Call") -> Results:
        if call.failures and call.report is not None:
            partial = call.results.partial()
            errors = (failure.error for failure in call.failures)
            first = call.failures[0].error
            cause = next((e for e in errors if not isinstance(e, NotSentError)), first)
            raise PartialEmbeddingsError(partial, call.failures, call.report) from cause
        call.safe.succeeded()
        return call.results

    def prepare(self, texts: Sequence[str]) -> Inputs:
        """Find what has to be sent for the texts.

        Raises:
            InputError: a text can never be embedded.
        """
        return prepare(
            texts, counter=self.counter, limits=self.limits, long_inputs=self._long_inputs
        )

    def _run(
        self,
        inputs: Inputs,
        results: Results,
        safe: Safe,
        tally: Tally,
        hedges: Hedges | None = None,
        *,
        query: bool = False,
        deadline: float | None = None,
        since: float | None = None,
        cancelled: threading.Event | None = None,
        progress: Callable[[], object],
    ) -> list[Failure]:
        """Fetch the vectors that are missing, from the journal or by requests.

        Args:
            inputs: what to send.
            results: where the vectors go.
            safe: where they are kept.
            tally: where is counted what this costs.
            hedges: what may be spent on stragglers by this and others; `None`: by this alone.
            query: send as the provider sends queries.
            deadline: seconds for it; `None`: any time.
            since: the clock's time from which they count; `None`: from now on.
            cancelled: set, with a `wake`, to stop from another thread.
            progress: called each time that some vectors have come.

        Returns:
            The texts that have no vector, and why.
        """
        recalled = safe.recall()
        with self.dispatcher.lock:  # a prefetch has one tally for several runs
            tally.recalled += recalled
        progress()
        work = self.work(inputs, results, keep=safe.keep, query=query)
        for outcome in self.dispatcher.run(
            work, tally, hedges, deadline=deadline, since=since, cancelled=cancelled
        ):
            results.take(outcome)
            progress()
        if cancelled is not None and cancelled.is_set():
            raise asyncio.CancelledError
        failures = results.finish()
        progress()  # over-long texts are put together in the end
        return failures

    def work(
        self,
        inputs: Inputs,
        results: Results,
        *,
        keep: Callable[[Rows, Answer], None],
        query: bool = False,
    ) -> Work:
        """Return what has to be sent for the vectors that are missing."""
        limit = self.limits.max_tokens_per_request
        return Work(
            rows=inputs.missing(results.done),
            sizes=inputs.sizes,
            max_items=self.limits.max_batch_size,
            max_tokens=math.inf if limit is None else limit,
            texts=inputs.texts,
            send=self.provider.send_query if query else self.provider.send,
            keep=keep,
            makes_lists=results.as_lists,
        )

    def wake(self) -> None:
        """Make every waiting call look again at what it waits for."""
        self.dispatcher.wake()
        for prefetch in self.prefetches:
            prefetch.wake()

    def prefetch(self, texts: Iterable[str], *, max_buffered: int) -> Prefetch:
        """Embed texts in the background; see `BatchEmbeddings.prefetch`."""
        check_positive("max_buffered", max_buffered)
        announced = check_texts(texts)
        prefetch = self.open_prefetch(max_buffered=max_buffered)
        prefetch.announce(announced)
        return prefetch

    def open_prefetch(self, *, max_buffered: int, until_released: bool = False) -> Prefetch:
        """Open a prefetch, from which all calls are answered until it is closed.

        When it is, `last_report` is about all that it did.
        """

        def embed(texts: Sequence[str], cancelled: threading.Event) -> None:
            for error in self._fill(prefetch, texts, cancelled).values():
                if isinstance(
                    error, DimensionsError | ModelError
                ):  # about all texts, also those of later runs
                    raise error

        def forget(prefetch: Prefetch) -> None:
            with self.dispatcher.lock:
                self.prefetches = tuple(p for p in self.prefetches if p is not prefetch)
            self.wake()  # one of its runs may wait for another prefetch
            self.last_report = prefetch.account.report(
                now=self.dispatcher.clock.now(),
                dollars=dollars(self.provider.model, prefetch.account.tally.tokens),
            )

        prefetch = Prefetch(
            embed,
            max_buffered=max_buffered,
            until_released=until_released,
            width=self._width,
            on_close=forget,
            clock=self.dispatcher.clock,
        )
        with self.dispatcher.lock:
            self.prefetches = (*self.prefetches, prefetch)
        return prefetch

    def complete(
        self,
        prefetch: Prefetch,
        texts: Sequence[str],
        *,
        cancelled: threading.Event | None = None,
    ) -> dict[int, BaseException]:
        """Wait until the texts are in a prefetch; return the positions that failed, and why."""
        missing = prefetch.missing(texts, cancelled=cancelled)
        causes = self._fill(prefetch, missing, cancelled)
        return {i: causes[text] for i, text in enumerate(texts) if text in causes}

    def _fill(
        self, prefetch: Prefetch, texts: Sequence[str], cancelled: threading.Event | None
    ) -> dict[str, BaseException]:
        """Get the vectors of different texts for a prefetch; return those that failed, and why.

        What an older prefetch has, or has on its way, is not paid for again. None waits for a
        younger one, and so no two for each other.
        """
        opened = self.prefetches
        older = opened[: opened.index(prefetch)] if prefetch in opened else ()  # closed meanwhile
        coming = {text: other for other in older for text in other.coming(texts)}

        def embed(texts: Sequence[str]) -> dict[str, BaseException]:
            if not texts:
                return {}
            failed = self._embed_into(prefetch, texts, cancelled)
            for other in older:
                other.embedded(text for i, text in enumerate(texts) if i not in failed)
            return {texts[i]: error for i, error in failed.items()}

        failed = embed([text for text in texts if text not in coming])
        for other in older:
            there = [text for text, holder in coming.items() if holder is other]
            for found, vectors in other.take(there, cancelled=cancelled, borrow=True):
                prefetch.put(found, vectors)
                for text in found:
                    del coming[text]
        return failed | embed(list(coming))

    def _embed_into(
        self, prefetch: Prefetch, texts: Sequence[str], cancelled: threading.Event | None
    ) -> dict[int, BaseException]:
        """Embed different texts for a prefetch; return the positions that failed, and why."""
        there = np.zeros(len(texts), dtype=np.bool_)

        def hand_over() -> None:
            rows = np.flatnonzero(results.done[: len(texts)] & ~there)
            if rows.size:
                there[rows] = True
                prefetch.put([texts[row] for row in rows.tolist()], results.array()[rows])

        try:
            inputs = self.prepare(texts)
        except InputError as error:  # about some of them, so the others are embedded without
            if len(texts) == 1:
                return {0: error}
            wrong = set(error.indices)
            good = [i for i in range(len(texts)) if i not in wrong]
            failed: dict[int, BaseException] = {}
            for part in (good, *([i] for i in wrong)):
                causes = self._embed_into(prefetch, [texts[i] for i in part], cancelled)
                failed |= {part[position]: cause for position, cause in causes.items()}
            return failed
        results = Results(inputs, width=prefetch.width, lists=False)
        safe = self.recovery.begin(inputs, results, query=False)
        # No `safe.failed()`: what is done is in the prefetch, which the journal alone outlives.
        try:
            failures = self._run(
                inputs,
                results,
                safe,
                prefetch.account.tally,
                prefetch.hedges,
                cancelled=cancelled,
                progress=hand_over,
            )
        finally:
            self._learn_width(results.width)
            if results.width.is_refuted:
                prefetch.forget(results.width)
        hand_over()  # over-long texts are put together at the end
        if not failures:
            safe.succeeded()
        return {failure.index: failure.error for failure in failures}

    def _held(self, texts: Sequence[str]) -> NDArray[np.float32] | None:
        """Return the vectors, (n, d), if an ingest has them all for its store; else `None`.

        They are counted, packed and waited for already, and its report tells of them. Where another
        prefetch is open too, it has to learn what is asked for, so the call takes the usual way.
        """
        prefetches = self.prefetches
        if not all(prefetch.until_released for prefetch in prefetches):
            return None
        held = (prefetch.held(texts) for prefetch in prefetches)
        return next((vectors for vectors in held if vectors is not None), None)

    def _take_prefetched(
        self,
        given: Sequence[str],
        inputs: Inputs,
        results: Results,
        started: float,
        cancelled: threading.Event | None,
    ) -> None:
        """Fill in what open prefetches have, and what is on its way to them as it arrives."""
        end = math.inf if self._deadline is None else started + self._deadline
        if not (prefetches := self.prefetches):
            return
        row_of = dict(zip(given, inputs.row_of.tolist(), strict=True))
        # The youngest first: its runs borrow from the older ones.
        for prefetch in reversed(prefetches):
            needed = [text for text in given if not results.done[row_of[text]]]
            prefetch.passed(text for text in given if results.done[row_of[text]])
            for texts, vectors in prefetch.take(needed, cancelled=cancelled, end=end):
                rows = np.array([row_of[text] for text in texts], dtype=np.intp)
                results.add(rows, vectors)
                results.take(Done(rows))

    def _tell_prefetches(self, given: Sequence[str], results: Results) -> None:
        """Let open prefetches know which texts have a vector now, whoever sent them."""
        if prefetches := self.prefetches:
            done = np.flatnonzero(results.has_vector()).tolist()
            for prefetch in prefetches:
                prefetch.embedded(given[i] for i in done)

    def _known_width(self) -> int | None:
        """Return the width that vectors must have: of what is prefetched, or of earlier calls."""
        widths = (prefetch.width.numbers for prefetch in self.prefetches)
        return next(filter(None, widths), self._width)

    def _learn_width(self, width: Width) -> None:
        """Hold later calls to the width of vectors that came, unless it is in doubt."""
        if width.in_doubt:
            self._width = None
        elif width.is_confirmed:
            self._width = width.numbers

    def _is_ingesting(self) -> bool:
        return any(prefetch.until_released for prefetch in self.prefetches)
