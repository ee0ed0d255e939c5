"""Embeds in the background, in large batches, what callers then ask for in small ones.

`index(batch_size=100)`, a store that slices, a loop: each of their calls is too small to be
fast. Announced beforehand, the texts are embedded by a few large runs, and the small calls are
answered from what has arrived, waiting only for what has not.

A text is in one of four states: waiting (announced), running (in a run), ready (its vector is
here), or none of these: then whoever needs it embeds it as usual. That is also what becomes of
a text whose run failed, so its error reaches the caller whose text it is.
"""

import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from langchain_batch_embed.dispatch import Done
from langchain_batch_embed.inputs import Inputs
from langchain_batch_embed.results import Results

__all__ = ["Prefetch"]

logger = logging.getLogger(__name__)

RUNS = 2
"""Runs at a time: while the last answers of one are waited for, the next is under way."""

Arrived = Callable[[str, NDArray[np.float32]], None]
Embed = Callable[[list[str], Arrived, threading.Event], None]


class Prefetch:
    """Vectors on their way; made by `BatchEmbeddings.prefetch`.

    Args:
        embed: embeds texts, calls back with each text and its vector, and stops when the
            event is set.
        max_buffered: vectors that may be here or on their way at a time.
        until_released: keep vectors that were handed out until `release`.
        on_close: called when this ends.
    """

    def __init__(
        self,
        embed: Embed,
        *,
        max_buffered: int,
        until_released: bool = False,
        on_close: Callable[["Prefetch"], None],
    ) -> None:
        self._embed = embed
        self._max_buffered = max_buffered
        self._until_released = until_released
        self._on_close = on_close
        self._cancelled = threading.Event()
        self._threads = ThreadPoolExecutor(RUNS, "batch-embed-prefetch")
        # Guards all below; notified when a vector arrives or a run ends.
        self._changed = threading.Condition()
        self._waiting: dict[str, None] = {}  # a set that keeps its order
        self._running: set[str] = set()
        self._ready: dict[str, NDArray[np.float32]] = {}
        self._asked: Counter[str] = Counter()  # how often each text is still to be handed out
        self._runs = 0

    def announce(self, texts: Iterable[str]) -> None:
        """Start to embed these texts, as far as there is room; returns at once."""
        with self._changed:
            for text in texts:
                self._asked[text] += 1
                if text not in self._running and text not in self._ready:
                    self._waiting[text] = None
            self._start_runs()

    def fill(self, inputs: Inputs, results: Results) -> None:
        """Put the vectors of announced texts into a call's results, as they arrive.

        Returns when every text of the call has its vector, or has to be embedded as usual.
        """
        rows = {inputs.texts[row]: row for row in range(inputs.unique) if not results.done[row]}
        uses = Counter(inputs.row_of.tolist())
        with self._changed:
            while True:
                ready = [text for text in rows if text in self._ready]
                if ready:
                    places = np.array([rows.pop(text) for text in ready], dtype=np.intp)
                    vectors = np.stack([self._ready[text] for text in ready])
                    results.add(places, vectors)
                    results.take(Done(places, vectors))
                    for text, row in zip(ready, places.tolist(), strict=True):
                        self._hand_out(text, uses[row])
                waits = any(text in self._waiting for text in rows) and self._runs > 0
                if not waits and not any(text in self._running for text in rows):
                    break
                self._changed.wait()
            # No run will get to these: there is no room, so they are left to the caller.
            for text in rows:
                self._waiting.pop(text, None)

    def put(self, texts: Sequence[str], vectors: Iterable[NDArray[np.float32] | None]) -> None:
        """Add vectors that were made elsewhere, `None` for none, for texts that were announced."""
        with self._changed:
            for text, vector in zip(texts, vectors, strict=True):
                if vector is not None and self._asked[text] > 0:
                    self._ready.setdefault(text, vector)

    def release(self, texts: Iterable[str]) -> None:
        """Drop vectors that were kept after they had been handed out."""
        with self._changed:
            for text in texts:
                self._asked[text] -= 1
                if self._asked[text] <= 0:
                    del self._asked[text]
                    self._ready.pop(text, None)
            self._start_runs()

    def close(self) -> None:
        """Stop: nothing more is sent, and what is here is dropped."""
        self._on_close(self)
        self._cancelled.set()
        self._threads.shutdown(wait=False, cancel_futures=True)
        with self._changed:
            self._waiting.clear()
            self._ready.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    # All below but `_run` is called with `_changed` held.

    def _hand_out(self, text: str, times: int) -> None:
        if self._until_released:
            return
        self._asked[text] -= times
        if self._asked[text] <= 0:
            del self._asked[text], self._ready[text]
            self._start_runs()

    def _start_runs(self) -> None:
        room = self._max_buffered - len(self._running) - len(self._ready)
        while self._waiting and self._runs < RUNS and room > 0 and not self._cancelled.is_set():
            # A run takes half of the room at most, so that two can overlap.
            size = min(room, max(1, self._max_buffered // RUNS))
            texts = [text for text, _ in zip(self._waiting, range(size), strict=False)]
            for text in texts:
                del self._waiting[text]
            self._running.update(texts)
            self._runs += 1
            room -= len(texts)
            self._threads.submit(self._run, texts)

    def _run(self, texts: list[str]) -> None:
        try:
            self._embed(texts, self._arrived, self._cancelled)
        except BaseException as error:  # noqa: BLE001  # it is raised to those who ask for a text
            logger.info("prefetching %d texts failed: %s", len(texts), type(error).__name__)
        finally:
            with self._changed:
                self._running.difference_update(texts)
                self._runs -= 1
                self._start_runs()
                self._changed.notify_all()

    def _arrived(self, text: str, vector: NDArray[np.float32]) -> None:
        with self._changed:
            if text in self._running:
                self._running.remove(text)
                # A copy: a view would keep the whole answer in memory.
                self._ready[text] = vector.copy()
                self._changed.notify_all()
