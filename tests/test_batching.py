"""What is sent: batches by tokens, in parallel, with one right vector for each text."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from statistics import median

import numpy as np
import pytest
from langchain_core.embeddings import Embeddings
from langchain_openai import OpenAIEmbeddings
from pytest_mock import MockerFixture

from langchain_batch_embed import BatchEmbeddings, InputError
from langchain_batch_embed.calls.results import Results
from langchain_batch_embed.commands.offline import use_offline_tiktoken
from langchain_batch_embed.pacing.hedging import Hedges
from langchain_batch_embed.report import Tally
from langchain_batch_embed.sending import dispatcher
from tests.support import LocalServer, assert_right, prose, treat_as_known
from tests.survival.support import Asked, Endpoint

Batch = Callable[..., BatchEmbeddings]


class TestTokenAwareBatching:
    """No request exceeds a limit, whatever the texts are."""

    def test_accepts_2048_texts_in_one_request(self, batch: Batch, server: LocalServer) -> None:
        """One worker sends 2,048 short texts in a single request."""
        embeddings = batch(max_batch_size=2048, max_workers=1)
        embeddings.embed_numpy([f"section {i}" for i in range(2048)])
        stats = server.stats()
        assert (stats["requests"], stats["max_inputs_seen"]) == (1, 2048)

    def test_no_request_is_over_the_plans_budget_of_8191(
        self, batch: Batch, server: LocalServer
    ) -> None:
        """With `max_tokens_per_request=8191` no request holds more than 8,191 tokens."""
        embeddings = batch(max_tokens_per_request=8191, max_workers=1)
        texts = [prose(int(n), i) for i, n in enumerate(np.linspace(10, 4000, 60))]
        assert_right(embeddings.embed_numpy(texts), texts)
        stats = server.stats()
        assert 4000 < stats["max_tokens_seen"] <= 8191
        assert stats["by_status"] == {"200": stats["requests"]}

    def test_no_request_is_over_300000_tokens(self, batch: Batch, server: LocalServer) -> None:
        """Texts of 1.2 million tokens are sent in requests below OpenAI's limit."""
        embeddings = batch(max_workers=1)
        texts = [prose(8000, i) for i in range(150)]
        assert_right(embeddings.embed_numpy(texts), texts)
        stats = server.stats()
        assert 200_000 <= stats["max_tokens_seen"] <= 300_000
        assert stats["by_status"] == {"200": stats["requests"]}

    def test_counts_bytes_as_the_limiter_does(self, batch: Batch, server: LocalServer) -> None:
        """A server that counts four bytes as a token refuses nothing."""
        server.configure(request_tokens_by="bytes", max_tokens_per_request=300_000)
        embeddings = batch(max_workers=1)
        texts = [f"{i} " + "internationalization " * 2000 for i in range(40)]  # 21 bytes, 3 tokens
        embeddings.embed_numpy(texts)
        stats = embeddings.last_report
        assert stats is not None
        assert (stats.splits, stats.retries) == (0, 0)

    def test_no_text_is_over_8191_tokens(self, batch: Batch, server: LocalServer) -> None:
        """An over-long text is sent as windows, none of which the server refuses."""
        server.configure(max_tokens_per_input=8191)
        embeddings = batch()
        embeddings.embed_numpy([prose(8192, 1), prose(20_000, 2), "short"])
        stats = server.stats()
        assert stats["by_status"] == {"200": stats["requests"]}
        assert stats["inputs_billed"] == 2 + 3 + 1

    def test_over_long_texts_get_the_vector_that_openai_embeddings_gives(
        self, batch: Batch, openai_embeddings: Callable[..., OpenAIEmbeddings]
    ) -> None:
        """An over-long text gets the vector of `OpenAIEmbeddings`, within 1e-4.

        Windows, weights and norm are the same.
        """
        use_offline_tiktoken()
        texts = [prose(20_000, 1), "short", prose(9000, 2)]
        expected = openai_embeddings().embed_documents(texts)
        np.testing.assert_allclose(batch().embed_documents(texts), expected, atol=1e-4)

    def test_truncates_over_long_texts_if_told(self, batch: Batch) -> None:
        """`long_inputs="truncate"` gives the vector of the first 8,191 tokens."""
        text = "word " * 10_000
        got = batch(long_inputs="truncate").embed_numpy([text])
        assert_right(got, [("word " * 8191).rstrip()])

    def test_refuses_over_long_texts_if_told(self, batch: Batch, server: LocalServer) -> None:
        """`long_inputs="error"` raises an error that names the texts before anything is sent."""
        embeddings = batch(long_inputs="error")
        with pytest.raises(InputError, match="index 1"):
            embeddings.embed_documents(["short", prose(9000)])
        assert server.stats()["requests"] == 0

    def test_sends_identical_texts_once(self, batch: Batch, server: LocalServer) -> None:
        """A text that occurs a hundred times is paid for once, and each place gets its own list."""
        embeddings = batch()
        texts = ["same", "other", *["same"] * 99]
        lists = embeddings.embed_documents(texts)
        assert_right(np.array(lists, dtype=np.float32), texts)
        assert server.stats()["inputs_billed"] == 2
        assert len({id(vector) for vector in lists}) == len(texts)

    def test_empty_texts_are_named_before_anything_is_sent(
        self, batch: Batch, server: LocalServer
    ) -> None:
        """Empty texts raise an error that names them before anything is sent.

        OpenAI would refuse a whole request for one empty text.
        """
        embeddings = batch()
        with pytest.raises(InputError, match="empty") as caught:
            embeddings.embed_documents(["a", "", "b", ""])
        assert caught.value.indices == (1, 3)
        assert server.stats()["requests"] == 0

    def test_lone_surrogates_are_sent_as_openai_embeddings_sends_them(self, batch: Batch) -> None:
        """A lone surrogate, as PDF readers produce it, is sent as U+FFFD."""
        assert_right(batch().embed_numpy(["broken \ud83d text"]), ["broken \ufffd text"])

    def test_nothing_gives_nothing(self, batch: Batch, server: LocalServer) -> None:
        """An empty list gives an empty list and makes no request."""
        embeddings = batch()
        assert embeddings.embed_documents([]) == []
        assert server.stats()["requests"] == 0

    def test_the_smallest_batches_find_out_about_the_quota(self, batch: Batch) -> None:
        """The first requests are the smallest, so that they stay within a small account's quota.

        They are sent before an answer has announced the quota.
        """
        embeddings = treat_as_known(batch())
        pipeline = embeddings._pipeline
        inputs = pipeline.prepare([prose(100 + i % 50, i) for i in range(20_000)])
        work = pipeline.fetcher.work(inputs, Results(inputs), keep=lambda rows, answer: None)  # noqa: ARG005

        def cut() -> list[int]:
            queue, works = pipeline.dispatcher.sender.queue(work, Tally(), Hedges()), []
            while (batch := queue.peek(queue.deployments[0], 0)) is not None:
                queue.take(batch, queue.deployments[0], 0)
                works.append(batch.work)
            return works

        count = embeddings.limits.first_requests
        first, others = (works := cut())[:count], works[count:]
        most = 1_000_000 / len(first)  # an account of tier 1 accepts a million tokens at once
        assert max(first) <= most
        assert max(first) < median(others)

        pipeline.dispatcher.sender.deployments[0].pacer.concurrency.open()
        assert (opened := cut())[0] == max(opened)


