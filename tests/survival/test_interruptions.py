"""Ctrl-C, or a thread that cannot be started, leaves an object as usable as before."""

import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
from langchain_openai import OpenAIEmbeddings

from langchain_batch_embed import BatchEmbeddings
from langchain_batch_embed.clock import SYSTEM_CLOCK
from tests.support import LocalServer, assert_right
from tests.survival.support import DIMENSIONS, embed

Batch = Callable[..., BatchEmbeddings]

TEXTS = [f"section {i}" for i in range(1000)]


def interrupt_later(server: LocalServer, requests: int) -> threading.Thread:
    """Send a SIGINT to the main thread once the server has received this many requests."""
    main = threading.main_thread().ident
    assert main is not None

    def interrupt() -> None:
        end = time.monotonic() + 10
        while server.stats()["requests"] < requests and time.monotonic() < end:
            time.sleep(0.005)
        signal.pthread_kill(main, signal.SIGINT)

    thread = threading.Thread(target=interrupt, daemon=True)
    thread.start()
    return thread


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="needs POSIX signals")
class TestCtrlC:
    """A `KeyboardInterrupt` while the caller waits ends the call and nothing else."""

    @pytest.mark.parametrize("workers", [1, 4, 128])
    def test_an_object_is_usable_after_it(
        self, batch: Batch, server: LocalServer, workers: int
    ) -> None:
        """After five interruptions at different moments, an object still embeds everything."""
        embeddings = batch(max_workers=workers, max_batch_size=20, _clock=SYSTEM_CLOCK)
        for requests in (1, 3, 7, 12, 20):
            server.configure(dimensions=DIMENSIONS, seconds_per_text=0.003, workers=4)
            thread = interrupt_later(server, requests)
            with pytest.raises(KeyboardInterrupt):
                embeddings.embed_numpy([f"{requests} {text}" for text in TEXTS])
            thread.join()
        server.configure(dimensions=DIMENSIONS)
        assert embed(embeddings, TEXTS) == {}

    def test_it_does_not_wait_for_a_server_that_hangs(
        self, batch: Batch, server: LocalServer
    ) -> None:
        """Ctrl-C ends a call at once, even if all places are taken by requests that hang."""
        server.configure(dimensions=DIMENSIONS, faults={"hang": 1.0}, hang_seconds=15)
        embeddings = batch(max_workers=2, timeout=30, _clock=SYSTEM_CLOCK)
        thread = interrupt_later(server, 1)
        with pytest.raises(KeyboardInterrupt):
            embeddings.embed_numpy(TEXTS)
        thread.join()
        assert server.stats()["in_flight"] > 0  # they still hang
        server.configure(dimensions=DIMENSIONS)
        assert embed(batch(), TEXTS) == {}

    def test_what_had_arrived_is_not_paid_twice(self, batch: Batch, server: LocalServer) -> None:
        """After Ctrl-C the next call of the same object requests only the missing texts."""
        server.configure(dimensions=DIMENSIONS, seconds_per_text=0.001, workers=1)
        embeddings = batch(max_workers=4, max_batch_size=20, _clock=SYSTEM_CLOCK)
        thread = interrupt_later(server, 15)
        with pytest.raises(KeyboardInterrupt):
            embeddings.embed_numpy(TEXTS)
        thread.join()
        assert embed(embeddings, TEXTS) == {}
        assert server.stats()["inputs_billed"] <= len(TEXTS) + 4 * 20


class TestNoThread:
    """The system refuses a thread, at its limit or for lack of memory."""

    @pytest.mark.parametrize("workers", [1, 4])
    @pytest.mark.parametrize("at", [0, 1, 5])
    def test_a_request_that_could_not_be_submitted_is_submitted_again(
        self,
        batch: Batch,
        server: LocalServer,
        monkeypatch: pytest.MonkeyPatch,
        workers: int,
        at: int,
    ) -> None:
        """If `submit` raises "can't start new thread" once, no text and no place is lost."""
        server.configure(dimensions=DIMENSIONS)
        submit, calls = ThreadPoolExecutor.submit, [0]

        def fail_once(self: ThreadPoolExecutor, *args: Any, **options: Any) -> "Future[Any]":
            calls[0] += 1
            if calls[0] == at + 1:
                raise RuntimeError("can't start new thread")
            return submit(self, *args, **options)

        monkeypatch.setattr(ThreadPoolExecutor, "submit", fail_once)
        embeddings = batch(max_workers=workers, max_batch_size=50)
        assert embed(embeddings, TEXTS, seconds=10) == {}
        assert calls[0] > at
        assert embed(embeddings, [f"later {text}" for text in TEXTS], seconds=10) == {}

    @pytest.mark.parametrize("workers", [1, 4])
    def test_a_thread_that_could_not_be_started_is_started_later(
        self,
        batch: Batch,
        server: LocalServer,
        monkeypatch: pytest.MonkeyPatch,
        workers: int,
    ) -> None:
        """If a worker thread does not start once, no text is lost.

        The executor has queued the request already, so it is sent by another thread or again.
        """
        server.configure(dimensions=DIMENSIONS)
        failures = _fail_to_start(monkeypatch, "batch-embed_", times=1)
        embeddings = batch(max_workers=workers, max_batch_size=50)
        assert embed(embeddings, TEXTS, seconds=10) == {}
        assert failures[0] == 1
        assert embed(embeddings, [f"later {text}" for text in TEXTS], seconds=10) == {}

    def test_a_system_without_threads_ends_the_call_with_its_error(
        self,
        openai_embeddings: Callable[..., OpenAIEmbeddings],
        batch: Batch,
        server: LocalServer,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """If no thread can be started the call fails with that reason, and a later call works."""
        server.configure(dimensions=DIMENSIONS)
        embeddings = batch(openai_embeddings())
        with monkeypatch.context() as patched:
            _fail_to_start(patched, "batch-embed", times=10**9)
            with pytest.raises(Exception) as caught:  # noqa: PT011  # ours, or Python's own
                embeddings.embed_numpy(TEXTS)
            told = [str(caught.value), str(caught.value.__cause__)]
            told += [str(f.error) for f in getattr(caught.value, "failures", ())[:1]]
            assert any("thread" in text for text in told)
        assert_right(embeddings.embed_numpy(TEXTS), TEXTS)


def _fail_to_start(patch: pytest.MonkeyPatch, prefix: str, *, times: int) -> list[int]:
    """Make threads of this name fail to start a number of times; return a list with the count."""
    start, failures = threading.Thread.start, [0]

    def fail(self: threading.Thread) -> None:
        if self.name.startswith(prefix) and failures[0] < times:
            failures[0] += 1
            raise RuntimeError("can't start new thread")
        start(self)

    patch.setattr(threading.Thread, "start", fail)
    return failures
