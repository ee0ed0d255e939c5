"""No text fails for a quota while the server lets anything through; a spent quota ends the call."""

import email.utils
import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import openai
import pytest
from langchain_openai import OpenAIEmbeddings

from langchain_batch_embed import BatchEmbeddings
from langchain_batch_embed.clock import SYSTEM_CLOCK
from langchain_batch_embed.errors import NotSentError
from langchain_batch_embed.simulator import Bucket
from tests.support import FakeClock, LocalServer, prose
from tests.survival.conftest import Serve
from tests.survival.support import (
    DIMENSIONS,
    PAGE,
    Asked,
    Endpoint,
    FastClock,
    Reply,
    embed,
    kinds,
    least,
    refused,
)

Batch = Callable[..., BatchEmbeddings]
Wrapped = Callable[[Endpoint], OpenAIEmbeddings]

PARAGRAPHS = [prose(50, i) for i in range(1200)]
"""Some 60,000 tokens, of which the limiter charges about the same number."""

LINES = [f"section {i}" for i in range(5000)]

HIDDEN = {
    "dimensions": DIMENSIONS,
    "rate_limit_headers": False,
    "refusal_hint": "none",
    "error_details": False,
    "used_of": "bucket",
}


class TestQuotasThatNoHeaderTells:
    """Gateways and Azure refuse requests above a quota and never announce what it is."""

    @pytest.mark.parametrize(
        ("factor", "quota"),
        [
            pytest.param(4, {"bucket_seconds": 0.125}, id="half a second, no word"),
            pytest.param(4, {"bucket_seconds": 0.75}, id="three seconds, no word"),
            pytest.param(4, {"fixed_window_seconds": 0.5}, id="windows, no word"),
            pytest.param(
                1, {"bucket_seconds": 0.5, "error_details": True}, id="half a second, Used"
            ),
        ],
    )
    def test_nothing_is_lost_to_a_hidden_quota_of_tokens(
        self, batch: Batch, server: LocalServer, factor: float, quota: Mapping[str, Any]
    ) -> None:
        """A hidden quota of tokens loses no text, and at most 60 % of the requests are refused.

        The work is about a second at the quota, which a clock that is four times as fast makes 4 s.
        `tests/simulated` has narrower bounds, for many seeds.
        """
        options = {**HIDDEN, "tokens_per_minute": 4_000_000, "latency": 0.02, **quota}

        def share() -> float:
            server.configure(**options)
            failed = embed(batch(_clock=FastClock(factor)), PARAGRAPHS, seconds=60.0)
            assert failed == {}, kinds(failed)
            return refused(server.stats())

        assert least(share, 0.6) <= 0.6

    def test_nothing_is_lost_to_a_hidden_quota_of_requests(
        self, batch: Batch, server: LocalServer
    ) -> None:
        """A hidden quota of 60 requests a second loses no text, with at most half refused."""

        def share() -> float:
            server.configure(**HIDDEN, requests_per_minute=3600, bucket_seconds=0.2, latency=0.02)
            failed = embed(batch(max_batch_size=15, _clock=FastClock(10)), PARAGRAPHS)
            assert failed == {}, kinds(failed)
            return refused(server.stats())

        assert least(share, 0.5) <= 0.5

    @pytest.mark.parametrize("hint", ["zero", "none"])
    def test_a_hint_of_no_wait_at_all_is_no_hint(
        self, batch: Batch, server: LocalServer, hint: str
    ) -> None:
        """A request quota whose refusals give no wait loses no text, with at most half refused.

        The refusals are bare or say `Retry-After: 0`; the quota is 15 requests in windows of two
        seconds.
        """
        options = {
            **HIDDEN,
            "requests_per_minute": 4500,
            "fixed_window_seconds": 0.2,
            "refusal_hint": hint,
            "latency": 0.02,
        }

        def share() -> float:
            server.configure(**options)
            failed = embed(batch(max_batch_size=50, _clock=FastClock(10)), LINES)
            assert failed == {}, kinds(failed)
            stats = server.stats()
            assert stats["requests"] >= 100
            return refused(stats)

        assert least(share, 0.5) <= 0.5

    def test_a_hint_that_is_a_date_is_kept(
        self, batch: Batch, serve: Serve, wrapped: Wrapped, clock: FakeClock
    ) -> None:
        """A `Retry-After` date 40 s ahead holds all requests until then, and no text is lost."""

        def decide(asked: Asked) -> Reply | None:
            if not 5 <= asked.number < 8:
                return None
            date = email.utils.formatdate(time.time() + 40, usegmt=True)
            return Reply(status=429, body=PAGE.format("429"), headers={"retry-after": date})

        endpoint = serve(decide)
        failed = embed(batch(wrapped(endpoint), max_batch_size=50), LINES)
        assert failed == {}, kinds(failed)
        assert 30 <= clock.time < 60  # a date has whole seconds; a busy machine needs the other ten
        assert not [asked for asked in endpoint.asked if 1 < asked.time < 30]

    def test_throttling_uses_up_no_retries(
        self, batch: Batch, serve: Serve, wrapped: Wrapped, clock: FakeClock
    ) -> None:
        """If four of five requests are refused, two retries are enough to lose no text."""

        def decide(asked: Asked) -> Reply | None:
            return Reply(status=429, body=PAGE.format("429")) if asked.number % 5 else None

        embeddings = batch(wrapped(serve(decide)), max_retries=2, max_batch_size=50)
        failed = embed(embeddings, LINES[:1000], seconds=10)
        assert failed == {}, kinds(failed)
        assert clock.time < 3600


