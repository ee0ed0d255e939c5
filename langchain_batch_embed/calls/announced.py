"""The texts of one prefetch, and which of them the next run embeds. Pure: no thread and no lock.

An announced text is waiting (for a run), running (in one) or ready (its vector is here). It stays
until it was asked for as often as it was announced, or until it is released.
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
    """Different texts that are embedded together."""

    number: int
    texts: list[str]


class Announced:
    """What becomes of announced texts. Whoever calls it holds the lock of the prefetch.

    Args:
        max_buffered: vectors that may be here or on their way at a time.
        max_runs: runs at a time.
        until_released: keep vectors that were handed out until they are released.
        first: texts that are embedded before all are needed, where vectors are kept until they are
            released.

    Attributes:
        until_released: as above.
        ready: the vectors that are here.
        runs: how many runs are under way.
    """

    def __init__(
        self, *, max_buffered: int, max_runs: int, until_released: bool, first: float
    ) -> None:
        self.until_released = until_released
        self.ready = VectorBlocks()
        self.runs = 0
        self._max_buffered = max_buffered
        self._max_runs = max_runs
        self._look_ahead = LookAhead(
            max_buffered, max_runs, credit=first if until_released else 0.0
        )
        self._waiting: dict[str, None] = {}  # a set that keeps its order
        self._passed: dict[str, None] = {}  # were waiting when later ones were asked for
        self._running: dict[str, int] = {}  # and the number of the run
        self._expected: Counter[str] = Counter()  # how often each text is still to be asked for
        self._spare: dict[str, None] = {}  # were asked for, and may be once more
        self._wanted: Counter[str] = Counter()  # are being asked for, and by how many
        self._tokens: dict[str, int] = {}  # of texts that a run has counted
        self._numbers = itertools.count()  # of runs

    @property
    def running(self) -> int:
        """How many texts are in runs."""
        return len(self._running)

    def announce(self, text: str, place: int) -> None:
        """Expect to be asked for a text, once more if it was announced before.

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
        """Tell whether a text is still to be asked for."""
        return text in self._expected

    def is_running(self, text: str) -> bool:
        """Tell whether a text is in a run."""
        return text in self._running

    def is_coming(self, text: str) -> bool:
        """Tell whether a text is in a run, or is to be in one."""
        return text in self._running or text in self._waiting

    def take_from_line(self, text: str) -> None:
        """Leave a text to whoever asks for it, who embeds it sooner than a later run would."""
        self._waiting.pop(text, None)
        self._passed.pop(text, None)

    # --- Questions -----------------------------------------------------------------------------

    def want(self, texts: Iterable[str]) -> None:
        """Note that somebody asks for these different texts, whose vectors must stay until then."""
        self._wanted.update(texts)

    def want_no_more(self, texts: Iterable[str]) -> None:
        """Note that somebody has ended to ask."""
        self._wanted -= Counter(texts)

    def ask(self, texts: Iterable[str]) -> bool:
        """Learn from a question how far ahead runs should go; return whether it was a new one."""
        return not self.until_released and self._look_ahead.ask(texts)

    def in_line(self, texts: Iterable[str]) -> list[str]:
        """Return those of the texts that wait for a run."""
        return [text for text in texts if text in self._waiting or text in self._passed]

    def pass_over(self) -> None:
        """Start no runs for texts before the last question: who asks in order is past them."""
        passed = itertools.takewhile(self._look_ahead.is_behind, self._waiting)
        for text in list(passed):
            del self._waiting[text]
            self._passed[text] = None

    def hand_out(self, texts: Iterable[str], uses: Mapping[str, int]) -> None:
        """Drop what somebody has received, or has to embed, unless it will be asked for again.

        Args:
            texts: the texts.
            uses: how often each of them was asked for.
        """
        for text in texts:
            if text in self._running:  # left at a deadline; the caller may ask again
                self._spare[text] = None
            else:
                self.drop(text, uses[text])

    def drop(self, text: str, times: int = 1) -> None:
        """Note that a text was asked for; drop its vector with the last time."""
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
        """Keep vectors that a caller has made itself, if there is room and they are expected."""
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
        """Return how many tokens a text has, if a run has counted them; else `None`."""
        return self._tokens.get(text)

    def note_tokens(self, texts: Sequence[str], tokens: Sequence[int]) -> None:
        """Keep the counts of texts that will be asked for."""
        for text, count in zip(texts, tokens, strict=True):
            if text in self._expected:
                self._tokens[text] = count

    # --- Runs ----------------------------------------------------------------------------------

    def need_all(self) -> None:
        """Embed as far ahead as there is room: all texts that are announced will be needed."""
        self._look_ahead.need_all()

    def next_run(self, asked: Sequence[str] = ()) -> Run | None:
        """Begin a run, if something waits and there is room for it; else return `None`.

        Args:
            asked: texts of a question that nobody embeds yet; those that fit come first.
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
        self.runs += 1
        return run

    def end_run(self, run: Run, *, useless: bool) -> None:
        """Note the end of a run; texts that got no vector have failed.

        Args:
            run: the run.
            useless: the vectors of further runs would be thrown away, so there are none.
        """
        if useless:
            self._waiting.clear()
        for text in run.texts:
            if self._running.get(text) == run.number:  # else a later run has it now
                del self._running[text]
                self._look_ahead.lost += 1
        self.runs -= 1

    def clear(self) -> None:
        """Forget all texts and vectors; runs that are under way end by themselves."""
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
        """Return how many texts without a question are here, on their way, or have failed."""
        if self.until_released:
            return len(self._expected) - len(self._waiting)
        return len(self._running) + len(self.ready) + self._look_ahead.lost - len(self._spare)

    def _room(self) -> int:
        return self._max_buffered - len(self._running) - len(self.ready)

    def _make_room(self, size: int) -> bool:
        """Drop vectors that may not be asked for again; return whether there is room for a run."""
        room = self._room()
        # A text that is announced twice may be asked for once: `index()` skips what it has.
        if room < size and not self.until_released:
            here = (t for t in self._spare if t in self.ready and t not in self._wanted)
            for text in list(itertools.islice(here, size - room)):
                del self._spare[text]
                room += self.ready.drop(text)
        return room >= size
