"""The query cache, the usage callback and the spending limit of a call."""

import asyncio
import logging
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.vectorstores import InMemoryVectorStore
from langchain_openai import OpenAIEmbeddings

from langchain_batch_embed import (
    BatchEmbeddings,
    BudgetError,
    IngestError,
    OptionError,
    PartialEmbeddingsError,
    Usage,
)
from langchain_batch_embed.calls.queries import QueryCache
from tests.sending.calls import FakeServer, Rehearsal, done, lost, make_sender, make_work
from tests.support import LocalServer, assert_right, prose, treat_as_known, wait_until

Batch = Callable[..., BatchEmbeddings]
OpenAI = Callable[..., OpenAIEmbeddings]

SMALL = "text-embedding-3-small"
PRICE = 0.02 / 1_000_000
"""Dollars for one token of the small model."""


@pytest.fixture
def small(batch: Batch, openai_embeddings: OpenAI) -> Batch:
    """Return a maker of `BatchEmbeddings` for the small model, with several requests a call."""
    return lambda **options: batch(
        openai_embeddings(model=SMALL), **{"max_tokens_per_request": 2_000, **options}
    )


class TestQueries:
    """The option `query_cache_size` keeps vectors of queries."""

    def test_a_query_that_is_kept_is_not_sent_again(
        self, batch: Batch, server: LocalServer
    ) -> None:
        """A kept query is not sent again, and each caller gets its own list.

        Sync and async calls share the kept queries.
        """
        embeddings = batch(query_cache_size=2)
        first = embeddings.embed_query("why?")
        again = embeddings.embed_query("why?")
        later = asyncio.run(embeddings.aembed_query("why?"))
        assert server.stats()["requests"] == 1
        assert first == again == later
        assert len({id(first), id(again), id(later)}) == 3
        assert_right(np.array([again]), ["why?"])

    def test_those_asked_last_are_kept(self, batch: Batch, server: LocalServer) -> None:
        """The most recently asked queries are kept, and an answer from memory counts as asked."""
        embeddings = batch(query_cache_size=2)
        for query in ("a", "b", "a", "c", "a", "b"):  # "c" drops "b"
            assert_right(np.array([embeddings.embed_query(query)]), [query])
        assert server.stats()["inputs_billed"] == 4

    def test_nothing_is_kept_by_default(self, batch: Batch, server: LocalServer) -> None:
        """By default no query is kept."""
        embeddings = batch()
        for _ in range(2):
            embeddings.embed_query("why?")
        assert server.stats()["requests"] == 2

    def test_documents_are_no_queries(self, batch: Batch, server: LocalServer) -> None:
        """Documents are not answered from queries, as some providers embed them differently."""
        embeddings = batch(query_cache_size=2)
        embeddings.embed_query("why?")
        embeddings.embed_documents(["why?"])
        assert server.stats()["requests"] == 2

    def test_the_report_says_that_it_cost_nothing(self, batch: Batch) -> None:
        """The report of a query from memory shows no request and no tokens."""
        embeddings = batch(query_cache_size=1)
        embeddings.embed_query("why?")
        embeddings.embed_query("why?")
        report = embeddings.last_report
        assert report is not None
        assert (report.texts, report.requests, report.tokens, report.failures) == (1, 0, 0, 0)

    def test_a_failure_is_not_kept(self, batch: Batch, server: LocalServer) -> None:
        """A failed query is not kept, so the next call asks the server."""
        embeddings = batch(query_cache_size=1)
        server.configure(api_key="other")
        with pytest.raises(Exception, match="401"):
            embeddings.embed_query("why?")
        server.configure()
        assert_right(np.array([embeddings.embed_query("why?")]), ["why?"])

    def test_threads_may_ask_together(self, batch: Batch) -> None:
        """Threads that share the cache each get the right vector."""
        embeddings = batch(query_cache_size=3)
        queries = [f"question {n % 5}" for n in range(60)]
        with ThreadPoolExecutor(8) as threads:
            found = list(threads.map(embeddings.embed_query, queries))
        assert_right(found, queries)

    def test_vectors_of_another_model_are_dropped(self) -> None:
        """A vector of other dimensions drops the earlier ones, as the model has changed."""
        cache = QueryCache(5)
        cache.put("a", [1.0, 2.0])
        cache.put("b", [1.0, 2.0, 3.0])
        assert (cache.get("a"), cache.get("b")) == (None, [1.0, 2.0, 3.0])

    def test_no_string_is_refused_as_ever(self, batch: Batch) -> None:
        """A query that is no string is refused as usual, even if it is not hashable."""
        with pytest.raises(TypeError, match="a query must be a str, not list"):
            batch(query_cache_size=1).embed_query(["why?"])  # type: ignore[arg-type]

    @pytest.mark.parametrize("size", [-1, 1.5, True, "many"])
    def test_a_size_is_a_whole_number(self, size: object) -> None:
        """An invalid `query_cache_size` raises an error that asks for a whole number."""
        with pytest.raises(OptionError, match="query_cache_size must be a whole number"):
            BatchEmbeddings(DeterministicFakeEmbedding(size=8), query_cache_size=size)  # type: ignore[arg-type]


