"""What several test modules share: a real local server, and embeddings that ask it."""

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, Never

import pytest
from langchain_core.embeddings import Embeddings
from langchain_openai import OpenAIEmbeddings

from langchain_batch_embed import BatchEmbeddings
from langchain_batch_embed.simulator import Scenario, Simulator
from tests.support import FakeClock, LocalServer
from tests.valkey_server import Server, running

TESTS = Path(__file__).parent

SLOW = {
    *("benchmarks", "ray", "simulator", "stores", "survival"),
    *(f"calls/test_{name}.py" for name in ("plan", "prefetch", "recovery")),
    "commands/test_demo.py",
    *("shared/test_fleet.py", "shared/test_processes.py"),
    "simulated/test_grid.py",
    *(f"test_{name}.py" for name in ("faults", "notebooks", "promises", "readme")),
}
"""Folders and files whose tests take most of the time: processes, notebooks, real stores."""

LONGEST = 120.0
"""Seconds after which a test fails that would otherwise wait for ever."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what the fast loop leaves out, and what needs PostgreSQL."""
    for item in items:
        path = item.path.relative_to(TESTS)
        if SLOW & {path.as_posix(), path.parts[0]}:
            item.add_marker(pytest.mark.slow)
        if path.parts[0] == "stores" and "fill" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.stores)


@pytest.fixture(autouse=True)
def _ends() -> Iterator[None]:
    """Make a test that hangs a failure, where there are signals."""

    def stop(number: int, frame: FrameType | None) -> Never:
        del number, frame
        raise AssertionError(f"the test has not ended after {LONGEST:g} s")

    if not hasattr(signal, "setitimer"):
        yield
        return
    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, LONGEST)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def clock() -> FakeClock:
    """A clock that needs no waiting."""
    return FakeClock()


@pytest.fixture(scope="session")
def running_simulator() -> Iterator[Simulator]:
    """The process that all tests of a session talk to."""
    with Simulator(Scenario(latency=0)) as simulator:
        yield simulator


@pytest.fixture(scope="session")
def valkey() -> Iterator[Server]:
    """A Valkey server, for tests that use an account or keys of their own each."""
    with running() as server:
        yield server


@pytest.fixture
def server(running_simulator: Simulator) -> LocalServer:
    """The local server with a fresh scenario."""
    local = LocalServer(running_simulator)
    local.configure()
    return local


@pytest.fixture
def openai_embeddings(server: LocalServer) -> Iterator[Callable[..., OpenAIEmbeddings]]:
    """Make an `OpenAIEmbeddings` whose requests go to the local server."""
    made = []

    def make(**options: Any) -> OpenAIEmbeddings:
        made.append(OpenAIEmbeddings(**{"base_url": server.url, "api_key": "sk-test", **options}))
        return made[-1]

    yield make
    for embeddings in made:
        embeddings.client._client.close()


@pytest.fixture
def batch(
    openai_embeddings: Callable[..., OpenAIEmbeddings], clock: FakeClock
) -> Callable[..., BatchEmbeddings]:
    """Make a `BatchEmbeddings` on the local server that waits on the fake clock.

    Without hedging: a clock that jumps ahead makes stragglers of requests that take real time.
    """

    def make(wrapped: Embeddings | None = None, **options: Any) -> BatchEmbeddings:
        made = {"_clock": clock, "hedge": False, **options}
        return BatchEmbeddings(wrapped or openai_embeddings(), **made)

    return make
