"""Embeds texts in the background, in large runs, for callers that request them in small calls.

The calls of `index(batch_size=100)`, of a store that slices, or of a loop are too small to be fast.
If the texts are announced beforehand, a few large runs embed them. The small calls are answered
from the vectors that have arrived, and wait only for texts that a run is embedding.

`announced` decides what happens to each text, and `look_ahead` decides how far ahead of the
questions runs go. A question is the texts that one call requests. This module locks, waits and
starts the runs. The caller's own call embeds a text that was not announced, or that still waits for
a run when it is requested. It also embeds a text whose run failed, so that the error reaches the
caller whose text it is.

Runs start with the first question. Where vectors are kept until they are released, as in an ingest,
all of them are needed, so the runs start at once.
"""

import math
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from langchain_batch_embed.calls.announced import Announced
from langchain_batch_embed.calls.dimensions import Dimensions
from langchain_batch_embed.calls.prefetch_runs import Runs
from langchain_batch_embed.clock import SYSTEM_CLOCK, Clock
from langchain_batch_embed.errors import DimensionsError, ModelError
from langchain_batch_embed.pacing.hedging import Hedges
from langchain_batch_embed.report import Account, Report, Tally
from langchain_batch_embed.sending.budget import Budget

__all__ = ["RUNS", "Embed", "Prefetch"]

RUNS = 4
"""Maximum number of runs at a time. Each may take a fourth of the buffer, so that others are active
while one waits for its last answers. More and smaller runs would make many small requests for a
slow consumer. With fewer, a fast consumer would wait for the last answers of all."""

LAST_RUNS = 0.5
"""Seconds to wait, after an exception, until the runs have kept their vectors. This usually takes
milliseconds, because the runs no longer wait for answers."""

Embed = Callable[["Prefetch", Sequence[str], threading.Event], object]
"""A function that embeds different texts for a prefetch, adds their vectors to it as they arrive,
and stops when the event is set."""