class TestUsage:
    """The function `on_usage` receives the usage of each answer."""

    def test_the_sum_is_what_is_billed(self, small: Batch, server: LocalServer) -> None:
        """The sum of the usage is what the server bills for documents and queries."""
        told: list[Usage] = []
        embeddings = small(on_usage=told.append)
        texts = [prose(100, seed) for seed in range(200)]
        embeddings.embed_documents(texts)
        embeddings.embed_query("a question")
        stats = server.stats()
        assert len(told) == stats["requests"] > 5
        assert sum(usage.tokens for usage in told) == stats["tokens_billed"]
        assert sum(usage.texts for usage in told) == 201
        assert {usage.model for usage in told} == {SMALL}
        assert sum(u.dollars or 0 for u in told) == pytest.approx(stats["tokens_billed"] * PRICE)

    def test_the_journal_is_free(self, small: Batch, tmp_path: object) -> None:
        """Vectors from the journal cause no usage."""
        told: list[Usage] = []
        for _ in range(2):
            small(on_usage=told.append, journal=f"{tmp_path}/vectors.db").embed_documents(["a"])
        assert len(told) == 1

    def test_calls_from_many_threads_are_told_one_at_a_time(
        self, small: Batch, server: LocalServer
    ) -> None:
        """`on_usage` runs in one thread at a time, so a user's function may add up numbers.

        Its first run lasts until all other answers that are on their way have come.
        """
        inside, most, count = 0, 0, 0

        def note(_: Usage) -> None:
            nonlocal inside, most, count
            inside += 1
            most, count = max(most, inside), count + 1
            if count == 1:
                wait_until(lambda: server.stats()["requests"] > 5 and sender.in_flight == 1)
            inside -= 1

        embeddings = treat_as_known(small(on_usage=note))
        sender = embeddings._pipeline.dispatcher.sender
        embeddings.embed_documents([prose(100, seed) for seed in range(400)])
        report = embeddings.last_report
        assert report is not None
        assert (most, count) == (1, report.requests)

    @pytest.mark.parametrize("kind", [ValueError, SystemExit])
    def test_what_it_raises_ends_nothing(
        self, small: Batch, caplog: pytest.LogCaptureFixture, kind: type[BaseException]
    ) -> None:
        """If `on_usage` raises, the call goes on, and the log omits the message."""

        def fail(usage: Usage) -> None:
            raise kind(f"a secret {usage}")

        with caplog.at_level(logging.WARNING):
            texts = ["a", "b"]
            assert_right(small(on_usage=fail).embed_documents(texts), texts)
        assert f"on_usage raised {kind.__name__}; the call goes on" in caplog.messages
        assert "secret" not in caplog.text

    def test_it_may_embed_something_itself(self, small: Batch) -> None:
        """`on_usage` may embed with the same object, whose own usage is reported afterwards."""
        told: list[Usage] = []

        def note(usage: Usage) -> None:
            told.append(usage)
            if len(told) == 1:
                embeddings.embed_query("something else")

        embeddings = small(on_usage=note)
        assert_right(embeddings.embed_documents(["a", "b"]), ["a", "b"])
        assert [usage.texts for usage in told] == [2, 1]

    def test_tokens_are_counted_where_nobody_bills_them(self) -> None:
        """Tokens that no provider bills are counted here and have no price."""
        told: list[Usage] = []
        wrapped = DeterministicFakeEmbedding(size=8)
        BatchEmbeddings(wrapped, on_usage=told.append).embed_documents(["a text", "more"])
        (usage,) = told
        assert (usage.texts, usage.tokens, usage.dollars) == (2, 3, None)

    def test_it_must_be_a_function(self) -> None:
        """An `on_usage` that is no function raises an error that describes the right one."""
        with pytest.raises(OptionError, match="on_usage must be a function of one argument"):
            BatchEmbeddings(DeterministicFakeEmbedding(size=8), on_usage=3)  # type: ignore[arg-type]


