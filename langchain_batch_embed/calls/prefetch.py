"""Embeds in the background, in large runs, what callers then ask for in small portions.

The calls of `index(batch_size=100)`, of a store that slices, or of a loop are too small to be fast.
If the texts are announced beforehand, a few large runs embed them. The small calls are answered
from what has arrived, and wait only for what is on its way.

An announced text is waiting (for a run), running (in one) or ready (its vector is here). Any
other text, and one that is still waiting when it is asked for, is embedded by the caller's own
call. So is a text whose run failed: its error reaches the caller whose text it is.

Runs start with the first question, and go only as far ahead as the questions bear out: `index()`
does not ask for what it skips, and that should not be paid for. Vectors that are kept until they
are released, as an ingest's, are all needed, so their runs start at once.
"""

import itertools
import logging
import math
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from langchain_batch_embed.calls.dimensions import Dimensions
from langchain_batch_embed.calls.vector_blocks import VectorBlocks
from langchain_batch_embed.clock import SYSTEM_CLOCK, Clock
from langchain_batch_embed.errors import DimensionsError, ModelError
from langchain_batch_embed.pacing.hedging import Hedges
from langchain_batch_embed.report import Account, Tally
from langchain_batch_embed.sending.budget import Budget
from langchain_batch_embed.sending.threads import in_daemon, leave_behind

__all__ = ["RUNS", "Embed", "Prefetch"]

logger = logging.getLogger(__name__)

RUNS = 4
"""Runs at a time. Each may buffer this part of everything, so that others are under way while one
waits for its last answers. More and smaller runs would make many small requests for a slow
consumer. Fewer would leave a fast consumer waiting for the last answers of all."""

GROWTH = 4
"""Each question that follows on the last one multiplies the texts that may be ahead by this, so a
few questions are enough to fill the buffer."""

