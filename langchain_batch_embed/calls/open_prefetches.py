"""Keeps the open prefetches of one `BatchEmbeddings`, fills them, and answers calls from them."""

import math
import threading
from collections.abc import Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from langchain_batch_embed.calls.dimensions import Dimensions
from langchain_batch_embed.calls.fetcher import Fetch, Fetcher
from langchain_batch_embed.calls.logbook import Logbook
from langchain_batch_embed.calls.prefetch import Prefetch
from langchain_batch_embed.errors import DimensionsError, InputError, ModelError
from langchain_batch_embed.report import dollars
from langchain_batch_embed.sending.work import Done
from langchain_batch_embed.texts.inputs import Inputs
from langchain_batch_embed.texts.tokens import TokenCounter

__all__ = ["OpenPrefetches"]


class OpenPrefetches:
    """Opens prefetches, fills them, and answers calls from them.

    Args:
        fetcher: fetches the vectors that no prefetch has.

    Attributes:
        opened: the open prefetches, oldest first; the tuple is replaced as a whole, so readers
            need no lock.
    """

    def __init__(self, fetcher: Fetcher) -> None:
        self.opened: tuple[Prefetch, ...] = ()
        self._fetcher = fetcher
        self._lock = threading.Lock()  # held while `opened` is replaced

    @property
    def is_ingesting(self) -> bool:
        """Whether an ingest is running."""
        return any(prefetch.until_released for prefetch in self.opened)

    def open(
        self, *, max_buffered: int, until_released: bool = False, first: float = math.inf
    ) -> Prefetch:
        """Open a prefetch, which helps to answer all calls until it is closed.

        Args:
            max_buffered: see `Prefetch`.
            until_released: see `Prefetch`.
            first: see `Prefetch`.
        """
        prefetch = Prefetch(
            self._run,
            max_buffered=max_buffered,
            until_released=until_released,
            first=first,
            dimensions=self._fetcher.known_dimensions,
            budget=self._fetcher.budget(),
            on_close=self._close,
            on_failure=self._fetcher.recovery.remember_texts,
            clock=self._fetcher.dispatcher.clock,
        )
        with self._lock:
            self.opened = (*self.opened, prefetch)
        return prefetch

    def wake(self) -> None:
        """Make every caller that waits for a prefetch check again what it waits for."""
        for prefetch in self.opened:
            prefetch.wake()

    # Answering calls.

    def dimensions(self) -> Dimensions:
        """Return the `Dimensions` for a new call, taken from open prefetches or earlier calls."""
        numbers = (prefetch.dimensions.number for prefetch in self.opened)
        return Dimensions(next(filter(None, numbers), self._fetcher.known_dimensions))

    def prepare(self, texts: Sequence[str]) -> Inputs:
        """Return the inputs to send for a call, reusing the token counts of runs.

        Raises:
            InputError: a text can never be embedded.
        """
        if not (prefetches := self.opened):
            return self._fetcher.prepare(texts)
        return self._fetcher.prepare(texts, _Counted(prefetches, self._fetcher.counter))

    def held(self, texts: Sequence[str]) -> NDArray[np.float32] | None:
        """Return the vectors, (n, d), if an ingest holds them all for its store, else `None`.

        Such a call makes no report, because the report of the ingest counts the vectors already.
        If any other prefetch is open, the result is `None`: that prefetch must learn which texts
        are requested, so the call takes the usual path.
        """
        prefetches = self.opened
        if not all(prefetch.until_released for prefetch in prefetches):
            return None
        held = (prefetch.peek(texts) for prefetch in prefetches)
        return next((vectors for vectors in held if vectors is not None), None)

    def answer(
        self,
        fetch: Fetch,
        given: Sequence[str],
        *,
        end: float,
        cancelled: threading.Event | None,
    ) -> None:
        """Fill in the vectors that the prefetches have, and wait for those that they are embedding.

        Args:
            fetch: the fetch of the call.
            given: the texts of the call.
            end: the clock's time at which to stop waiting.
            cancelled: set it and call `wake` to stop from another thread.
        """
        prefetches, results = self.opened, fetch.results
        if not prefetches:
            return
        row_of = dict(zip(given, fetch.inputs.row_of.tolist(), strict=True))
        # The youngest first, because its runs borrow vectors from the older ones.
        for prefetch in reversed(prefetches):
            needed = [text for text in given if not results.done[row_of[text]]]
            prefetch.answered_elsewhere(text for text in given if results.done[row_of[text]])
            for texts, vectors in prefetch.receive(needed, cancelled=cancelled, end=end):
                rows = np.array([row_of[text] for text in texts], dtype=np.intp)
                results.dimensions.check(vectors.shape[1], answer=False)
                results.add(rows, vectors)
                results.settle(Done(rows))

    def note_call(self, fetch: Fetch, given: Sequence[str]) -> None:
        """Record in the prefetches what a call cost and which texts now have a vector."""
        if not (prefetches := self.opened):
            return
        done = [] if fetch.query else np.flatnonzero(fetch.results.has_vector()).tolist()
        for prefetch in prefetches:
            prefetch.note_call(fetch.tally, (given[i] for i in done))
            if again := prefetch.still_expected({given[i]: i for i in done}):
                prefetch.keep(list(again), fetch.results.get(list(again.values())))

    # Filling prefetches.

    def complete(
        self,
        prefetch: Prefetch,
        texts: Sequence[str],
        *,
        cancelled: threading.Event | None = None,
    ) -> dict[int, BaseException]:
        """Wait until a prefetch has the texts; embed those that its runs did not.

        Returns:
            The positions of the texts that failed, with their errors.
        """
        missing = prefetch.wait_for_all(texts, cancelled=cancelled)
        causes = self._fill(prefetch, missing, cancelled)
        return {i: causes[text] for i, text in enumerate(texts) if text in causes}

    def _run(self, prefetch: Prefetch, texts: Sequence[str], cancelled: threading.Event) -> None:
        failed = self._fill(prefetch, texts, cancelled)
        prefetch.note_failures(failed)
        for error in failed.values():
            # These errors affect all texts, including those of later runs.
            if isinstance(error, DimensionsError | ModelError):
                raise error

    def _fill(
        self, prefetch: Prefetch, texts: Sequence[str], cancelled: threading.Event | None
    ) -> dict[str, BaseException]:
        """Get the vectors of different texts for a prefetch; return the failed texts and errors.

        Vectors that an older prefetch has or is embedding are not paid for again. A prefetch never
        waits for a younger one, so no two wait for each other.
        """
        opened = self.opened
        older = opened[: opened.index(prefetch)] if prefetch in opened else ()  # just closed
        coming = {text: other for other in older for text in other.claim(texts)}
        rest = [text for text in texts if text not in coming]
        failed = self._embed(prefetch, older, rest, cancelled)
        for other in older:
            theirs = [text for text, holder in coming.items() if holder is other]
            for found, vectors in other.receive(theirs, cancelled=cancelled, borrow=True):
                prefetch.add(found, vectors)
                for text in found:
                    del coming[text]
        return failed | self._embed(prefetch, older, list(coming), cancelled)

    def _embed(
        self,
        prefetch: Prefetch,
        older: Sequence[Prefetch],
        texts: Sequence[str],
        cancelled: threading.Event | None,
    ) -> dict[str, BaseException]:
        """Embed different texts for a prefetch; return the failed texts with their errors."""
        if not texts:
            return {}
        failed = self._embed_good(prefetch, texts, cancelled)
        for other in older:
            other.embedded_elsewhere(text for i, text in enumerate(texts) if i not in failed)
        return {texts[i]: error for i, error in failed.items()}

    def _embed_good(
        self, prefetch: Prefetch, texts: Sequence[str], cancelled: threading.Event | None
    ) -> dict[int, BaseException]:
        """Embed the texts, without letting invalid ones fail the others.

        Returns:
            The positions of the texts that failed, with their errors.
        """
        try:
            inputs = self._fetcher.prepare(texts)
        except InputError as error:  # only some texts are invalid: embed the rest
            if len(texts) == 1:
                return {0: error}
            wrong = set(error.indices)
            good = [i for i in range(len(texts)) if i not in wrong]
            failed: dict[int, BaseException] = {}
            for part in (good, *([i] for i in wrong)):
                causes = self._embed_good(prefetch, [texts[i] for i in part], cancelled)
                failed |= {part[position]: cause for position, cause in causes.items()}
            return failed
        fetch = self._fetcher.begin(inputs, prefetch.dimensions, lists=False)
        fetch.tally, fetch.budget = prefetch.new_tally(), prefetch.budget
        prefetch.note_tokens(inputs.texts, inputs.tokens.tolist())
        handed_over = np.zeros(len(texts), dtype=np.bool_)

        def hand_over() -> None:
            rows = np.flatnonzero(fetch.results.done[: len(texts)] & ~handed_over)
            if rows.size:
                # Before the prefetch has them, because from then on it may remember them again.
                fetch.recovery.forget(rows)
                vectors = fetch.results.array()[rows]
                handed_over[rows] = prefetch.add([texts[row] for row in rows.tolist()], vectors)

        # `recovery.failed()` only if the prefetch failed: otherwise it has the finished vectors.
        try:
            failures = self._fetcher.run(
                fetch, prefetch.hedges, cancelled=cancelled, progress=hand_over
            )
        finally:
            if prefetch.is_failed:
                fetch.recovery.failed(but=handed_over)
            self._fetcher.learn_dimensions(fetch.results.dimensions)
            if fetch.results.dimensions.is_refuted:
                prefetch.drop_all(fetch.results.dimensions)
        if not failures:  # windows of over-long texts, which no prefetch takes
            fetch.recovery.forget(np.arange(len(texts), len(inputs.texts)))
        return {failure.index: failure.error for failure in failures}

    def _close(self, prefetch: Prefetch) -> None:
        with self._lock:
            self.opened = tuple(other for other in self.opened if other is not prefetch)
        self.wake()  # a run of this prefetch may wait for another one
        self._fetcher.dispatcher.wake()
        report = prefetch.report(partial(dollars, self._fetcher.provider.model))
        self._fetcher.last_report = report
        Logbook.ended(report)


class _Counted:
    """A token counter that reuses the counts of the prefetches.

    Args:
        prefetches: the open prefetches.
        counter: counts the texts that no prefetch has counted.
    """

    def __init__(self, prefetches: Sequence[Prefetch], counter: TokenCounter) -> None:
        self._prefetches = prefetches
        self._counter = counter
        self.starts = counter.starts

    def count(self, texts: Sequence[str]) -> NDArray[np.int64]:
        """Return the number of tokens of each text, shape (n,)."""
        known = [self._known(text) for text in texts]
        new = [position for position, count in enumerate(known) if count is None]
        tokens = np.array([count or 0 for count in known], dtype=np.int64)
        if new:
            tokens[new] = self._counter.count([texts[position] for position in new])
        return tokens

    def _known(self, text: str) -> int | None:
        counts = (prefetch.tokens_of(text) for prefetch in self._prefetches)
        return next((count for count in counts if count is not None), None)
