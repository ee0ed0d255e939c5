"""Fixtures that several test modules share: a real local server, and embeddings that use it."""

import signal
import ssl
from collections.abc import Callable, Iterator
from functools import cache, partial, wraps
from pathlib import Path
from types import FrameType
from typing import Any, Never

import openai
import pytest
from hypothesis import HealthCheck, settings
from langchain_core.embeddings import Embeddings
from langchain_openai import OpenAIEmbeddings

from langchain_batch_embed import BatchEmbeddings
from langchain_batch_embed.simulator import Scenario, Simulator
from tests.support import FakeClock, LocalServer, has_requests_in_flight, no_thread_left
from tests.valkey_server import Server, running

TESTS = Path(__file__).parent

SLOW = {
    *("benchmarks", "ray", "simulator", "stores", "survival"),
    *(f"calls/test_{name}.py" for name in ("interrupts", "partial_results", "plan", "recovery")),
    *(f"calls/test_prefetch{name}.py" for name in ("", "_bounds", "_errors", "_nested")),
    *(f"calls/test_prefetch_{name}.py" for name in ("questions", "reports")),
    *(f"batch_api/test_{name}.py" for name in ("bad_batches", "crashes", "enqueued", "finish_by")),
    *(f"batch_api/test_{name}.py" for name in ("job_store", "jobs", "refusals", "uploads")),
    *(f"commands/test_{name}.py" for name in ("batch_api", "demo")),
    *(f"sending/test_{name}.py" for name in ("several", "threads", "verdict")),
    *("shared/test_fleet.py", "shared/test_processes.py"),
    "simulated/test_grid.py",
    *(f"test_{name}.py" for name in ("faults", "notebooks", "promises", "readme")),
}
"""Folders and files whose tests take most of the time, with processes, notebooks or real stores."""

LONGEST = 120.0
"""Seconds after which a hanging test fails; a module may define its own value."""


def pytest_configure(config: pytest.Config) -> None:
    """Draw a quarter of the examples in the fast loop, and different ones in each run.

    No example fails for the time that it takes, because that depends on the load of the machine.
    """
    is_fast = "not slow" in config.getoption("markexpr")
    given = settings()  # on a CI server, these draw the same examples each time
    settings.register_profile(
        "tests",
        given,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
        max_examples=given.max_examples // (4 if is_fast else 1),
    )
    settings.load_profile("tests")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Import no file of slow tests in the fast loop, as all files together take seconds."""
    is_fast = config.getoption("markexpr") in {"not slow", "not slow and not stores"}
    return True if is_fast and _is_slow(collection_path) else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that the fast loop leaves out, and those that need PostgreSQL."""
    for item in items:
        path = item.path.relative_to(TESTS)
        if _is_slow(item.path):
            item.add_marker(pytest.mark.slow)
        if path.parts[0] == "stores" and "fill" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.stores)


def _is_slow(path: Path) -> bool:
    inside = path.relative_to(TESTS)
    return bool(SLOW & {inside.as_posix(), *inside.parts[:1]})


@pytest.fixture(autouse=True)
def _ends(request: pytest.FixtureRequest) -> Iterator[None]:
    """Turn a test that hangs into a failure, on systems with signals."""
    longest = getattr(request.module, "LONGEST", LONGEST)

    def stop(number: int, frame: FrameType | None) -> Never:
        del number, frame
        raise AssertionError(f"the test has not ended after {longest:g} s")

    if not hasattr(signal, "setitimer"):
        yield
        return
    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, longest)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(autouse=True, scope="session")
def _certificates_are_read_once() -> Iterator[None]:
    """Read the certificates once, as each client would take longer for them than most tests.

    No test uses TLS.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ssl, "create_default_context", cache(ssl.create_default_context))
        yield


@pytest.fixture
def no_thread_is_left() -> Iterator[None]:
    """Wait for the end of every thread that a test started."""
    with no_thread_left():
        yield


@pytest.fixture
def clock() -> FakeClock:
    """Return a clock that jumps ahead instead of waiting."""
    return FakeClock()


@pytest.fixture(scope="session")
def running_simulator() -> Iterator[Simulator]:
    """Run one simulator process for all tests of a session."""
    with Simulator(Scenario(latency=0)) as simulator:
        yield simulator


@pytest.fixture(scope="session")
def valkey() -> Iterator[Server]:
    """Run one Valkey server; each test uses an account or keys of its own."""
    with running() as server:
        yield server


@pytest.fixture
def server(running_simulator: Simulator) -> LocalServer:
    """Return the local server with a fresh scenario."""
    local = LocalServer(running_simulator)
    local.configure()
    return local


@pytest.fixture(autouse=True)
def _clients_are_closed() -> Iterator[None]:
    """Close every client of the SDK that a test makes, and with it the connections.

    A client is part of a reference cycle, so it stays until the garbage collector runs, in the
    middle
    of another test. The collector may find a connection before its client, and warns then that the
    connection was not closed.
    """
    made: list[openai.OpenAI] = []
    init = openai.OpenAI.__init__

    @wraps(init)
    def note(client: openai.OpenAI, *args: Any, **options: Any) -> None:
        init(client, *args, **options)
        made.append(client)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(openai.OpenAI, "__init__", note)
        yield
    for client in made:
        client.close()


@pytest.fixture
def openai_embeddings(server: LocalServer) -> Callable[..., OpenAIEmbeddings]:
    """Return a function that makes `OpenAIEmbeddings` for the local server."""

    def make(**options: Any) -> OpenAIEmbeddings:
        return OpenAIEmbeddings(**{"base_url": server.url, "api_key": "sk-test", **options})

    return make


@pytest.fixture
def batch(
    openai_embeddings: Callable[..., OpenAIEmbeddings], clock: FakeClock
) -> Callable[..., BatchEmbeddings]:
    """Return a function that makes `BatchEmbeddings` on the local server with the fake clock.

    Hedging is off, because a clock that jumps ahead makes requests that take real time look late.
    """

    def make(wrapped: Embeddings | None = None, **options: Any) -> BatchEmbeddings:
        made = {"_clock": clock, "hedge": False, **options}
        embeddings = BatchEmbeddings(wrapped or openai_embeddings(), **made)
        clock.watched.append(partial(has_requests_in_flight, embeddings))
        return embeddings

    return make
