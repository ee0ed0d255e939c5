"""Helpers for all tests: a clock that needs no waiting, a local server, and texts."""

import gc
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from hypothesis import settings
from langchain_core.embeddings import Embeddings
from numpy.typing import NDArray

from langchain_batch_embed import BatchEmbeddings
from langchain_batch_embed.pacing.concurrency import Concurrency
from langchain_batch_embed.simulator import Scenario, Simulator, vectors

_WORDS = ["the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog"]
_WORDS += ["while", "seven", "wizards", "brew", "potions"]

_LINE: list[str] = np.random.default_rng(0).choice(_WORDS, 4096).tolist()
"""Words of which every generated text is a section.

Drawing them for each text took most of its time.
"""

LONGEST_PATIENCE = 0.5
"""Most real seconds to wait for requests in flight before a jump."""


class FakeClock:
    """A clock that jumps to the end of a wait as soon as nothing else happens.

    Real requests take real time, so the clock waits briefly for a request that may end the wait.

    Attributes:
        time: seconds, which only waiting changes.
        waits: length of each jump, in seconds.
        patience: real seconds to wait for an answer before a jump.
        longest_patience: real seconds to wait while a watched object is busy.
        watched: functions that return whether an object has requests in flight.
    """

    def __init__(self) -> None:
        self.time = 0.0
        self.patience = 0.02
        self.longest_patience = LONGEST_PATIENCE
        self.waits: list[float] = []
        self.watched: list[Callable[[], bool]] = []

    def now(self) -> float:
        """Return the time in seconds, which only waiting changes."""
        return self.time

    def worked(self) -> float:
        """Return 0 processor seconds, because work takes none of this clock's time."""
        return 0.0

    worked_here = worked

    def wait(self, condition: threading.Condition, timeout: float) -> None:
        """Jump ahead by `timeout`, unless the condition is notified within a moment."""
        endless = timeout == float("inf")
        end = time.monotonic() + self.longest_patience
        while True:
            if condition.wait(60.0 if endless else self.patience) or endless:
                return
            if time.monotonic() >= end or not any(is_busy() for is_busy in self.watched):
                break
        self.time += timeout
        self.waits.append(timeout)


class LocalServer:
    """The simulator, with a scenario for each test and without latency unless a test sets it."""

    def __init__(self, simulator: Simulator) -> None:
        self._simulator = simulator
        self.url = simulator.url
        self.azure_endpoint = simulator.azure_endpoint

    def configure(self, **options: Any) -> None:
        """Replace the scenario and reset the counts."""
        self._simulator.configure(Scenario(**{"latency": 0, **options}))

    def stats(self) -> dict[str, Any]:
        """Return the counts since the scenario was set."""
        return self._simulator.stats()


class SpoiltFirst(Embeddings):
    """Embeddings whose vectors are all ones, and whose first answers have other widths.

    Args:
        spoilt: widths of the first answers; all later ones have width 4.

    Attributes:
        sent: number of texts in each call.
    """

    def __init__(self, *spoilt: int) -> None:
        self._widths = iter(spoilt)
        self.sent: list[int] = []

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Return vectors of the next width."""
        self.sent.append(len(texts))
        width = next(self._widths, 4)
        return [[1.0] * width for _ in texts]

    def embed_query(self, text: str) -> list[float]:
        """Return a vector of the next width."""
        return self.embed_documents([text])[0]


def has_requests_in_flight(embeddings: BatchEmbeddings) -> bool:
    """Return whether an object waits for an answer."""
    return embeddings._pipeline.dispatcher.sender.in_flight > 0


def examples(count: int) -> settings:
    """Return settings that draw this many examples instead of a hundred, fewer in the fast loop."""
    return settings(max_examples=count * settings().max_examples // 100)


def seeds(count: int) -> range:
    """Return this many seeds for a simulation, a quarter of them in the fast loop."""
    return range(math.ceil(count * settings().max_examples / 100))


def treat_as_known(embeddings: BatchEmbeddings) -> BatchEmbeddings:
    """Make an object treat the local server as OpenAI's own, and return the object.

    It then sends as to a provider that is known to accept any number of requests at once.
    """
    limits, pacer = embeddings.limits, embeddings._pipeline.dispatcher.sender.deployments[0].pacer
    pacer.concurrency = Concurrency(limits.max_workers, first=limits.first_requests, is_known=True)
    return embeddings


def prose(tokens: int, seed: int = 0) -> str:
    """Return a text of about this many one-token words, which differs for every seed."""
    count = max(0, tokens - 3)
    begin = seed * 7919 % len(_LINE)  # a prime number, so that neighbours begin far apart
    words = _LINE[begin : begin + count]
    while len(words) < count:
        words += _LINE[: count - len(words)]
    return " ".join([f"text {seed}", *words])


def assert_right(
    got: NDArray[np.float32] | Sequence[list[float] | NDArray[np.float32]], texts: list[str]
) -> None:
    """Assert that each vector is bit for bit the one that the server made for its text."""
    array = np.asarray(got, dtype=np.float32)
    expected = vectors(texts, array.shape[1])
    assert np.flatnonzero((array != expected).any(axis=1)).tolist() == []


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait up to a minute, which a busy machine may need, until another thread makes this true."""
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@contextmanager
def no_thread_left(name: str = "batch-embed") -> Iterator[None]:
    """Wait for the end of every thread of this name that is started in the block."""
    before = set(threading.enumerate())  # other tests' requests may still be timing out

    def ended() -> bool:
        gc.collect()  # an executor's threads end with it
        return not [t for t in set(threading.enumerate()) - before if name in t.name]

    gc.freeze()  # the collector can then skip everything that was imported
    try:
        yield
        wait_until(ended)
    finally:
        gc.unfreeze()
