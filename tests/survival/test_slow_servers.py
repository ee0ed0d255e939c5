"""A server that can do little at a time is found out, and not made to compute in vain."""

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from langchain_batch_embed import BatchEmbeddings
from langchain_batch_embed.clock import SYSTEM_CLOCK
from tests.support import LocalServer, assert_right
from tests.survival.support import DIMENSIONS, embed, finish, kinds, refused

Batch = Callable[..., BatchEmbeddings]

TEXTS = [f"section {i}" for i in range(600)]


class TestOneWorker:
    """One worker computes one text after another, also for clients who have gone."""

    @pytest.mark.parametrize(
        ("count", "seconds_per_text", "timeout"),
        [(600, 0.002, 0.25), (80, 0.015, 0.25)],
    )
    def test_it_computes_little_in_vain(
        self,
        batch: Batch,
        server: LocalServer,
        count: int,
        seconds_per_text: float,
        timeout: float,
    ) -> None:
        """More work than fits in the time-out: nothing is lost, little is computed twice."""
        server.configure(
            dimensions=DIMENSIONS,
            workers=1,
            seconds_per_text=seconds_per_text,
            seconds_per_request=0.004,
        )
        begun = time.monotonic()
        failed = embed(batch(timeout=timeout, _clock=SYSTEM_CLOCK), TEXTS[:count])
        took = time.monotonic() - begun
        assert failed == {}, kinds(failed)
        assert server.stats()["inputs_computed"] <= 1.3 * count
        assert took < 2 * seconds_per_text * count + 1

    def test_three_calls_at_once_lose_nothing(self, batch: Batch, server: LocalServer) -> None:
        """The server is slow for all calls of an object together."""
        server.configure(
            dimensions=DIMENSIONS, workers=1, seconds_per_text=0.002, seconds_per_request=0.004
        )
        embeddings = batch(timeout=0.25, _clock=SYSTEM_CLOCK)
        failures: list[Mapping[int, BaseException]] = []

        def call(begin: int) -> None:
            failures.append(embed(embeddings, TEXTS[begin : begin + 200]))

        threads = [threading.Thread(target=call, args=(i,), daemon=True) for i in (0, 200, 400)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert failures == [{}, {}, {}]
        assert server.stats()["inputs_computed"] <= 1.4 * 600

    def test_a_query_gets_through_beside_a_corpus(self, batch: Batch, server: LocalServer) -> None:
        """It waits for one request of the corpus or two, not for its end."""
        server.configure(dimensions=DIMENSIONS, workers=1, seconds_per_text=0.002)
        embeddings = batch(_clock=SYSTEM_CLOCK)
        corpus = threading.Thread(target=embeddings.embed_numpy, args=(TEXTS,), daemon=True)
        corpus.start()
        while server.stats()["inputs_computed"] < 60:
            time.sleep(0.01)
        begun = time.monotonic()
        assert_right(np.array([finish(lambda: embeddings.embed_query("q"))]), ["q"])
        took = time.monotonic() - begun
        corpus.join(20)
        assert took < 0.6


class TestFewAtATime:
    """A proxy before the server lets few requests in at a time."""

    @pytest.mark.parametrize("status", [429, 503])
    def test_requests_that_are_too_many_at_a_time_lose_nothing(
        self, batch: Batch, server: LocalServer, status: int
    ) -> None:
        """A limit_conn of 4 (nginx), told as 429 or as 503, over 100 requests."""
        server.configure(dimensions=DIMENSIONS, latency=0.1, max_in_flight=4, busy_status=status)
        embeddings = batch(max_batch_size=20, _clock=SYSTEM_CLOCK)
        failed = embed(embeddings, [f"section {i}" for i in range(2000)])
        assert failed == {}, kinds(failed)
        assert refused(server.stats(), status) < 0.35

    @pytest.mark.parametrize("workers", [4, 32])
    def test_a_server_with_some_workers_is_not_flooded(
        self, batch: Batch, server: LocalServer, workers: int
    ) -> None:
        """They are all used, and nothing waits in line until its time-out."""
        options: dict[str, Any] = {"workers": workers, "seconds_per_text": 0.01}
        server.configure(dimensions=DIMENSIONS, **options)
        begun = time.monotonic()
        failed = embed(batch(timeout=1, _clock=SYSTEM_CLOCK), TEXTS)
        took = time.monotonic() - begun
        assert failed == {}, kinds(failed)
        assert server.stats()["inputs_computed"] <= 1.2 * len(TEXTS)
        assert took < 2 * 600 * 0.01 / workers + 1