DISTRUST = 4
"""The power by which skipped texts count. If every second text is skipped, runs go ahead by a
quarter of a question; if every fourth, or fewer, without a limit."""

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
        self._embed = embed
        self._max_buffered = max_buffered
        self._on_close = on_close
        self._on_failure = on_failure
        self._clock = clock
        self.account = Account(clock.now())
        self.dimensions = Dimensions(dimensions)
        self.hedges = Hedges()
        self.budget = budget
        self.is_failed = False
        self._closed = threading.Event()
        self._threads = ThreadPoolExecutor(RUNS, "batch-embed-prefetch")
        # Guards all below; notified when vectors arrive and when a run ends.
        self._state_changed = threading.Condition()
        self._waiting: dict[str, None] = {}  # a set that keeps its order
        self._passed: dict[str, None] = {}  # were waiting when later ones were asked for
        self._running: dict[str, int] = {}  # and the number of the run
        self._ready = VectorBlocks()
        self._expected: Counter[str] = Counter()  # how often each text is still to be asked for
        self._spare: dict[str, None] = {}  # were asked for, and may be once more
        self._wanted: Counter[str] = Counter()  # are being asked for, and by how many
        self._tokens: dict[str, int] = {}  # of texts that a run has counted
        self._places: dict[str, int] = {}  # of announced texts that nobody has asked for yet
        self._reached = 0  # behind the last place that was asked for
        self._lost = 0  # texts whose runs failed, since the last question
        self._credit = first if until_released else 0.0  # texts that may be ahead
        self._runs = 0
        self._number = itertools.count()  # of runs

    def announce(self, texts: Sequence[str]) -> None:
        """Start to embed these texts, if there is room, and return at once."""
        with self._state_changed:
            self.account.texts += len(texts)
            for text in texts:
                self.account.unique += text not in self._expected
                self._expected[text] += 1
                if not self.until_released:
                    self._places.setdefault(text, self.account.unique)
                if text in self._ready:
                    continue
                self.account.missing[text] += 1
                if text not in self._running:
                    self._waiting[text] = None
            self._start_runs()

    def receive(
        self,
        texts: Iterable[str],
        *,
        cancelled: threading.Event | None = None,
        end: float = math.inf,
        borrow: bool = False,
    ) -> Iterator[tuple[list[str], NDArray[np.float32]]]:
        """Yield announced texts with their vectors, (k, d), as they arrive.

        It ends when none of the texts is on its way. The caller embeds those that it did not yield.

        Args:
            texts: what the caller needs, each as often as it is needed.
            cancelled: set, with a `wake`, to end early.
            end: the clock's time at which to end early.
            borrow: keep the vectors for the callers that they were announced for.
        """
        uses = Counter(texts)
        left = dict.fromkeys(uses)
        with self._state_changed:
            self._wanted.update(uses.keys())
            if not borrow:
                self._note_question(uses)
        try:
            while left:
                with self._state_changed:
                    self._wait_for(left, any, cancelled, end)
                    ready = [text for text in left if text in self._ready]
                    vectors = self._ready.stack(ready)
                    if not (self.until_released or borrow):
                        self._note_taken(ready or left, uses)
                if not ready:
                    return
                yield ready, vectors
                for text in ready:
                    del left[text]
        finally:
            with self._state_changed:
                self._wanted -= Counter(uses.keys())

    def claim(self, texts: Iterable[str]) -> list[str]:
        """Return those of the texts that are here or in a run, and take the others out of the line.

        The caller embeds those, sooner than a later run would.
        """
        with self._state_changed:
            here = []
            for text in texts:
                self._take_from_line(text)
                if text in self._ready or text in self._running:
                    here.append(text)
            return here

    def answered_elsewhere(self, texts: Iterable[str]) -> None:
        """Note that callers have these texts from elsewhere, each as often as it is there."""
        uses = Counter(texts)
        with self._state_changed:
            if not self.until_released:
                self._note_taken(uses, uses)

    def tokens_of(self, text: str) -> int | None:
        """Return how many tokens a text has, if a run has counted them; else `None`."""
        return self._tokens.get(text)

    def note_tokens(self, texts: Sequence[str], tokens: Sequence[int]) -> None:
        """Keep the counts of texts that calls will ask for, so that they are counted once."""
        if self.until_released:  # then a call that has its vectors counts nothing
            return
        with self._state_changed:
            for text, count in zip(texts, tokens, strict=True):
                if text in self._expected:
                    self._tokens[text] = count

    def wait_for_all(
        self, texts: Iterable[str], *, cancelled: threading.Event | None = None
    ) -> list[str]:
        """Wait until none of the texts is on its way; return those without a vector, once each."""
        wanted = dict.fromkeys(texts)
        with self._state_changed:
            self._wait_for(wanted, all, cancelled, math.inf)
            return [text for text in wanted if text not in self._ready]

    def peek(self, texts: Sequence[str]) -> NDArray[np.float32] | None:
        """Return the vectors of the texts, (k, d), and keep them; `None` unless all are here."""
        with self._state_changed:
            if all(text in self._ready for text in texts):
                return self._ready.stack(texts)
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
                here = text in self._ready
                if not here:
                    if ready >= least and (text in self._running or text in self._waiting):
                        break
                    self._wait_for([text], all, cancelled, math.inf)
                    here = text in self._ready
                settled += 1
                ready += here
        return settled

    def add(self, texts: Sequence[str], vectors: NDArray[np.float32]) -> None:
        """Save the vectors of those texts, (k, d), that are still expected.

        Raises:
            DimensionsError: they have other dimensions than those that came before.
        """
        with self._state_changed:
            self.dimensions.check(vectors.shape[1], answer=False)
            for text, vector in zip(texts, vectors, strict=True):
                self._running.pop(text, None)
                self.account.missing.pop(text, None)
                if text in self._expected:
                    self._ready.put(text, vector)
            self._state_changed.notify_all()

    def drop_all(self, refuted: Dimensions) -> None:
        """Drop all vectors: most answers have other dimensions, or are of another model."""
        with self._state_changed:
            if refuted is self.dimensions:  # else another run has done it
                self._ready = VectorBlocks()
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
            room = self._max_buffered - len(self._running) - len(self._ready)
            for text, vector in zip(texts, vectors, strict=True):
                if room > 0 and text in self._expected and text not in self._ready:
                    self._take_from_line(text)
                    self._ready.put(text, vector)
                    room -= 1

    def still_expected(self, positions: Mapping[str, int]) -> dict[str, int]:
        """Return those of the texts that are to be asked for again, and have no vector here."""
        with self._state_changed:
            return {
                text: position
                for text, position in positions.items()
                if text in self._expected and text not in self._ready and text not in self._running
            }

    def embedded_elsewhere(self, texts: Iterable[str]) -> None:
        """Note that these texts have a vector, whoever embedded them."""
        with self._state_changed:
            for text in texts:
                self.account.missing.pop(text, None)

    def release(self, texts: Iterable[str]) -> None:
        """Drop vectors that were kept after they were handed out."""
        with self._state_changed:
            for text in texts:
                self._drop(text, 1)
            self._start_runs()

    def go_ahead(self) -> None:
        """Embed as far ahead as there is room: all texts that are announced will be needed."""
        with self._state_changed:
            self._credit = math.inf
            self._start_runs()

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
            left = list(self._ready) if failed else []
            vectors = self._ready.stack(left)
            self._closed.set()
            for texts in (
                self._waiting,
                self._passed,
                self._running,
                self._expected,
                self._spare,
                self._tokens,
                self._places,
            ):
                texts.clear()
            self._ready = VectorBlocks()
            self._threads.shutdown(wait=False, cancel_futures=True)
            self._state_changed.notify_all()
        if left:
            self._on_failure(left, vectors)
        self._on_close(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close(failed=error is not None)

    # All below but `_run` is called with `_state_changed` held.

    def _wait_for(
        self,
        texts: Iterable[str],
        enough: Callable[[Iterable[bool]], bool],
        cancelled: threading.Event | None,
        end: float,
    ) -> None:
        """Wait until any or all of the texts are ready, or none is on its way."""
        for text in texts:  # the caller embeds these, sooner than a later run would
            self._take_from_line(text)
        while (
            not enough(text in self._ready for text in texts)
            and any(text in self._running for text in texts)
            and not _is_set(cancelled)
            and (left := end - self._clock.now()) > 0
        ):
            self._clock.wait(self._state_changed, left)

    def _take_from_line(self, text: str) -> None:
        self._waiting.pop(text, None)
        self._passed.pop(text, None)

    def _note_question(self, texts: Iterable[str]) -> None:
        """Find out from what is asked for how far ahead of it runs should go."""
        if self.until_released:
            return
        places = [self._places.pop(text) for text in texts if text in self._places]
        if not places:
            return
        reached = max(self._reached, *places)
        share = len(places) / max(len(places), reached - self._reached)
        self._credit = GROWTH * (self._credit + len(places)) * share**DISTRUST
        self._credit = min(self._credit, self._max_buffered)
        self._reached, self._lost = reached, 0
        if not self._runs:  # then a run takes them, and has what is ahead in its requests, too
            asked = [text for text in texts if text in self._waiting or text in self._passed]
            self._start_runs(asked)
        # Whoever asks in order will not come back for these.
        for text in list(
            itertools.takewhile(lambda text: self._places.get(text, 0) < reached, self._waiting)
        ):
            del self._waiting[text]
            self._passed[text] = None

    def _ahead(self) -> int:
        """Return how many texts without a question are here, on their way, or have failed."""
        if self.until_released:
            return len(self._expected) - len(self._waiting)
        return len(self._running) + len(self._ready) + self._lost - len(self._spare)

    def _note_taken(self, texts: Iterable[str], uses: Mapping[str, int]) -> None:
        """Drop what a caller has received, or has to embed itself."""
        for text in texts:
            if text in self._running:  # left at a deadline; the caller may ask again
                self._spare[text] = None
            else:
                self._drop(text, uses[text])
        self._start_runs()

    def _drop(self, text: str, times: int) -> None:
        """Note that a text was asked for; drop its vector with the last time."""
        self._expected[text] -= times
        if self._expected[text] > 0:
            self._spare[text] = None
        else:
            del self._expected[text]
            self._spare.pop(text, None)
            self._tokens.pop(text, None)
            self._ready.drop(text)

    def _start_runs(self, asked: Sequence[str] = ()) -> None:
        """Start runs of what is waiting, as far as there is room.

        Args:
            asked: texts for the first run, and at most as many as fit into it.
        """
        while (asked or self._waiting) and self._runs < RUNS and not self._closed.is_set():
            most = max(1, self._max_buffered // RUNS)
            asked = asked[:most]
            size = min(len(self._waiting.keys() | asked) if asked else len(self._waiting), most)
            if asked:
                size = min(size, len(asked) + max(0, int(self._credit) - self._ahead()))
            elif self._credit < self._max_buffered:  # in runs of a quarter of it, too
                allowed = int(self._credit) - self._ahead()
                if allowed < max(1, min(size, int(self._credit) // RUNS)):
                    return
                size = min(size, allowed)
            if not self._make_room(size):
                return
            for text in asked:
                self._take_from_line(text)
            texts = [*asked, *islice(self._waiting, size - len(asked))]
            for text in texts[len(asked) :]:
                del self._waiting[text]
            asked = ()
            number = next(self._number)
            self._running.update(dict.fromkeys(texts, number))
            self._runs += 1
            in_daemon(partial(self._threads.submit, self._run, texts, number))
            leave_behind(self._threads)

    def _make_room(self, size: int) -> bool:
        """Drop vectors that may not be asked for again; return whether there is room for a run."""
        room = self._max_buffered - len(self._running) - len(self._ready)
        # A text that is announced twice may be asked for once: `index()` skips what it has.
        if room < size and not self.until_released:
            here = (t for t in self._spare if t in self._ready and t not in self._wanted)
            for text in list(islice(here, size - room)):
                del self._spare[text]
                room += self._ready.drop(text)
        return room >= size

    def _run(self, texts: list[str], number: int) -> None:
        useless = False
        try:
            self._embed(self, texts, self._closed)
        except BaseException as error:  # noqa: BLE001  # the callers' own calls will meet it
            if isinstance(error, DimensionsError):
                useless = error.asked or self.dimensions.number is not None
            useless |= isinstance(error, ModelError)
            logger.info("prefetching %d texts failed: %s", len(texts), type(error).__name__)
        finally:
            with self._state_changed:
                if useless:  # the vectors of each further run would be thrown away
                    self._waiting.clear()
                for text in texts:
                    if self._running.get(text) == number:  # else a later run has it now
                        del self._running[text]
                        self._lost += 1
                self._runs -= 1
                self._start_runs()
                self._state_changed.notify_all()


def _is_set(event: threading.Event | None) -> bool:
    return event is not None and event.is_set()