class Prefetch:
    """Texts that are embedded in the background, as `BatchEmbeddings.prefetch` returns them.

    Args:
        embed: embeds the texts of one run.
        max_buffered: maximum number of vectors that may be buffered or being embedded at a time.
        until_released: keep vectors that were handed out until `release`.
        first: how many texts to embed before `go_ahead`, if vectors are kept until `release`.
        dimensions: the dimensions of earlier vectors, if known.
        budget: what its runs may spend; `None` if there is no limit.
        on_close: called with this prefetch when it closes.
        on_failure: called if an exception ends this prefetch, with the texts whose vectors are
            still buffered, and these vectors, (k, d).
        clock: provides time and waiting.

    Attributes:
        account: counts the announced texts, and what was sent for them.
        dimensions: the dimensions of its vectors, shared by all runs.
        budget: what its runs and the calls that it answers may spend together.
        is_failed: whether an exception has ended the prefetch; vectors that arrive later are kept.
        was_asked: whether a caller has requested an announced text.
        hedges: the allowance for second copies of late requests, shared by all runs, because the
            allowance of a single run would not cover even one batch.
    """

    def __init__(
        self,
        embed: Embed,
        *,
        max_buffered: int,
        until_released: bool = False,
        first: float = math.inf,
        dimensions: int | None = None,
        budget: Budget | None = None,
        on_close: Callable[["Prefetch"], None],
        on_failure: Callable[[Sequence[str], NDArray[np.float32]], object] = lambda *_: None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self.until_released = until_released
        self._on_close = on_close
        self._on_failure = on_failure
        self._clock = clock
        self.account = Account(clock.now())
        self.dimensions = Dimensions(dimensions)
        self.hedges = Hedges()
        self.budget = budget
        self.is_failed = self.was_asked = False
        # Guards `_texts` and the account; notified when vectors arrive and when a run ends.
        self._state_changed = threading.Condition()
        self._texts = Announced(
            max_buffered=max_buffered, max_runs=RUNS, until_released=until_released, first=first
        )
        self._runs = Runs(
            self._texts,
            partial(embed, self),
            self._is_final,
            most=RUNS,
            state_changed=self._state_changed,
        )

    @property
    def runs(self) -> int:
        """The number of active runs."""
        return self._texts.runs

    @property
    def running(self) -> int:
        """The number of texts in active runs."""
        return self._texts.running

    @property
    def ready(self) -> int:
        """The number of buffered vectors."""
        return len(self._texts.ready)

    def announce(self, texts: Sequence[str]) -> None:
        """Announce texts that will be requested, start runs that are due, and return at once."""
        with self._state_changed:
            self.account.texts += len(texts)
            for text in texts:
                self.account.unique += not self._texts.is_expected(text)
                if text not in self._texts.ready:
                    self.account.missing[text] += 1
                self._texts.announce(text, self.account.unique)
            self._runs.start()

    def receive(
        self,
        texts: Iterable[str],
        *,
        cancelled: threading.Event | None = None,
        end: float = math.inf,
        borrow: bool = False,
    ) -> Iterator[tuple[list[str], NDArray[np.float32]]]:
        """Yield announced texts with their vectors, (k, d), as they arrive.

        The iterator ends when no run is embedding any of the texts; the caller embeds the rest.

        Args:
            texts: the texts that the caller needs, each as often as it is needed.
            cancelled: set it and call `wake` to end early.
            end: the clock's time at which to end early.
            borrow: keep the vectors for the callers that they were announced for.
        """
        uses = Counter(texts)
        left = dict.fromkeys(uses)
        with self._state_changed:
            self._texts.want(uses.keys())
            if not borrow:
                self.was_asked |= any(map(self._texts.is_expected, uses))
                self.account.try_all(uses)
                self._note_question(uses)
        try:
            while left:
                with self._state_changed:
                    self._wait_for(left, any, cancelled, end)
                    ready = [text for text in left if text in self._texts.ready]
                    vectors = self._texts.ready.stack(ready)
                    if not borrow:
                        self._hand_out(ready or left, uses)
                if not ready:
                    return
                yield ready, vectors
                for text in ready:
                    del left[text]
        finally:
            with self._state_changed:
                self._texts.want_no_more(uses.keys())

    def claim(self, texts: Iterable[str]) -> list[str]:
        """Return the texts that are ready or in a run, and take the others out of the line.

        The caller embeds the others, sooner than a later run would.
        """
        with self._state_changed:
            here = []
            for text in texts:
                self._texts.take_from_line(text)
                if text in self._texts.ready or self._texts.is_running(text):
                    here.append(text)
            return here

    def answered_elsewhere(self, texts: Iterable[str]) -> None:
        """Record that callers got these texts' vectors elsewhere, each as often as it is given."""
        uses = Counter(texts)
        with self._state_changed:
            self._hand_out(uses, uses)

    def tokens_of(self, text: str) -> int | None:
        """Return the token count of a text, or `None` if no run has counted it."""
        return self._texts.tokens_of(text)

    def note_tokens(self, texts: Sequence[str], tokens: Sequence[int]) -> None:
        """Keep the token counts of expected texts, so that they are counted only once."""
        if self.until_released:  # a call answered by an ingest counts no tokens
            return
        with self._state_changed:
            self._texts.note_tokens(texts, tokens)

    def wait_for_all(
        self, texts: Iterable[str], *, cancelled: threading.Event | None = None
    ) -> list[str]:
        """Wait until no run is embedding the texts; return those without a vector, once each."""
        wanted = dict.fromkeys(texts)
        with self._state_changed:
            self._wait_for(wanted, all, cancelled, math.inf)
            return [text for text in wanted if text not in self._texts.ready]

    def peek(self, texts: Sequence[str]) -> NDArray[np.float32] | None:
        """Return the vectors of the texts, (k, d), and keep them; `None` unless all are ready."""
        with self._state_changed:
            if all(text in self._texts.ready for text in texts):
                self.was_asked |= bool(texts)
                return self._texts.ready.stack(texts)
        return None

    def wait_for_some(
        self, texts: Iterable[str], *, least: int, cancelled: threading.Event | None = None
    ) -> int:
        """Wait for the first texts; return how many from the start have arrived or failed.

        Args:
            texts: the texts in the order in which the caller needs them; read only as far as
                necessary.
            least: how many vectors to wait for; if there are fewer, wait for all.
            cancelled: set it and call `wake` to end early.
        """
        settled = ready = 0
        with self._state_changed:
            for text in texts:
                here = text in self._texts.ready
                if not here:
                    if ready >= least and self._texts.is_coming(text):
                        break
                    self._wait_for([text], all, cancelled, math.inf)
                    here = text in self._texts.ready
                settled += 1
                ready += here
        return settled

    def add(self, texts: Sequence[str], vectors: NDArray[np.float32]) -> bool:
        """Save the vectors, (k, d), of those of the texts that are still expected.

        Returns:
            Whether this prefetch is still open; after it has closed, nothing is saved.

        Raises:
            DimensionsError: the vectors have other dimensions than earlier ones.
        """
        with self._state_changed:
            self.dimensions.check(vectors.shape[1], answer=False)
            for text, vector in zip(texts, vectors, strict=True):
                self.account.has_vector(text)
                self._texts.add(text, vector)
            self._state_changed.notify_all()
            return not self._runs.stopped.is_set()

    def note_failures(self, texts: Iterable[str]) -> None:
        """Record that a run could not embed these texts."""
        with self._state_changed:
            self.account.try_all(texts)

    def drop_all(self, refuted: Dimensions) -> None:
        """Drop all vectors, because most answers have other dimensions or are from another model.

        Args:
            refuted: the dimensions that these answers refute.
        """
        with self._state_changed:
            if refuted is self.dimensions:  # otherwise another run has dropped them
                self._texts.forget_vectors()
                self.dimensions = Dimensions()

    def new_tally(self) -> Tally:
        """Return a new tally for one run, and include it in the account."""
        tally = Tally()
        self.account.runs.append(tally)
        return tally

    def note_call(self, tally: Tally, texts: Iterable[str]) -> None:
        """Record what a caller's own call cost, and which texts now have a vector."""
        with self._state_changed:
            self.account.calls.add(tally)
        self.embedded_elsewhere(texts)

    def keep(self, texts: Sequence[str], vectors: NDArray[np.float32]) -> None:
        """Keep vectors that a caller made itself, if their texts are expected and there is room."""
        with self._state_changed:
            self._texts.keep(texts, vectors)

    def still_expected(self, positions: Mapping[str, int]) -> dict[str, int]:
        """Return those texts, with their positions, that are expected again but lack a vector.

        Texts in an active run are left out.
        """
        with self._state_changed:
            return {
                text: position
                for text, position in positions.items()
                if self._texts.is_expected(text)
                and text not in self._texts.ready
                and not self._texts.is_running(text)
            }

    def embedded_elsewhere(self, texts: Iterable[str]) -> None:
        """Record that these texts have a vector, even if another call embedded them."""
        with self._state_changed:
            for text in texts:
                self.account.has_vector(text)

    def keep_elsewhere(self, texts: Iterable[str]) -> None:
        """Pass these texts' vectors to `on_failure`, as if an exception had ended the prefetch."""
        with self._state_changed:
            here = [text for text in dict.fromkeys(texts) if text in self._texts.ready]
            vectors = self._texts.ready.stack(here)
        if here:
            self._on_failure(here, vectors)

    def release(self, texts: Iterable[str]) -> None:
        """Record that each text is finished once more; drop its vector after the last time."""
        with self._state_changed:
            for text in texts:
                self._texts.drop(text)
            self._runs.start()

    def go_ahead(self) -> None:
        """Embed as far ahead as there is room: all announced texts will be needed."""
        with self._state_changed:
            self._texts.need_all()
            self._runs.start()

    def pause(self, seconds: float, *, cancelled: threading.Event | None = None) -> None:
        """Wait for some seconds, or until `cancelled` is set and `wake` is called."""
        end = self._clock.now() + seconds
        with self._state_changed:
            while (left := end - self._clock.now()) > 0 and not _is_set(cancelled):
                self._clock.wait(self._state_changed, left)

    def wake(self) -> None:
        """Make every waiting caller check again what it waits for."""
        with self._state_changed:
            self._state_changed.notify_all()

    def report(self, price: Callable[[int], float | None]) -> Report:
        """Return the report of the prefetch so far.

        Args:
            price: returns the price of this many tokens, in dollars; `None` if it is not known.
        """
        with self._state_changed:
            dollars = price(self.account.total().tokens)
            return self.account.report(now=self._clock.now(), dollars=dollars)

    def close(self, *, failed: bool = False) -> None:
        """Stop sending, and drop all vectors. A second call does nothing.

        Args:
            failed: first pass the buffered vectors, which are paid for, to `on_failure`.
        """
        with self._state_changed:
            if self._runs.stopped.is_set():
                return
            self.is_failed = failed
            left = list(self._texts.ready) if failed else []
            vectors = self._texts.ready.stack(left)
            self._runs.stop()
            self._texts.clear()
            self._state_changed.notify_all()
        if left:
            self._on_failure(left, vectors)
        self._on_close(self)
        if failed:
            with self._state_changed:  # so that the next call finds what the runs kept
                self._state_changed.wait_for(lambda: not self.runs, LAST_RUNS)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close(failed=error is not None)

    # Callers of `_wait_for`, `_note_question` and `_hand_out` hold `_state_changed`.

    def _wait_for(
        self,
        texts: Iterable[str],
        enough: Callable[[Iterable[bool]], bool],
        cancelled: threading.Event | None,
        end: float,
    ) -> None:
        """Wait until enough of the texts are ready or no run is embedding any of them.

        Args:
            texts: the texts to wait for.
            enough: `any` or `all`.
            cancelled: set it and call `wake` to end early.
            end: the clock's time at which to end early.
        """
        for text in texts:
            self._texts.take_from_line(text)
        while (
            not enough(text in self._texts.ready for text in texts)
            and any(self._texts.is_running(text) for text in texts)
            and not _is_set(cancelled)
            and (left := end - self._clock.now()) > 0
        ):
            self._clock.wait(self._state_changed, left)

    def _note_question(self, texts: Iterable[str]) -> None:
        """Learn from a question, and start the runs that it allows."""
        if self._texts.ask(texts):
            if not self.runs:  # a run embeds the question and texts ahead in shared requests
                self._runs.start(self._texts.in_line(texts))
            self._texts.pass_over()

    def _hand_out(self, texts: Iterable[str], uses: Mapping[str, int]) -> None:
        """Drop texts that a caller has received or must embed itself, and start further runs."""
        if not self.until_released:
            self._texts.hand_out(texts, uses)
            self._runs.start()

    def _is_final(self, error: BaseException) -> bool:
        """Return whether an error shows that later vectors would not match those that are ready."""
        if isinstance(error, DimensionsError):
            return error.asked or self.dimensions.number is not None
        return isinstance(error, ModelError)


def _is_set(event: threading.Event | None) -> bool:
    return event is not None and event.is_set()