class TestDollars:
    """The option `max_dollars` limits the cost of a call."""

    TEXTS = tuple(prose(100, seed) for seed in range(200))  # 20,000 tokens

    def test_a_call_never_costs_more(self, small: Batch, server: LocalServer) -> None:
        """A call never costs more than its limit; the rest fails with a `BudgetError`."""
        embeddings = small(max_dollars=8_000 * PRICE)
        with pytest.raises(PartialEmbeddingsError) as caught:
            embeddings.embed_documents(self.TEXTS)
        error = caught.value
        assert isinstance(error.__cause__, BudgetError)
        assert {type(failure.error) for failure in error.failures} == {BudgetError}
        assert 7_000 < server.stats()["tokens_billed"] <= 8_000
        there = [i for i, vector in enumerate(error.embeddings) if vector is not None]
        assert_right([v for v in error.embeddings if v is not None], [self.TEXTS[i] for i in there])
        assert len(there) == server.stats()["inputs_billed"]

    def test_the_next_call_goes_on_from_there(self, small: Batch, server: LocalServer) -> None:
        """Each further call continues where the last one ended, and nothing is paid twice."""
        embeddings = small(max_dollars=8_000 * PRICE)
        calls = 0
        while True:
            calls += 1
            try:
                vectors = embeddings.embed_documents(self.TEXTS)
            except PartialEmbeddingsError:
                assert calls < 4
            else:
                break
        assert calls == 3
        assert_right(vectors, list(self.TEXTS))
        assert server.stats()["inputs_billed"] == 200

    def test_enough_is_enough(self, small: Batch) -> None:
        """A limit above the cost changes nothing."""
        assert_right(small(max_dollars=1.0).embed_documents(self.TEXTS), list(self.TEXTS))

    def test_a_cent_for_nothing(self, small: Batch, server: LocalServer) -> None:
        """If not even one text is affordable, none is sent, nor is a query, sync or async."""
        embeddings = small(max_dollars=1e-9)
        with pytest.raises(PartialEmbeddingsError, match="max_dollars=1e-09"):
            embeddings.embed_documents(self.TEXTS)
        with pytest.raises(BudgetError, match="max_dollars=1e-09"):
            embeddings.embed_query("a question")
        with pytest.raises(BudgetError):
            asyncio.run(embeddings.aembed_query("a question"))
        assert server.stats()["requests"] == 0

    def test_an_ingest_is_one_call(
        self, small: Batch, server: LocalServer, tmp_path: object
    ) -> None:
        """The many runs of an ingest share one limit."""
        documents = [Document(text) for text in self.TEXTS]
        embeddings = small(max_dollars=8_000 * PRICE, journal=f"{tmp_path}/vectors.db")
        store = InMemoryVectorStore(embeddings)
        with pytest.raises(IngestError) as caught:
            embeddings.ingest(store, documents, batch_size=10, max_buffered=40)
        assert isinstance(caught.value.__cause__, BudgetError)
        wait_until(
            lambda: not embeddings._pipeline.dispatcher.sender.deployments[0].pacer.in_flight
        )
        assert 5_000 < server.stats()["tokens_billed"] <= 8_000

    def test_small_calls_of_a_prefetch_share_what_it_may_cost(
        self, small: Batch, server: LocalServer
    ) -> None:
        """Small calls of a prefetch share one limit.

        Otherwise a loop over the failed texts would spend it again and again.
        """
        embeddings = small(max_dollars=8_000 * PRICE)
        failed = 0
        with embeddings.prefetch(self.TEXTS):
            for text in self.TEXTS:
                try:
                    embeddings.embed_documents([text])
                except PartialEmbeddingsError:
                    failed += 1
        assert failed > 100
        assert server.stats()["tokens_billed"] <= 8_000

    def test_a_query_during_a_prefetch_has_a_limit_of_its_own(self, small: Batch) -> None:
        """A query is a call of its own, which a prefetch that has spent its limit does not fail."""
        embeddings = small(max_dollars=8_000 * PRICE)
        with embeddings.prefetch(self.TEXTS):
            with pytest.raises(PartialEmbeddingsError):
                embeddings.embed_documents(self.TEXTS)
            assert embeddings.embed_query(prose(1_000, 999))  # more than the prefetch has left

    def test_the_price_must_be_known(self) -> None:
        """`max_dollars` requires a known price."""
        with pytest.raises(OptionError, match="max_dollars needs the model's price"):
            BatchEmbeddings(DeterministicFakeEmbedding(size=8), max_dollars=1.0, model="mine")

    @pytest.mark.parametrize("amount", [0, -1, float("nan"), "all", True])
    def test_it_is_an_amount(self, amount: object, openai_embeddings: OpenAI) -> None:
        """`max_dollars` must be a number above zero."""
        with pytest.raises(OptionError, match="max_dollars must be"):
            BatchEmbeddings(openai_embeddings(model=SMALL), max_dollars=amount)  # type: ignore[arg-type]

    def test_its_error_can_be_pickled(self) -> None:
        """A `BudgetError` can be pickled, so worker processes can return it."""
        again = pickle.loads(pickle.dumps(BudgetError(0.5)))  # noqa: S301  # our own
        assert (again.max_dollars, str(again)) == (0.5, str(BudgetError(0.5)))


