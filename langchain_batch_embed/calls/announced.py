"""The texts of one prefetch, and which of them the next run embeds. No thread and no lock.

An announced text is waiting (for a run), running (in one) or ready (its vector has arrived). It is
kept until it has been requested as often as it was announced, or until it is released.
"""

import itertools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from langchain_batch_embed.calls.look_ahead import LookAhead
from langchain_batch_embed.calls.vector_blocks import VectorBlocks

__all__ = ["Announced", "Run"]


@dataclass(frozen=True, slots=True)
class Run:
    """A run: different texts that are embedded together.

    Attributes:
        number: identifies the run within its prefetch.
        texts: the texts that the run embeds.
    """

    number: int
    texts: list[str]


class Announced:
    """The state of all announced texts. Callers must hold the lock of the prefetch.

    Args:
        max_buffered: maximum number of vectors that may be buffered or being embedded at a time.
        max_runs: maximum number of runs at a time.
        until_released: keep vectors that were handed out until they are released.
        first: how many texts to embed before `need_all` is called, if vectors are kept until they
            are released.

    Attributes:
        until_released: as above.
        ready: the vectors that have arrived.
    """

    def __init__(
        self, *, max_buffered: int, max_runs: int, until_released: bool, first: float
    ) -> None:
        self.until_released = until_released
        self.ready = VectorBlocks()
        self._max_buffered = max_buffered
        self._max_runs = max_runs
        self._look_ahead = LookAhead(
            max_buffered, max_runs, credit=first if until_released else 0.0
        )
        self._waiting: dict[str, None] = {}  # a set that keeps its order
        self._passed: dict[str, None] = {}  # passed over by questions, so not put into runs
        self._running: dict[str, int] = {}  # text -> number of its run
        self._expected: Counter[str] = Counter()  # how many more times each text is expected
        self._spare: dict[str, None] = {}  # were requested, and may be requested again
        self._wanted: Counter[str] = Counter()  # text -> how many callers are waiting for it
        self._tokens: dict[str, int] = {}  # token counts of texts that a run has counted
        self._numbers = itertools.count()  # numbers the runs
        self._active: set[int] = set()  # the numbers of the active runs

    @property
    def runs(self) -> int:
        """The number of active runs."""
        return len(self._active)

    @property
    def running(self) -> int:
        """The number of texts in active runs."""
        return len(self._running)

    def announce(self, text: str, place: int) -> None:
        """Expect one request for a text, in addition to those announced before.

        Args:
            text: the text.
            place: its number among the different texts that were announced, from 1.
        """
        self._expected[text] += 1
        if not self.until_released:
            self._look_ahead.announce(text, place)
        if text not in self.ready and text not in self._running:
            self._waiting[text] = None

    def is_expected(self, text: str) -> bool:
        """Return whether a text is still expected to be requested."""
        return text in self._expected

    def is_running(self, text: str) -> bool:
        """Return whether a text is in an active run."""
        return text in self._running

    def is_coming(self, text: str) -> bool:
        """Return whether a text is in an active run or waits for one."""
        return text in self._running or text in self._waiting

    def take_from_line(self, text: str) -> None:
        """Take a text out of the line: the caller embeds it, sooner than a later run would."""
        self._waiting.pop(text, None)
        self._passed.pop(text, None)

    # --- Questions -----------------------------------------------------------------------------

    def want(self, texts: Iterable[str]) -> None:
        """Record that a caller waits for these different texts, so their vectors must be kept."""
        self._wanted.update(texts)

    def want_no_more(self, texts: Iterable[str]) -> None:
        """Record that a caller no longer waits for these different texts."""
        self._wanted -= Counter(texts)

    def ask(self, texts: Iterable[str]) -> bool:
        """Learn from a question how far ahead runs should go; return whether it was a new one.

        A question is the texts that one call requests. It is new if it has a text that no earlier
        question had.
        """
        return not self.until_released and self._look_ahead.ask(texts)

    def in_line(self, texts: Iterable[str]) -> list[str]:
        """Return those of the texts that wait for a run or were passed over."""
        return [text for text in texts if text in self._waiting or text in self._passed]

    def pass_over(self) -> None:
        """Put no texts before the last question into runs: an in-order caller has skipped them."""
        passed = itertools.takewhile(self._look_ahead.is_behind, self._waiting)
        for text in list(passed):
            del self._waiting[text]
            self._passed[text] = None

    def hand_out(self, texts: Iterable[str], uses: Mapping[str, int]) -> None:
        """Drop texts that a caller has received or must embed, unless they are expected again.

        Args:
            texts: the texts.
            uses: how often the caller requested each of them.
        """
        for text in texts:
            if text in self._running:  # the caller gave up at its deadline; it may ask again
                self._spare[text] = None
            else:
                self.drop(text, uses[text])

    def drop(self, text: str, times: int = 1) -> None:
        """Record that a text was requested; drop its vector after the last expected request."""
        self._expected[text] -= times
        if self._expected[text] > 0:
            self._spare[text] = None
        else:
            del self._expected[text]
            self._spare.pop(text, None)
            self._tokens.pop(text, None)
            self.ready.drop(text)

    # --- Vectors and tokens --------------------------------------------------------------------

    def add(self, text: str, vector: NDArray[np.float32]) -> None:
        """Keep the vector of a text that a run has embedded, if it is still expected."""
        self._running.pop(text, None)
        if text in self._expected:
            self.ready.put(text, vector)

    def keep(self, texts: Sequence[str], vectors: NDArray[np.float32]) -> None:
        """Keep vectors that a caller made itself, if their texts are expected and there is room."""
        room = self._room()
        for text, vector in zip(texts, vectors, strict=True):
            if room > 0 and text in self._expected and text not in self.ready:
                self.take_from_line(text)
                self.ready.put(text, vector)
                room -= 1

    def forget_vectors(self) -> None:
        """Drop all vectors."""
        self.ready = VectorBlocks()

    def tokens_of(self, text: str) -> int | None:
        """Return the token count of a text, or `None` if no run has counted it."""
        return self._tokens.get(text)

    def note_tokens(self, texts: Sequence[str], tokens: Sequence[int]) -> None:
        """Keep the token counts of those texts that are still expected."""
        for text, count in zip(texts, tokens, strict=True):
            if text in self._expected:
                self._tokens[text] = count

    # --- Runs ----------------------------------------------------------------------------------

    def need_all(self) -> None:
        """Let runs go as far ahead as there is room: all announced texts will be needed."""
        self._look_ahead.need_all()

    def next_run(self, asked: Sequence[str] = ()) -> Run | None:
        """Begin the next run, or return `None` if no text waits or there is no room.

        Args:
            asked: texts of a question that are not being embedded yet; as many as fit are put
                first in the run.
        """
        if not (asked or self._waiting) or self.runs >= self._max_runs:
            return None
        asked = asked[: self._look_ahead.longest_run]
        waiting = len(self._waiting.keys() | asked) if asked else len(self._waiting)
        size = self._look_ahead.run_size(waiting, self._ahead(), asked=len(asked))
        if not size or not self._make_room(size):
            return None
        for text in asked:
            self.take_from_line(text)
        texts = [*asked, *itertools.islice(self._waiting, size - len(asked))]
        for text in texts[len(asked) :]:
            del self._waiting[text]
        run = Run(next(self._numbers), texts)
        self._running.update(dict.fromkeys(texts, run.number))
        self._active.add(run.number)
        return run

    def is_active(self, run: Run) -> bool:
        """Return whether a run has begun and not ended."""
        return run.number in self._active

    def end_run(self, run: Run, *, useless: bool) -> None:
        """Record the end of a run; its texts without a vector count as failed.

        Args:
            run: the run.
            useless: start no further runs, because their vectors would be thrown away.
        """
        if useless:
            self._waiting.clear()
        for text in run.texts:
            if self._running.get(text) == run.number:  # otherwise a later run has the text
                del self._running[text]
                self._look_ahead.lost += 1
        self._active.discard(run.number)

    def clear(self) -> None:
        """Forget all texts and vectors; active runs end by themselves."""
        for texts in (
            self._waiting,
            self._passed,
            self._running,
            self._expected,
            self._spare,
            self._tokens,
        ):
            texts.clear()
        self._look_ahead.clear()
        self.forget_vectors()

    def _ahead(self) -> int:
        """Return how many texts that are not requested yet are ready, in a run or failed."""
        if self.until_released:
            return len(self._expected) - len(self._waiting)
        return len(self._running) + len(self.ready) + self._look_ahead.lost - len(self._spare)

    def _room(self) -> int:
        return self._max_buffered - len(self._running) - len(self.ready)

    def _make_room(self, size: int) -> bool:
        """Drop spare vectors if room is short; return whether there is room for a run."""
        room = self._room()
        # A text announced twice may be requested only once: `index()` skips texts that it has.
        if room < size and not self.until_released:
            here = (t for t in self._spare if t in self.ready and t not in self._wanted)
            for text in list(itertools.islice(here, size - room)):
                del self._spare[text]
                room += self.ready.drop(text)
        return room >= size
