"""How a quota affects the size of batches."""

import math

import pytest

from langchain_batch_embed.pacing.batch_sizes import BatchSizes
from langchain_batch_embed.pacing.meters import Meters
from langchain_batch_embed.pacing.throttle import Throttle
from langchain_batch_embed.pacing.token_bucket import TokenBucket
from langchain_batch_embed.pacing.which_quota import LEAST_QUOTA, TRIAL, WhichQuota


def meters_of(requests: float | None = None, tokens: float | None = None) -> Meters:
    """Return the meters of a quota that the user sets per minute."""
    return Meters(
        requests=TokenBucket(requests), tokens=TokenBucket(tokens), throttle=Throttle(lambda: 1.0)
    )


def measured(which: WhichQuota) -> BatchSizes:
    """Return the batch sizes after a measurement of 10 requests and 10,000 tokens a second."""
    meters = meters_of()
    meters.requests.guess(10.0, now=0.0)
    meters.tokens.guess(10_000.0, now=0.0)
    return BatchSizes(meters, which)


def test_nothing_is_known_of_a_quota_at_first() -> None:
    """Without a known quota, batches may be as large and as many as anything else allows."""
    sizes = BatchSizes(meters_of(), WhichQuota())
    assert sizes.bounds() == (math.inf, math.inf)


@pytest.mark.parametrize(("per_minute", "spare"), [(100, 25), (3, 0.75), (10_000, 2_500)])
def test_a_known_quota_can_spare_what_it_gives_in_15_seconds(
    per_minute: float, spare: float
) -> None:
    """A known quota of requests can spare what it gives in 15 seconds.

    Its bucket may hold a minute's worth, so this many requests cost no time.
    """
    sizes = BatchSizes(meters_of(requests=per_minute), WhichQuota())
    assert sizes.spare_requests() == pytest.approx(spare)


def test_a_known_quota_of_tokens_bounds_a_batch() -> None:
    """A known quota of tokens bounds a batch, because no request may exceed the whole bucket."""
    sizes = BatchSizes(meters_of(tokens=6_000), WhichQuota())
    assert sizes.largest() == 6_000
    assert (sizes.explains(6_000), sizes.explains(6_001)) == (True, False)


def test_a_measured_quota_of_requests_can_spare_what_it_gives_in_a_second() -> None:
    """A measured quota of requests can spare what it gives in a second.

    The quota is used up, so each request has to wait for its turn.
    """
    which = WhichQuota()
    which.kind = "requests"
    assert measured(which).spare_requests() == 10


def test_a_measured_quota_of_tokens_can_spare_any_number() -> None:
    """A measured quota of tokens can spare any number of requests.

    Small batches wait no longer than large ones.
    """
    which = WhichQuota()
    which.kind = "tokens"
    assert measured(which).spare_requests() == math.inf


def test_batches_may_be_several_times_as_large_while_it_may_be_either() -> None:
    """While the quota may count either, batches may be several times as large as measured.

    If large batches pass as often as usual ones, the quota counts requests.
    """
    which = WhichQuota()
    which.measured(10_000.0, 10.0, now=0.0)
    sizes = measured(which)
    assert sizes.bounds() == (2 * LEAST_QUOTA, 150)


def test_after_a_dry_time_batches_are_large_and_few() -> None:
    """After a dry time batches are large and few.

    The initial allowance is used up, as it is where requests are counted by the minute.
    """
    which = WhichQuota()
    which.paused(1, after=30.0)
    sizes = BatchSizes(meters_of(), which)
    assert sizes.is_dry
    assert sizes.bounds() == (TRIAL * LEAST_QUOTA, 15)
