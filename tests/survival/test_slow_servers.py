"""A server with little capacity is recognised, and computes hardly anything for nothing."""

import threading
from collections.abc import Callable, Mapping

import numpy as np
import pytest

from langchain_batch_embed import BatchEmbeddings
from langchain_batch_embed.clock import SYSTEM_CLOCK
from tests.support import LocalServer, assert_right, wait_until
from tests.survival.support import DIMENSIONS, embed, finish, kinds, least, refused

Batch = Callable[..., BatchEmbeddings]

TEXTS = [f"section {i}" for i in range(600)]


class TestOneWorker:
    """One worker computes one text after another, even for clients that have gone."""

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
        """A slow worker computes at most 60 % more texts than needed, and no text is lost.

        There is more work than fits into the time-out, which runs in real time.
        """

        def computed() -> float:
            server.configure(
                dimensions=DIMENSIONS,
                workers=1,
                seconds_per_text=seconds_per_text,
                seconds_per_request=0.004,
            )
            failed = embed(batch(timeout=timeout, _clock=SYSTEM_CLOCK), TEXTS[:count])
            assert failed == {}, kinds(failed)
            return float(server.stats()["inputs_computed"])

        assert least(computed, 1.6 * count) <= 1.6 * count

    def test_three_calls_at_once_lose_nothing(self, batch: Batch, server: LocalServer) -> None:
        """Three calls of one object at a slow server lose nothing and waste at most 70 %."""

        def computed() -> float:
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
            return float(server.stats()["inputs_computed"])

        assert least(computed, 1.7 * 600) <= 1.7 * 600

    def test_a_query_gets_through_beside_a_corpus(self, batch: Batch, server: LocalServer) -> None:
        """A query beside a corpus is answered long before the corpus ends."""
        server.configure(dimensions=DIMENSIONS, workers=1, seconds_per_text=0.002)
        embeddings = batch(_clock=SYSTEM_CLOCK)
        texts = [f"section {i}" for i in range(1200)]
        corpus = threading.Thread(target=embeddings.embed_numpy, args=(texts,), daemon=True)
        corpus.start()
        wait_until(lambda: server.stats()["inputs_computed"] >= 60)
        assert_right(np.array([finish(lambda: embeddings.embed_query("q"))]), ["q"])
        computed = server.stats()["inputs_computed"]
        corpus.join(20)
        assert computed < 800


class TestFewAtATime:
    """A proxy before the server lets in few requests at a time."""

    @pytest.mark.parametrize("status", [429, 503])
    def test_requests_that_are_too_many_at_a_time_lose_nothing(
        self, batch: Batch, server: LocalServer, status: int
    ) -> None:
        """A proxy limit of 4 requests, by 429 or 503, loses no text, with at most 35 % refused."""

        def share() -> float:
            server.configure(
                dimensions=DIMENSIONS, latency=0.1, max_in_flight=4, busy_status=status
            )
            embeddings = batch(max_batch_size=20, _clock=SYSTEM_CLOCK)
            failed = embed(embeddings, [f"section {i}" for i in range(2000)])
            assert failed == {}, kinds(failed)
            return refused(server.stats(), status)

        assert least(share, 0.35) <= 0.35

    @pytest.mark.parametrize("workers", [4, 32])
    def test_a_server_with_some_workers_is_not_flooded(
        self, batch: Batch, server: LocalServer, workers: int
    ) -> None:
        """A server with several workers computes at most 20 % more texts than needed.

        Nothing waits in line until its time-out.
        """

        def computed() -> float:
            server.configure(dimensions=DIMENSIONS, workers=workers, seconds_per_text=0.01)
            failed = embed(batch(timeout=1, _clock=SYSTEM_CLOCK), TEXTS)
            assert failed == {}, kinds(failed)
            return float(server.stats()["inputs_computed"])

        assert least(computed, 1.2 * len(TEXTS)) <= 1.2 * len(TEXTS)
