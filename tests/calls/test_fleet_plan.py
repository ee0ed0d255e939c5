"""`plan` for a fleet reports which limit binds and what more of any resource would change."""

from typing import Any

import pytest
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_openai import OpenAIEmbeddings
from pydantic import SecretStr

from langchain_batch_embed import AccountQuota, BatchEmbeddings, FleetPlan, OptionError, SharedQuota

LIMITS = ("tokens a minute", "processors")
TIER_5 = AccountQuota(requests_per_minute=10_000, tokens_per_minute=10_000_000)


def openai(**options: Any) -> BatchEmbeddings:
    """Return embeddings with OpenAI's small model; nothing is sent."""
    wrapped = OpenAIEmbeddings(api_key=SecretStr("any"), model="text-embedding-3-small")
    return BatchEmbeddings(wrapped, **options)


def plan(**options: Any) -> FleetPlan:
    """Plan a billion texts of 150 tokens, unless told otherwise."""
    given: dict[str, Any] = {"count": 10**9, "tokens_each": 150, "quota": TIER_5, **options}
    made = openai().plan(**given)
    assert isinstance(made, FleetPlan)
    return made


def test_a_billion_texts_are_bound_by_the_tokens_a_minute() -> None:
    """A billion texts of 150 tokens take 250 hours at 10 M tokens a minute.

    More machines do not make it faster.
    """
    one, eight = plan(), plan(workers=8)
    assert one.seconds == eight.seconds == 250 * 3600
    assert (one.binds, one.useful_workers) == ("tokens a minute", 1)
    assert one.dollars == pytest.approx(3000)
    assert one.requests == -(-(10**9) // 2000)  # 300,000 tokens a request
    assert str(one) == (
        "1,000,000,000 texts: 500,000 requests, 150,000,000,000 tokens, $3,000.00\n"
        "about 250.0 h with 1 worker and 10,000 requests and 10,000,000 tokens a minute; "
        "limited by tokens a minute\n"
        "1 worker uses the whole quota, so more workers would not help; with twice the tokens a "
        "minute it would take 125.0 h"
    )


def test_one_request_is_counted_in_the_singular() -> None:
    """A plan that fits into one request says so in correct English."""
    assert str(plan(count=10)).startswith("10 texts: 1 request, 1,500 tokens")


def test_one_core_is_enough_for_tier_5() -> None:
    """One core embeds 17,000 texts of 150 tokens a second, while tier 5 permits only 1,111."""
    made = plan(count=10**8)
    assert made.seconds == 25 * 3600
    of_quota, of_core = (10**8 / made.seconds_by_limit[name] for name in LIMITS)
    assert (round(of_quota), round(of_core, -3)) == (1_111, 17_000)
    useful = {
        millions: plan(
            count=10**8, quota=AccountQuota(tokens_per_minute=millions * 1e6)
        ).useful_workers
        for millions in (150, 155, 156, 160)
    }
    assert useful == {150: 1, 155: 1, 156: 2, 160: 2}


def test_many_short_texts_are_bound_by_requests() -> None:
    """Requests a minute bind for short texts, of which 2,048 fit into one request."""
    quota = AccountQuota(requests_per_minute=100, tokens_per_minute=10_000_000)
    made = plan(count=2_048_000, tokens_each=1, quota=quota)
    assert (made.requests, made.binds, made.seconds) == (1000, "requests a minute", 600)


def test_with_more_quota_than_a_worker_can_use_more_workers_help() -> None:
    """With more quota than one worker can use, more workers help until they use all of it."""
    quota = AccountQuota(tokens_per_minute=10_000_000_000)
    one, two = plan(quota=quota), plan(quota=quota, workers=2)
    assert one.binds in {"connections", "processors"}
    assert one.seconds is not None
    assert two.seconds == pytest.approx(one.seconds / 2)
    useful = one.useful_workers
    assert useful is not None
    assert useful > 2
    assert plan(quota=quota, workers=useful).binds == "tokens a minute"
    assert plan(quota=quota, workers=useful - 1).binds == one.binds
    assert f"up to {useful}" in str(one)


def test_texts_are_counted() -> None:
    """A plan counts identical texts once, because they are sent once."""
    texts = [f"text number {number}" for number in range(3000)] * 2
    made = openai().plan(texts, workers=4, tier=5)
    alone = openai().plan(texts, tier=5)
    assert (made.texts, made.tokens) == (3000, alone.tokens)
    assert made.requests == 2
    assert made.quota == alone.quota


def test_without_a_quota_and_a_known_provider_no_time_is_told() -> None:
    """Without a quota and a known provider the plan gives no time, rather than a wrong one."""
    embeddings = BatchEmbeddings(DeterministicFakeEmbedding(size=3))
    made = embeddings.plan(count=1000, tokens_each=10)
    assert (made.seconds, made.binds, made.dollars) == (None, None, None)
    assert "time not known" in str(made)
    quota = AccountQuota(requests_per_minute=60)
    assert embeddings.plan(count=10**6, tokens_each=10, quota=quota).seconds is not None


def test_the_options_of_the_object_are_a_quota_too() -> None:
    """The object's options serve as the quota, unless an argument gives one."""
    embeddings = openai(tokens_per_minute=1_000_000)
    assert embeddings.plan(count=10**6, tokens_each=100).seconds == pytest.approx(6000)
    assert embeddings.plan(count=10**6, tokens_each=100, tier=5).seconds == pytest.approx(600)


def test_a_notebook_shows_a_table() -> None:
    """A notebook shows a plan as a table with its figures."""
    assert "500,000" in plan()._repr_html_()


def test_nothing_takes_no_time() -> None:
    """A plan for no texts has no request and takes no time."""
    made = plan(count=0)
    assert (made.requests, made.seconds) == (0, 0)
    assert str(made)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"count": 5},
        {"tokens_each": 5},
        {"count": -1, "tokens_each": 5},
        {"count": 1.5, "tokens_each": 5},
        {"count": 5, "tokens_each": 0},
        {"count": 5, "tokens_each": float("nan")},
        {"count": 5, "tokens_each": 5, "workers": 0},
        {"count": 5, "tokens_each": 5, "workers": True},
        {"texts": ["a"], "count": 5, "tokens_each": 5},
        {"count": 5, "tokens_each": 5, "tokens_per_minute": -1},
        {"count": 5, "tokens_each": 5, "tier": 9},
        {"texts": ["a"], "workers": 1, "quota": SharedQuota("redis://127.0.0.1:1")},
        {"texts": ["a"], "workers": 1, "quota": "tier 1"},
    ],
)
def test_options_that_cannot_work_are_an_error(options: Any) -> None:
    """Too few, too many or impossible options raise an `OptionError`."""
    with pytest.raises(OptionError):
        openai().plan(**options)
