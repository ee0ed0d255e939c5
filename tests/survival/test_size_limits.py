"""What one request may hold is learnt from what gets through, however refusals are worded."""

from collections.abc import Callable
from typing import Any

import pytest
from langchain_openai import OpenAIEmbeddings

from langchain_batch_embed import BatchEmbeddings
from langchain_batch_embed.clock import SYSTEM_CLOCK
from tests.support import FakeClock, LocalServer, prose
from tests.survival.conftest import Serve
from tests.survival.support import DIMENSIONS, PAGE, RESET, Endpoint, Reply, embed, kinds

Batch = Callable[..., BatchEmbeddings]
Wrapped = Callable[[Endpoint], OpenAIEmbeddings]

TEXTS = [f"section {i}" for i in range(500)]
LATER = [f"later {i}" for i in range(500)]
WORDS = "input should not be larger than 10"


def refusals(server: LocalServer) -> int:
    """Return how many requests got no 200."""
    stats = server.stats()
    count: int = stats["requests"] - stats["by_status"].get("200", 0)
    return count


class TestLimitsOfTexts:
    """A server accepts fewer texts in a request than its provider usually does."""

    @pytest.mark.parametrize(
        ("limit", "latency"), [(1, 0.0), (3, 0.1), (10, 0.0), (10, 0.2), (100, 0.1)]
    )
    def test_a_limit_in_unknown_words_is_learnt(
        self, batch: Batch, server: LocalServer, limit: int, latency: float
    ) -> None:
        """An unknown wording of a limit costs few refusals.

        A later call costs none, but for a test or two whether the limit still holds.
        """
        words = WORDS if limit == 10 else "please send less"
        server.configure(
            dimensions=DIMENSIONS, max_inputs=limit, text_limit_words=words, latency=latency
        )
        embeddings = batch(_clock=SYSTEM_CLOCK)
        failed = embed(embeddings, TEXTS)
        assert failed == {}, kinds(failed)
        assert refusals(server) <= 64
        assert server.stats()["requests"] <= 1.6 * len(TEXTS) / limit + 80
        before = refusals(server)
        assert embed(embeddings, LATER) == {}
        assert refusals(server) <= before + 2

    def test_a_limit_is_learnt_beside_refused_texts(
        self, batch: Batch, server: LocalServer
    ) -> None:
        """A limit of ten texts is learnt even if six other texts are refused in any request."""
        server.configure(
            dimensions=DIMENSIONS, max_inputs=10, text_limit_words=WORDS, refuse_marker="BAD"
        )
        bad = [5, 6, 7, 250, 333, 499]
        texts = [text + " BAD" * (i in bad) for i, text in enumerate(TEXTS)]
        failed = embed(batch(), texts)
        assert sorted(failed) == bad, kinds(failed)
        assert server.stats()["requests"] <= 200

    @pytest.mark.parametrize("reply", [RESET, Reply(status=500), Reply(status=502, body=PAGE)])
    @pytest.mark.parametrize("limit", [1, 10])
    def test_a_limit_that_no_refusal_tells_is_learnt(
        self,
        batch: Batch,
        wrapped: Wrapped,
        serve: Serve,
        clock: FakeClock,
        reply: Reply,
        limit: int,
    ) -> None:
        """A limit shown only by broken connections or server errors is learnt, and no text fails.

        A proxy or a server that runs out of memory behaves like that.
        """
        endpoint = serve(lambda asked: reply if len(asked.texts) > limit else None)
        embeddings = batch(wrapped(endpoint))
        failed = embed(embeddings, TEXTS)
        assert failed == {}, kinds(failed)
        assert len(endpoint.asked) <= 1.5 * len(TEXTS) / limit + 300
        assert clock.time < 60
        before = len(endpoint.asked)
        assert embed(embeddings, LATER) == {}
        later = endpoint.asked[before:]
        assert sum(len(asked.texts) > limit for asked in later) <= 8

    def test_one_vector_for_many_texts_is_a_limit_of_texts(
        self, batch: Batch, server: LocalServer, clock: FakeClock
    ) -> None:
        """A server that answers only the first text of a request gets one text at a time."""
        server.configure(dimensions=DIMENSIONS, faults={"short_one": 1.0})
        embeddings = batch()
        failed = embed(embeddings, TEXTS[:200])
        assert failed == {}, kinds(failed)
        assert server.stats()["requests"] <= 300
        assert clock.time < 30
        server.configure(dimensions=DIMENSIONS, faults={"short_one": 1.0})
        assert embed(embeddings, LATER[:200]) == {}
        assert server.stats()["requests"] <= 205

    def test_one_answer_that_is_short_is_no_limit_of_texts(
        self, batch: Batch, server: LocalServer
    ) -> None:
        """A single answer with too few vectors is requested again and sets no limit."""
        server.configure(dimensions=DIMENSIONS, script=("ok",) * 8 + ("short_one",))
        embeddings = batch(max_batch_size=50)
        assert embed(embeddings, TEXTS) == {}
        server.configure(dimensions=DIMENSIONS)
        assert embed(embeddings, LATER) == {}
        assert server.stats()["requests"] <= 16


class TestLimitsOfTokensAndBytes:
    """A server, or a proxy before it, accepts fewer tokens or bytes in a request."""

    @pytest.mark.parametrize(
        "limit",
        [
            {"max_tokens_per_request": 2000},
            {"max_tokens_per_request": 2000, "request_tokens_by": "bytes"},
            {"max_body_bytes": 8000},
        ],
        ids=["tokens", "tokens by bytes", "bytes"],
    )
    def test_a_limit_is_learnt_once(
        self, batch: Batch, server: LocalServer, limit: dict[str, Any]
    ) -> None:
        """A limit of tokens or bytes costs few refusals, and at most three in a later call."""
        server.configure(dimensions=DIMENSIONS, **limit)
        embeddings = batch()
        failed = embed(embeddings, [prose(100, i) for i in range(200)])
        assert failed == {}, kinds(failed)
        assert refusals(server) <= 20
        before = refusals(server)
        assert embed(embeddings, [prose(100, i) for i in range(200, 400)]) == {}
        assert refusals(server) - before <= 3