class TestParallelBatchProcessing:
    """Requests run in parallel, and the results keep the caller's order."""

    def test_keeps_all_workers_busy(
        self, batch: Batch, openai_embeddings: Callable[..., OpenAIEmbeddings]
    ) -> None:
        """Five workers have five requests in flight before the first answer arrives."""
        all_are_there = threading.Barrier(5)

        def decide(asked: Asked) -> None:
            if asked.number < all_are_there.parties:
                all_are_there.wait(30)

        texts = [f"section {i}" for i in range(5000)]
        with Endpoint(decide) as endpoint:
            wrapped = openai_embeddings(base_url=endpoint.url)
            embeddings = treat_as_known(batch(wrapped, max_batch_size=2048, max_workers=5))
            assert_right(embeddings.embed_numpy(texts), texts)
        assert len(endpoint.asked) <= 8
        assert not all_are_there.broken

    def test_no_more_than_all_workers_are_busy(self, batch: Batch, server: LocalServer) -> None:
        """Five workers never have more than five requests in flight, as the server counts."""
        server.configure(latency=0.1)
        embeddings = treat_as_known(batch(max_batch_size=20, max_workers=5))
        texts = [f"section {i}" for i in range(500)]
        assert_right(embeddings.embed_numpy(texts), texts)
        assert server.stats()["max_in_flight"] <= 5

    def test_one_worker_sends_one_after_another(self, batch: Batch, server: LocalServer) -> None:
        """`max_workers=1` never has two requests in flight."""
        server.configure(latency=0.05)
        embeddings = batch(max_workers=1, max_batch_size=100)
        embeddings.embed_numpy([f"section {i}" for i in range(1000)])
        stats = server.stats()
        assert (stats["requests"], stats["max_in_flight"]) == (10, 1)

    def test_order_is_the_callers_although_answers_overtake(
        self, batch: Batch, server: LocalServer
    ) -> None:
        """Results keep the caller's order, even if answers and their items arrive shuffled."""
        server.configure(latency=0.05, faults={"shuffled": 0.5})
        embeddings = batch(max_batch_size=50)
        texts = [f"section {i}" for i in range(2000)]
        assert_right(embeddings.embed_numpy(texts), texts)

    def test_uses_a_thread_pool_executor_of_max_workers(
        self, batch: Batch, mocker: MockerFixture
    ) -> None:
        """The requests run on a `ThreadPoolExecutor` of `max_workers` threads plus a spare one."""
        pool = mocker.patch.object(dispatcher, "ThreadPoolExecutor", wraps=ThreadPoolExecutor)
        batch(max_workers=7).embed_numpy(["a"])
        assert pool.call_args.args[0] == 7 + dispatcher.SPARE_WORKERS

    def test_calls_of_one_instance_share_the_workers(
        self, batch: Batch, server: LocalServer
    ) -> None:
        """Three simultaneous calls of one instance keep its limit on requests in flight."""
        server.configure(latency=0.1)
        embeddings = batch(max_workers=4, max_batch_size=20)
        lots = [[f"call {c} text {i}" for i in range(200)] for c in range(3)]
        with ThreadPoolExecutor(3) as callers:
            for texts, got in zip(lots, callers.map(embeddings.embed_numpy, lots), strict=True):
                assert_right(got, texts)
        stats = server.stats()
        assert stats["requests"] == 30
        assert stats["max_in_flight"] <= 4

    def test_few_requests_when_requests_are_scarce(self, batch: Batch, server: LocalServer) -> None:
        """With a low `requests_per_minute` as few requests as possible are made."""
        embeddings = batch(requests_per_minute=60, max_workers=32)
        embeddings.embed_numpy([prose(200, i) for i in range(3000)])
        assert server.stats()["requests"] == 3

    def test_any_embeddings_can_be_wrapped(self) -> None:
        """A class that is not OpenAI's receives batches through its `embed_documents`."""
        inner = Recording()
        got = BatchEmbeddings(inner, max_batch_size=10).embed_documents([str(i) for i in range(25)])
        assert got == [[float(i), 1.0] for i in range(25)]
        assert max(map(len, inner.calls)) <= 10
        assert inner.queries == []

    def test_a_query_goes_to_the_wrapped_embed_query(self) -> None:
        """A query goes to the `embed_query` of the wrapped class, not to `embed_documents`."""
        inner = Recording()
        assert BatchEmbeddings(inner).embed_query("7") == [7.0, -1.0]

    def test_async_methods_give_the_same_vectors(self, batch: Batch) -> None:
        """`aembed_documents` and `aembed_query` return the same vectors as their sync forms."""
        embeddings = batch()

        async def both() -> list[list[float]]:
            documents = embeddings.aembed_documents(["a", "b"])
            query = embeddings.aembed_query("c")
            return [*(await documents), await query]

        assert_right(asyncio.run(both()), ["a", "b", "c"])


class Recording(Embeddings):
    """Embeddings that record how they are called."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []
        self.queries: list[str] = []

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Return a vector of each number and 1."""
        self.calls.append(texts)
        return [[float(text), 1.0] for text in texts]

    def embed_query(self, text: str) -> list[float]:
        """Return a vector of the number and -1."""
        self.queries.append(text)
        return [float(text), -1.0]
