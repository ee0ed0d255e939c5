"""A prefetch holds a bounded number of vectors, and frees or keeps them at its end."""

import itertools
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from langchain_openai import OpenAIEmbeddings

from langchain_batch_embed import BatchEmbeddings
from langchain_batch_embed.calls.prefetch import Prefetch
from langchain_batch_embed.clock import SYSTEM_CLOCK
from tests.calls.prefetches import TEXTS, slices, started, threads
from tests.support import LocalServer, assert_right, wait_until
from tests.survival.support import holding

Batch = Callable[..., BatchEmbeddings]

Wrapped = Callable[..., OpenAIEmbeddings]

pytestmark = pytest.mark.usefixtures("no_thread_is_left")


class TestBounds:
    """A prefetch holds few vectors, which end with the block."""

    def test_no_more_than_max_buffered_is_sent_ahead(
        self, batch: Batch, server: LocalServer
    ) -> None:
        """Without questions a prefetch stops at a full buffer, and continues when there is room."""
        embeddings = batch(max_workers=2)
        with started(embeddings.prefetch(TEXTS, max_buffered=100)):
            wait_until(lambda: server.stats()["inputs_billed"] == 100)
            wait_until(lambda: server.stats()["in_flight"] == 0)
            embeddings.embed_documents(TEXTS[:60])  # makes room for two runs
            wait_until(lambda: server.stats()["inputs_billed"] == 150)
            wait_until(lambda: server.stats()["in_flight"] == 0)
        assert server.stats()["inputs_billed"] == 150

    @pytest.mark.parametrize("max_buffered", [1, 2, 10, 33, 5000])
    def test_a_loop_over_all_texts_leaves_nothing(self, max_buffered: int) -> None:
        """Every vector is handed out exactly once, whatever the size of the buffer."""
        runs: list[int] = []

        def embed(prefetch: Prefetch, texts: Sequence[str], cancelled: threading.Event) -> None:
            del cancelled
            runs.append(len(texts))
            for text in texts:
                prefetch.add([text], np.full((1, 2), float(text), dtype=np.float32))

        prefetch = Prefetch(embed, max_buffered=max_buffered, on_close=lambda _: None)
        with prefetch:
            prefetch.announce([str(i) for i in range(500)])
            for portion in slices([str(i) for i in range(500)], 20):
                for names, vectors in prefetch.receive(portion):
                    assert vectors[:, 0].tolist() == [float(name) for name in names]
            wait_until(lambda: prefetch.runs == 0)
            assert (prefetch.ready, prefetch.running) == (0, 0)
        assert max(runs) <= max(1, max_buffered // 4)

    def test_a_run_that_ends_leaves_another_ones_texts_alone(self) -> None:
        """A run that ends does not affect a text that another run embeds again.

        The text was handed out and then announced a second time.
        """
        numbers, started = itertools.count(), threading.Event()
        first, second = threading.Event(), threading.Event()

        def embed(prefetch: Prefetch, texts: Sequence[str], cancelled: threading.Event) -> None:
            del cancelled
            if next(numbers):
                started.set()
                assert second.wait(60)
                prefetch.add(texts, np.full((len(texts), 2), 2, dtype=np.float32))
            else:
                prefetch.add(["twice"], np.ones((1, 2), dtype=np.float32))
                assert first.wait(60)

        prefetch = Prefetch(embed, max_buffered=100, on_close=lambda _: None)
        with prefetch:
            prefetch.announce(["twice", "other"])
            assert [texts for texts, _ in prefetch.receive(["twice"])] == [["twice"]]
            prefetch.announce(["twice"])
            assert started.wait(60)
            first.set()
            wait_until(lambda: prefetch.runs == 1)
            with ThreadPoolExecutor(1) as caller:
                received = caller.submit(list, prefetch.receive(["twice"]))
                second.set()
                ((_, vectors),) = received.result(60)
            assert vectors.tolist() == [[2, 2]]

    def test_a_vector_that_nobody_expects_any_more_is_not_kept(self) -> None:
        """A vector is not kept if its text was released while it was being embedded."""
        go_on = threading.Event()

        def embed(prefetch: Prefetch, texts: Sequence[str], cancelled: threading.Event) -> None:
            del cancelled
            assert go_on.wait(60)
            prefetch.add(texts, np.ones((len(texts), 2), dtype=np.float32))

        prefetch = Prefetch(embed, max_buffered=8, until_released=True, on_close=lambda _: None)
        with prefetch:
            prefetch.announce(["a", "b"])
            prefetch.release(["a"])
            go_on.set()
            assert prefetch.wait_for_all(["a", "b"]) == ["a"]

    def test_what_is_settled_is_told_without_waiting_for_the_rest(self) -> None:
        """`wait_for_some` counts settled texts up to the first unsettled one.

        It returns once there are enough, and does not wait for the rest.
        """
        go_on = threading.Event()

        def embed(prefetch: Prefetch, texts: Sequence[str], cancelled: threading.Event) -> None:
            del cancelled
            for text in texts:
                if text == "late":
                    assert go_on.wait(60)
                elif text != "bad":
                    prefetch.add([text], np.zeros((1, 2), dtype=np.float32))

        texts = ["a", "b", "bad", "c", "late", "d"]
        prefetch = Prefetch(embed, max_buffered=4, on_close=lambda _: None)  # runs of one
        with started(prefetch):
            prefetch.announce(texts)
            assert prefetch.wait_for_some(texts[:4], least=10) == 4
            assert prefetch.wait_for_some(texts, least=3) == 4
            assert prefetch.wait_for_some(["a", "d"], least=1) == 1  # "d" has no room yet
            go_on.set()
            assert prefetch.wait_for_some(texts[:5], least=10) == 5

    def test_a_slow_caller_does_not_make_small_requests(
        self, batch: Batch, server: LocalServer
    ) -> None:
        """If a caller asks for a few texts at a time, runs wait until there is enough room."""
        embeddings = batch(max_workers=1)
        with embeddings.prefetch(TEXTS, max_buffered=400):
            for portion in slices(TEXTS, 5):
                wait_until(lambda: server.stats()["in_flight"] == 0)
                assert_right(embeddings.embed_documents(portion), portion)
        assert server.stats()["requests"] <= 1000 / 100 + 1
        assert server.stats()["inputs_billed"] == 1000

    def test_closing_early_stops_requests_and_threads(
        self, batch: Batch, server: LocalServer
    ) -> None:
        """Leaving the block early sends nothing more and keeps nothing."""
        server.configure(latency=0.2)
        embeddings = batch(max_workers=2, max_batch_size=10)
        with embeddings.prefetch(TEXTS):
            assert_right(embeddings.embed_documents(TEXTS[:15]), TEXTS[:15])
        wait_until(lambda: server.stats()["in_flight"] == 0 and not threads("prefetch"))
        paid = server.stats()["inputs_billed"]
        assert paid < 500
        assert embeddings._pipeline.recovery.memory.stats().vectors == 0
        assert embeddings._pipeline.prefetches.opened == ()
        assert_right(embeddings.embed_documents(["after"]), ["after"])
        assert server.stats()["inputs_billed"] == paid + 1

    def test_an_exception_in_the_block_gets_out(self, batch: Batch, server: LocalServer) -> None:
        """An exception in the block ends the prefetch and is raised unchanged."""
        server.configure(latency=0.2)
        embeddings = batch(max_workers=2, max_batch_size=10)
        error = ZeroDivisionError()

        def use() -> None:
            with started(embeddings.prefetch(TEXTS)):
                wait_until(lambda: server.stats()["inputs_billed"] >= 20)
                raise error

        with pytest.raises(ZeroDivisionError) as caught:
            use()
        wait_until(lambda: server.stats()["in_flight"] == 0 and not threads("prefetch"))
        assert caught.value is error
        assert server.stats()["inputs_billed"] < 500

    def test_what_is_paid_for_outlives_an_exception(
        self, batch: Batch, server: LocalServer
    ) -> None:
        """After an exception, vectors that have arrived or are on their way stay in memory."""
        server.configure(latency=0.2)
        embeddings = batch(max_workers=2, max_batch_size=10)

        def use() -> None:
            with started(embeddings.prefetch(TEXTS[:200])) as prefetch:
                assert_right(embeddings.embed_documents(TEXTS[:10]), TEXTS[:10])
                wait_until(lambda: prefetch.ready >= 20)
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            use()
        wait_until(lambda: server.stats()["in_flight"] == 0 and not threads("prefetch"))
        paid = server.stats()["inputs_billed"]
        wait_until(lambda: embeddings._pipeline.recovery.memory.stats().vectors == paid - 10)
        assert_right(embeddings.embed_numpy(TEXTS[10:200]), TEXTS[10:200])
        assert server.stats()["inputs_billed"] == 200

    def test_closing_lets_go_of_those_who_wait(
        self, batch: Batch, openai_embeddings: Wrapped
    ) -> None:
        """When the block ends, a call that waits in another thread embeds its texts itself."""
        with holding() as (endpoint, _), ThreadPoolExecutor(1) as thread:
            embeddings = batch(openai_embeddings(base_url=endpoint.url), _clock=SYSTEM_CLOCK)
            with started(embeddings.prefetch(["a"])):
                wait_until(lambda: len(endpoint.asked) == 1)
                answer = thread.submit(embeddings.embed_documents, ["a"])
            assert_right(answer.result(60), ["a"])
        assert len(endpoint.asked) == 2

    def test_the_journal_keeps_what_is_prefetched(
        self, batch: Batch, server: LocalServer, tmp_path: Path
    ) -> None:
        """The journal keeps prefetched vectors for which nobody asked.

        So they are paid for once.
        """
        embeddings = batch(journal=tmp_path / "j")
        with started(embeddings.prefetch(TEXTS)):
            embeddings.embed_documents(TEXTS[:10])
            wait_until(lambda: embeddings.journal.stats().vectors == 1000)
        again = batch(journal=tmp_path / "j")
        with again.prefetch([*TEXTS, "new"]):
            for portion in slices([*TEXTS, "new"], 90):
                assert_right(again.embed_documents(portion), portion)
        assert server.stats()["inputs_billed"] == 1001
