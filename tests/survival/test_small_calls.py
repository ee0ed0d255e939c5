"""Many small calls at once, as an async framework makes them, share few requests."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import numpy as np
import openai
import pytest

from langchain_batch_embed import BatchEmbeddings
from langchain_batch_embed.clock import SYSTEM_CLOCK
from tests.support import FakeClock, LocalServer, assert_right
from tests.survival.support import DIMENSIONS

Batch = Callable[..., BatchEmbeddings]

QUERIES = [f"question {i}" for i in range(1000)]


def gather(calls: list[Coroutine[Any, Any, Any]]) -> list[Any]:
    """Run all calls at once and return what each returned or raised."""

    async def run() -> list[Any]:
        async with asyncio.timeout(30):
            return await asyncio.gather(*calls, return_exceptions=True)

    return asyncio.run(run())


class TestManyAtOnce:
    """A thousand calls of one text each."""

    @pytest.mark.parametrize("latency", [0.0, 0.3])
    def test_queries_at_once_share_requests(
        self, batch: Batch, server: LocalServer, latency: float
    ) -> None:
        """A thousand queries need at most 100 requests and few threads, with the right vectors."""
        server.configure(dimensions=DIMENSIONS, latency=latency)
        embeddings = batch(_clock=SYSTEM_CLOCK)
        before = threading.active_count()
        got = gather([embeddings.aembed_query(query) for query in QUERIES])
        assert_right(np.array(got), QUERIES)
        assert server.stats()["requests"] <= 100
        assert threading.active_count() - before < 300

    def test_documents_of_one_text_share_requests_too(
        self, batch: Batch, server: LocalServer
    ) -> None:
        """A thousand `aembed_documents` calls of one text need at most 100 requests."""
        server.configure(dimensions=DIMENSIONS, latency=0.1)
        embeddings = batch(_clock=SYSTEM_CLOCK)
        got = gather([embeddings.aembed_documents([query]) for query in QUERIES])
        assert_right(np.array([vectors[0] for vectors in got]), QUERIES)
        assert server.stats()["requests"] <= 100

    def test_calls_of_threads_share_requests_too(self, batch: Batch, server: LocalServer) -> None:
        """200 threads that call `embed_query` at once need at most 60 requests."""
        server.configure(dimensions=DIMENSIONS, latency=0.2)
        embeddings = batch(_clock=SYSTEM_CLOCK)
        got: dict[str, list[float]] = {}

        def call(query: str) -> None:
            got[query] = embeddings.embed_query(query)

        queries = QUERIES[:200]
        threads = [threading.Thread(target=call, args=(q,), daemon=True) for q in queries]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert_right(np.array([got[query] for query in queries]), queries)
        assert server.stats()["requests"] <= 60

    def test_a_query_by_itself_waits_for_nobody(
        self, batch: Batch, server: LocalServer, clock: FakeClock
    ) -> None:
        """Ten queries one after another take ten round trips without any pause."""
        server.configure(dimensions=DIMENSIONS)
        clock.patience = 5.0  # an answer takes less, so only a pause makes this clock jump
        embeddings = batch()
        for query in QUERIES[:10]:
            embeddings.embed_query(query)
        assert clock.waits == []
        assert server.stats()["requests"] == 10


class TestWhatOthersSend:
    """Calls share requests, but not their failures."""

    def test_a_refused_text_fails_its_own_caller_alone(
        self, batch: Batch, server: LocalServer
    ) -> None:
        """One refused query of 300 fails alone, and the other 299 get their vectors."""
        server.configure(dimensions=DIMENSIONS, latency=0.1, refuse_marker="BAD")
        embeddings = batch(_clock=SYSTEM_CLOCK)
        queries = [*QUERIES[:150], "BAD", *QUERIES[150:299]]
        got = gather([embeddings.aembed_query(query) for query in queries])
        failed = {i: g for i, g in enumerate(got) if isinstance(g, BaseException)}
        assert list(failed) == [150]
        assert isinstance(failed[150], openai.BadRequestError)
        good = [i for i in range(300) if i != 150]
        assert_right(np.array([got[i] for i in good]), [queries[i] for i in good])

    def test_an_error_of_the_server_is_tried_again_for_all(
        self, batch: Batch, server: LocalServer
    ) -> None:
        """Random server errors in shared requests are retried, and every query gets its vector."""
        server.configure(dimensions=DIMENSIONS, latency=0.1, faults={"500": 0.1, "reset": 0.05})
        got = gather([batch(_clock=SYSTEM_CLOCK).aembed_query(query) for query in QUERIES[:5]])
        assert_right(np.array(got), QUERIES[:5])
        embeddings = batch(_clock=SYSTEM_CLOCK)
        got = gather([embeddings.aembed_query(query) for query in QUERIES[:300]])
        assert_right(np.array(got), QUERIES[:300])

    def test_cancelled_calls_take_nobody_with_them(self, batch: Batch, server: LocalServer) -> None:
        """If half of the callers cancel at once, the others still get their vectors."""
        server.configure(dimensions=DIMENSIONS, latency=0.3)
        embeddings = batch(_clock=SYSTEM_CLOCK)

        async def run() -> list[list[float]]:
            tasks = [asyncio.create_task(embeddings.aembed_query(q)) for q in QUERIES[:100]]
            await asyncio.sleep(0.01)
            for task in tasks[::2]:
                task.cancel()
            async with asyncio.timeout(20):
                await asyncio.gather(*tasks[::2], return_exceptions=True)
                return await asyncio.gather(*tasks[1::2])

        assert_right(np.array(asyncio.run(run())), QUERIES[1:100:2])