class TestQuotasThatAreTold:
    """What a server announces about its quota is used."""

    def test_few_requests_a_minute_learnt_in_mid_call_are_used_for_all_that_is_left(
        self, batch: Batch, server: LocalServer
    ) -> None:
        """A quota of 60 requests a minute in the first headers makes later requests large.

        Few of them are needed.
        """
        server.configure(dimensions=DIMENSIONS, requests_per_minute=60)
        failed = embed(batch(_clock=SYSTEM_CLOCK), PARAGRAPHS + LINES)
        assert failed == {}, kinds(failed)
        stats = server.stats()
        assert stats["requests"] <= 30
        assert stats["by_status"] == {"200": stats["requests"]}

    def test_one_request_a_second_learnt_in_mid_call_is_kept(
        self, batch: Batch, serve: Serve, wrapped: Wrapped, clock: FakeClock
    ) -> None:
        """One request a second, learnt from the first refusals, is kept with few more refusals."""
        quota = Bucket(60, 1.0)

        def decide(_: Asked) -> Reply | None:
            left = {"x-ratelimit-limit-requests": "60", "x-ratelimit-remaining-requests": "0"}
            with lock:
                wait = quota.wait(1, clock.time)
                if wait == 0:
                    quota.take(1, clock.time)
                    return Reply(status=200, headers=left)
            told = {**left, "retry-after-ms": str(round(wait * 1000) + 1)}
            return Reply(status=429, body=_openai("slow down"), headers=told)

        lock = threading.Lock()
        endpoint = serve(decide)
        failed = embed(batch(wrapped(endpoint)), LINES)
        assert failed == {}, kinds(failed)
        assert len(endpoint.asked) <= 24
        assert clock.time <= 24

    @pytest.mark.parametrize(
        "header", ["retry-after", "llm_provider-retry-after"], ids=["plain", "LiteLLM's"]
    )
    def test_a_wait_that_is_told_is_waited_once(
        self,
        batch: Batch,
        serve: Serve,
        wrapped: Wrapped,
        clock: FakeClock,
        header: str,
    ) -> None:
        """A wait of 17 s for one request of many holds all requests once."""
        told = Reply(status=429, body={"error": {"message": "slow down"}}, headers={header: "17"})
        endpoint = serve(lambda asked: told if asked.number == 5 else None)
        failed = embed(batch(wrapped(endpoint), max_batch_size=50), LINES)
        assert failed == {}
        assert 17 <= clock.time < 20

    def test_a_long_wait_is_a_warning_and_looked_at_again_each_minute(
        self,
        batch: Batch,
        serve: Serve,
        wrapped: Wrapped,
        clock: FakeClock,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        """A wait of an hour is logged as a warning and checked again each minute.

        Here it is over after 130 s, which a request a minute finds out.
        """
        clock.patience = 0.5  # a jump must not overtake an answer

        def decide(asked: Asked) -> Reply | None:
            if asked.number < 5 or asked.time >= 130:
                return None
            words = {"error": {"message": "slow down"}}
            return Reply(status=429, body=words, headers={"retry-after": "3600"})

        endpoint = serve(decide)
        caplog.set_level(logging.WARNING, logger="langchain_batch_embed")
        failed = embed(batch(wrapped(endpoint), max_batch_size=50), LINES[:1000])
        assert failed == {}, kinds(failed)
        assert 130 <= clock.time < 200
        assert len([asked for asked in endpoint.asked if 1 < asked.time < 130]) <= 2
        assert [record for record in caplog.records if "3.6e+03" in record.getMessage()]


def _openai(message: str, **more: str | None) -> dict[str, Any]:
    return {"error": {"message": message, **more}}


SPENT = {
    "OpenAI": Reply(
        status=429,
        body=_openai(
            "You exceeded your current quota, please check your plan and billing details.",
            type="insufficient_quota",
            code="insufficient_quota",
        ),
    ),
    "a code alone": Reply(status=429, body=_openai("No.", code="credit_balance_exhausted")),
    "LiteLLM": Reply(
        status=429,
        body=_openai(
            "litellm.RateLimitError: RateLimitError: OpenAIException - You exceeded your current "
            "quota, please check your plan and billing details.",
            type="throttling_error",
            code="429",
        ),
    ),
    "a string": Reply(status=429, body={"error": "insufficient_quota"}),
    "a budget": Reply(
        status=400,
        body={"detail": "Budget has been exceeded! Current cost: 10.2, Max budget: 10.0"},
    ),
    "LiteLLM's budget": Reply(
        status=429,
        body=_openai(
            "Budget has been exceeded! Current cost: 10.2, Max budget: 10.0",
            type="budget_exceeded",
            code="400",
        ),
    ),
    "credits": Reply(
        status=402, body=_openai("This request requires more credits, or fewer max_tokens.")
    ),
    "a day": Reply(
        status=429,
        body=_openai(
            "Rate limit reached for text-embedding-3-small on requests per day (RPD): Limit 200, "
            "Used 200, Requested 1. Please try again in 7h12m0s.",
            type="requests",
            code="rate_limit_exceeded",
        ),
        headers={"retry-after": "25920"},
    ),
    "Gemini's day": Reply(
        status=429,
        body={
            "error": {
                "code": 429,
                "status": "RESOURCE_EXHAUSTED",
                "message": "You exceeded your current quota, please check your plan and billing "
                "details. Quota exceeded for metric: embed_content_free_tier_requests, limit: 1000",
                "details": [
                    {
                        "@type": "type.googleapis.com/google.rpc.QuotaFailure",
                        "violations": [
                            {"quotaId": "EmbedContentRequestsPerDayPerUserPerProjectPerModel"}
                        ],
                    }
                ],
            }
        },
    ),
}


class TestSpentQuotas:
    """Waiting is useless if the money or a daily quota is used up."""

    @pytest.mark.parametrize(("shape", "when"), [("OpenAI", 0), *((shape, 12) for shape in SPENT)])
    def test_a_spent_quota_ends_the_call_at_once(
        self,
        batch: Batch,
        serve: Serve,
        wrapped: Wrapped,
        clock: FakeClock,
        shape: str,
        when: int,
    ) -> None:
        """A spent quota, however worded, ends the call without a wait or retry.

        The error is the server's own.
        """
        endpoint = serve(lambda asked: SPENT[shape] if asked.number >= when else None)
        failed = embed(batch(wrapped(endpoint), max_batch_size=50, max_workers=4), LINES)
        assert failed
        assert clock.time == 0
        assert len(endpoint.asked) <= when + 4
        first = next(iter(failed.values()))
        assert isinstance(first, openai.APIStatusError)
        assert {type(error) for error in failed.values()} == {type(first), NotSentError}

    def test_a_refusal_for_the_rate_is_not_taken_for_a_spent_quota(
        self, batch: Batch, serve: Serve, wrapped: Wrapped
    ) -> None:
        """A refusal for a minute's quota does not count as a spent quota.

        Vertex and Gemini speak of an exceeded quota in both cases.
        """
        words = "Quota exceeded for aiplatform.googleapis.com/online_prediction_requests_per_minute"
        reply = Reply(
            status=429,
            body={"error": {"code": 429, "message": words, "status": "RESOURCE_EXHAUSTED"}},
        )
        failed = embed(
            batch(
                wrapped(serve(lambda asked: reply if 5 <= asked.number < 9 else None)),
                max_batch_size=50,
            ),
            LINES[:1000],
        )
        assert failed == {}