class TestBudget:
    """What the sender may send within a budget, in simulated time."""

    def spend(self, tokens: float, server: FakeServer) -> Rehearsal:
        """Send a hundred texts of ten tokens, ten a request, with a budget of this many tokens."""
        from dataclasses import replace  # noqa: PLC0415

        from langchain_batch_embed.sending.budget import Budget  # noqa: PLC0415

        rehearsal = Rehearsal(make_sender(max_workers=4), server)
        work = make_work(100, max_items=10)
        rehearsal.add(replace(work, budget=Budget(tokens, price=1_000_000)))
        rehearsal.run()
        return rehearsal

    @pytest.mark.parametrize("tokens", [0, 9, 10, 95, 100, 555, 999])
    def test_failed_requests_cost_nothing(self, tokens: int) -> None:
        """The budget of failed requests may be spent again."""
        failing = FakeServer(error=lambda r: TimeoutError() if r.number % 3 == 0 else None)
        rehearsal = self.spend(tokens, failing)
        # Nothing is billed in a rehearsal, so everything is sent that fits at once.
        assert len(done(rehearsal.outcomes)) in {0, 100}
        assert bool(done(rehearsal.outcomes)) == (tokens >= 10)
        assert all(isinstance(e, BudgetError) for e in lost(rehearsal.outcomes).values())
        in_flight = max(
            sum(r.tokens for r in failing.requests if r.sent <= now < r.sent + 0.1)
            for now in {r.sent for r in failing.requests} or {0.0}
        )
        assert in_flight <= tokens
