"""Embeds in the background, in large runs, what callers then ask for in small portions.

The calls of `index(batch_size=100)`, of a store that slices, or of a loop are too small to be fast.
If the texts are announced beforehand, a few large runs embed them. The small calls are answered
from what has arrived, and wait only for what is on its way.

`announced` says what becomes of each text, and `look_ahead` how far ahead of the questions runs go.
This module locks, waits and starts the runs. Any text that was not announced, and one that is still
waiting when it is asked for, is embedded by the caller's own call. So is a text whose run failed:
its error reaches the caller whose text it is.

Runs start with the first question. Vectors that are kept until they are released, as an ingest's,
are all needed, so their runs start at once.
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
from langchain_batch_embed.report import Account, Tally
from langchain_batch_embed.sending.budget import Budget

__all__ = ["RUNS", "Embed", "Prefetch"]

RUNS = 4
"""Runs at a time. Each may buffer this part of everything, so that others are under way while one
waits for its last answers. More and smaller runs would make many small requests for a slow
consumer. Fewer would leave a fast consumer waiting for the last answers of all."""

LAST_RUNS = 0.5
"""Seconds to wait, after an exception, for the runs to keep what they have. They wait for no answer
any more, so that takes milliseconds."""

Embed = Callable[["Prefetch", Sequence[str], threading.Event], object]
"""Embeds different texts for a prefetch, adds their vectors to it as they come, and stops when the
event is set."""


class Prefetch:
    """Vectors on their way, which `BatchEmbeddings.prefetch` returns.

    Args:
        embed: embeds the texts of one run.
        max_buffered: vectors that may be here or on their way at a time.
        until_released: keep vectors that were handed out until `release`.
        first: texts that are embedded before `go_ahead`, where vectors are kept until `release`.
        dimensions: those of earlier vectors, where they are known.
        budget: what its runs may spend; `None`: any amount.
        on_close: called when this ends.
        on_failure: called when this ends by an exception, with the texts that have a vector and
            were not asked for, and their vectors, (k, d).
        clock: how to wait.

    Attributes:
        account: what became of the announced texts, and what was sent for them.
        dimensions: those of its vectors, which all its runs share.
        budget: what its runs, and the calls that it answers, may spend together.
        is_failed: whether it has ended by an exception, after which what arrives is kept.
        hedges: what its runs together may spend on stragglers: of one run alone, even a single
            batch would be too much.
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
        self.is_failed = False
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
        """How many runs are under way."""
        return self._texts.runs

    @property
    def running(self) -> int:
        """How many texts are in runs."""
        return self._texts.running

    @property
    def ready(self) -> int:
        """How many vectors are here."""
        return len(self._texts.ready)

    def announce(self, texts: Sequence[str]) -> None:
        """Start to embed these texts, if there is room, and return at once."""
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

        It ends when none of the texts is on its way; the caller embeds the rest.

        Args:
            texts: what the caller needs, each as often as it is needed.
            cancelled: set, with a `wake`, to end early.
            end: the clock's time at which to end early.
            borrow: keep the vectors for the callers that they were announced for.
        """
        uses = Counter(texts)
        left = dict.fromkeys(uses)
        with self._state_changed:
            self._texts.want(uses.keys())
            if not borrow:
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
        """Return the texts that are here or in a run, and take the others out of the line.

        The caller embeds those others, sooner than a later run would.
        """
        with self._state_changed:
            here = []
            for text in texts:
                self._texts.take_from_line(text)
                if text in self._texts.ready or self._texts.is_running(text):
                    here.append(text)
            return here

    def answered_elsewhere(self, texts: Iterable[str]) -> None:
        """Note that callers got these texts from elsewhere, each as often as it is given."""
        uses = Counter(texts)
        with self._state_changed:
            self._hand_out(uses, uses)

    def tokens_of(self, text: str) -> int | None:
        """Return how many tokens a text has, if a run has counted them; else `None`."""
        return self._texts.tokens_of(text)

    def note_tokens(self, texts: Sequence[str], tokens: Sequence[int]) -> None:
        """Keep the counts of texts that calls will ask for, so that they are counted once."""
        if self.until_released:  # then a call that has its vectors counts nothing
            return
        with self._state_changed:
            self._texts.note_tokens(texts, tokens)

    def wait_for_all(
        self, texts: Iterable[str], *, cancelled: threading.Event | None = None
    ) -> list[str]:
        """Wait until none of the texts is on its way; return those without a vector, once each."""
        wanted = dict.fromkeys(texts)
        with self._state_changed:
            self._wait_for(wanted, all, cancelled, math.inf)
            return [text for text in wanted if text not in self._texts.ready]

    def peek(self, texts: Sequence[str]) -> NDArray[np.float32] | None:
        """Return the vectors of the texts, (k, d), and keep them; `None` unless all are here."""
        with self._state_changed:
            if all(text in self._texts.ready for text in texts):
                return self._texts.ready.stack(texts)
        return None

    def wait_for_some(
        self, texts: Iterable[str], *, least: int, cancelled: threading.Event | None = None
    ) -> int:
        """Wait for the first of the texts; return how many of them have arrived or failed in a row.

        Args:
            texts: in the order in which the caller needs them; read no further than necessary.
            least: how many vectors to wait for; all, where there are fewer.
            cancelled: set, with a `wake`, to end early.
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
        """Save the vectors of those texts, (k, d), that are still expected.

        Returns:
            Whether this is still open; else nothing is saved.

        Raises:
            DimensionsError: they have other dimensions than those that came before.
        """
        with self._state_changed:
            self.dimensions.check(vectors.shape[1], answer=False)
            for text, vector in zip(texts, vectors, strict=True):
                self.account.missing.pop(text, None)
                self._texts.add(text, vector)
            self._state_changed.notify_all()
            return not self._runs.stopped.is_set()

    def drop_all(self, refuted: Dimensions) -> None:
        """Drop all vectors: most answers have other dimensions, or are of another model."""
        with self._state_changed:
            if refuted is self.dimensions:  # else another run has done it
                self._texts.forget_vectors()
                self.dimensions = Dimensions()

    def new_tally(self) -> Tally:
        """Return the tally of one run, which the account includes from now on."""
        tally = Tally()
        self.account.runs.append(tally)
        return tally

    def note_call(self, tally: Tally, texts: Iterable[str]) -> None:
        """Note what a caller's own call has cost, and which texts have a vector now."""
        with self._state_changed:
            self.account.calls.add(tally)
        self.embedded_elsewhere(texts)

    def keep(self, texts: Sequence[str], vectors: NDArray[np.float32]) -> None:
        """Keep vectors that a caller has made itself, if there is room and they are expected."""
        with self._state_changed:
            self._texts.keep(texts, vectors)

    def still_expected(self, positions: Mapping[str, int]) -> dict[str, int]:
        """Return those of the texts that are to be asked for again, and have no vector here."""
        with self._state_changed:
            return {
                text: position
                for text, position in positions.items()
                if self._texts.is_expected(text)
                and text not in self._texts.ready
                and not self._texts.is_running(text)
            }

    def embedded_elsewhere(self, texts: Iterable[str]) -> None:
        """Note that these texts have a vector, whoever embedded them."""
        with self._state_changed:
            for text in texts:
                self.account.missing.pop(text, None)

    def keep_elsewhere(self, texts: Iterable[str]) -> None:
        """Hand over the vectors of these texts as if this had ended by an exception."""
        with self._state_changed:
            here = [text for text in dict.fromkeys(texts) if text in self._texts.ready]
            vectors = self._texts.ready.stack(here)
        if here:
            self._on_failure(here, vectors)

    def release(self, texts: Iterable[str]) -> None:
        """Drop vectors that were kept after they were handed out."""
        with self._state_changed:
            for text in texts:
                self._texts.drop(text)
            self._runs.start()

    def go_ahead(self) -> None:
        """Embed as far ahead as there is room: all texts that are announced will be needed."""
        with self._state_changed:
            self._texts.need_all()
            self._runs.start()

    def pause(self, seconds: float, *, cancelled: threading.Event | None = None) -> None:
        """Wait for some seconds, or until it is cancelled with a `wake`."""
        end = self._clock.now() + seconds
        with self._state_changed:
            while (left := end - self._clock.now()) > 0 and not _is_set(cancelled):
                self._clock.wait(self._state_changed, left)

    def wake(self) -> None:
        """Make every waiting caller look again at what it waits for."""
        with self._state_changed:
            self._state_changed.notify_all()

    def close(self, *, failed: bool = False) -> None:
        """Send nothing more, and drop all vectors.

        Args:
            failed: hand over the vectors that nobody has asked for, which are paid for.
        """
        with self._state_changed:
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
            with self._state_changed:  # whoever calls next finds what they have kept
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

    # `_wait_for`, `_note_question` and `_hand_out` are called with `_state_changed` held.

    def _wait_for(
        self,
        texts: Iterable[str],
        enough: Callable[[Iterable[bool]], bool],
        cancelled: threading.Event | None,
        end: float,
    ) -> None:
        """Wait until any or all of the texts are ready, or none is on its way."""
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
        """Learn from a question, and start what it allows."""
        if self._texts.ask(texts):
            if not self.runs:  # a run takes the question, and what is ahead shares its requests
                self._runs.start(self._texts.in_line(texts))
            self._texts.pass_over()

    def _hand_out(self, texts: Iterable[str], uses: Mapping[str, int]) -> None:
        """Drop what a caller has received, or has to embed itself."""
        if not self.until_released:
            self._texts.hand_out(texts, uses)
            self._runs.start()

    def _is_final(self, error: BaseException) -> bool:
        """Tell whether the vectors of further runs would not go with those that are here."""
        if isinstance(error, DimensionsError):
            return error.asked or self.dimensions.number is not None
        return isinstance(error, ModelError)


def _is_set(event: threading.Event | None) -> bool:
    return event is not None and event.is_set()
