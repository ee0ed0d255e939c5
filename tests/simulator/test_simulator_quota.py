"""The arithmetic of a quota, with a clock that the test controls."""

import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from langchain_batch_embed.simulator.quota import Bucket, Quota, Window, go_duration

LIMITS = st.integers(60, 10_000_000)
SHARES = st.floats(0, 1)
# Pairs of seconds since the request before, and the requested share of the capacity.
REQUESTS = st.lists(st.tuples(st.floats(0, 30), st.floats(0.001, 1)), min_size=1, max_size=30)


@given(LIMITS, st.floats(0.5, 60), SHARES, REQUESTS)
def test_whoever_waits_as_long_as_told_is_let_in(
    limit: int, seconds: float, share: float, requests: list[tuple[float, float]]
) -> None:
    """A single client that waits as long as announced is never refused twice in a row."""
    bucket = Bucket(limit, seconds, refused_share=share)
    now = 0.0
    for pause, part in requests:
        now += pause
        amount = part * bucket.capacity
        wait = bucket.take(amount, now)
        if wait:
            now += wait
            assert bucket.take(amount, now) == 0


@given(LIMITS, st.floats(0.5, 60), SHARES, REQUESTS)
def test_no_more_is_let_in_than_the_quota_allows(
    limit: int, seconds: float, share: float, requests: list[tuple[float, float]]
) -> None:
    """The admitted amount never exceeds the capacity and what has flowed back since the start."""
    bucket = Bucket(limit, seconds, refused_share=share)
    now = taken = 0.0
    for count, (pause, part) in enumerate(requests, start=1):
        now += pause
        amount = part * bucket.capacity
        taken += amount if bucket.take(amount, now) == 0 else 0
        assert taken <= bucket.capacity + now * bucket.rate + 0.001 * count
        assert 0 <= bucket.used(now) <= bucket.capacity + 0.001


@given(LIMITS, st.floats(0.5, 60), st.floats(1.001, 100))
def test_more_than_the_capacity_never_fits(limit: int, seconds: float, factor: float) -> None:
    """An amount above the capacity gets an infinite wait and is not charged."""
    bucket = Bucket(limit, seconds)
    amount = factor * bucket.capacity
    assume(amount > bucket.capacity + 0.01)

    assert bucket.take(amount, 0.0) == math.inf
    assert bucket.used(0.0) == 0


@given(LIMITS, st.floats(0.5, 60), SHARES, REQUESTS)
def test_whoever_waits_for_the_next_window_is_let_in(
    limit: int, seconds: float, share: float, requests: list[tuple[float, float]]
) -> None:
    """A single client that waits for the next window is never refused twice in a row."""
    window = Window(limit, seconds, refused_share=share)
    now = 0.0
    for pause, part in requests:
        now += pause
        amount = part * window.capacity
        wait = window.take(amount, now)
        assert 0 <= wait <= seconds + 1e-5
        if wait:
            now += wait
            assert window.take(amount, now) == 0


@given(LIMITS, st.floats(0.5, 60), SHARES, REQUESTS)
def test_a_window_lets_in_no_more_than_its_share(
    limit: int, seconds: float, share: float, requests: list[tuple[float, float]]
) -> None:
    """A window, counted from the first request, admits no more than its share."""
    window = Window(limit, seconds, refused_share=share)
    now, taken = 0.0, dict[int, float]()
    for count, (pause, part) in enumerate(requests, start=1):
        now += pause if taken else 0.0
        amount = part * window.capacity
        if window.take(amount, now) == 0:
            number = math.floor((now + 2e-6) / seconds)
            taken[number] = taken.get(number, 0.0) + amount
            assert taken[number] <= limit / 60 * seconds + 0.001 * count


def test_a_window_frees_everything_at_once() -> None:
    """A window frees its whole amount at its end, and the wait lasts until then."""
    window = Window(60, 10, refused_share=0)
    assert window.take(10, 5.0) == 0

    assert window.take(1, 8.0) == pytest.approx(7.0)
    assert window.take(1, 14.9) == pytest.approx(0.1)
    assert window.take(10, 15.0) == 0
    assert window.take(1, 20.0) == pytest.approx(5.0)
    assert window.take(10, 40.0) == 0
    assert window.take(1, 44.0) == pytest.approx(1.0)
    assert window.take(11, 50.0) == math.inf


def test_a_quota_of_windows_tells_when_its_window_ends() -> None:
    """The wait and the headers give the end of the window; an empty window has no reset."""
    quota = Quota(None, 600, fixed_window_seconds=10)
    assert quota.headers(0.0)["x-ratelimit-reset-tokens"] == "0s"
    assert quota.admit(100, 4.0) is None

    over = quota.admit(1, 4.0)

    assert over is not None
    assert (over.limit, over.used, over.wait) == (600, 600, 6.0)
    assert quota.headers(4.0)["x-ratelimit-remaining-tokens"] == "0"
    assert quota.headers(4.0)["x-ratelimit-reset-tokens"] == "6s"


@pytest.mark.parametrize("seconds", [{"bucket_seconds": 1}, {"fixed_window_seconds": 1}])
def test_used_can_be_of_the_small_bucket_only(seconds: dict[str, float]) -> None:
    """Used and requested tokens of a small bucket are far below the limit, and yet refused."""
    quota = Quota(None, 60_000, refused_share=0, used_of="bucket", **seconds)
    assert quota.admit(900, 0.0) is None

    over = quota.admit(400, 0.0)

    assert over is not None
    assert (over.limit, over.used, over.requested) == (60_000, 900, 400)


def test_the_wait_follows_the_published_sample() -> None:
    """The wait matches a recorded 429: 976163 used and 70716 requested of 1000000 give 2.812 s."""
    bucket = Bucket(1_000_000, refused_share=0)
    bucket.take(976_163, 0.0)

    assert bucket.take(70_716, 0.0) == pytest.approx(2.812, abs=1e-3)


def test_a_refused_request_counts_against_the_quota() -> None:
    """A retry before its time makes the wait longer."""
    bucket = Bucket(60, refused_share=0.5)
    bucket.take(50, 0.0)

    assert bucket.take(20, 0.0) == pytest.approx(20.0)
    assert bucket.used(0.0) == 60


def test_a_clock_that_goes_back_gives_nothing_back() -> None:
    """A clock that goes back returns no quota."""
    bucket = Bucket(60)
    bucket.take(60, 10.0)

    assert bucket.used(5.0) == 60
    assert bucket.used(11.0) == 59


def test_a_request_is_let_in_by_both_quotas_or_by_neither() -> None:
    """A request that one quota refuses takes nothing from the other."""
    quota = Quota(1, 1000, bucket_seconds=60, refused_share=0)
    assert quota.admit(10, 0.0) is None

    over = quota.admit(10, 0.0)

    assert over is not None
    assert (over.kind, over.limit, over.used, over.requested) == ("requests", 1, 1, 1)
    assert over.wait == pytest.approx(60)
    assert quota.buckets["tokens"].used(0.0) == 10


def test_without_limits_everything_passes() -> None:
    """Without limits everything is admitted, and there are no headers."""
    quota = Quota(None, None)

    assert quota.admit(10**9, 0.0) is None
    assert quota.headers(0.0) == {}


def test_a_short_bucket_tells_numbers_that_give_its_wait() -> None:
    """The numbers of a short bucket give its wait as (used + requested - limit) * 60 / limit."""
    quota = Quota(None, 60_000, bucket_seconds=1, refused_share=0)
    assert quota.admit(900, 0.0) is None

    over = quota.admit(400, 0.0)

    assert over is not None
    assert over.wait == pytest.approx((over.used + over.requested - over.limit) * 60 / over.limit)


def test_headers_tell_limit_remaining_and_reset() -> None:
    """The six headers are OpenAI's, with Go durations."""
    quota = Quota(600, 60_000)
    quota.admit(1500, 0.0)

    assert quota.headers(0.0) == {
        "x-ratelimit-limit-requests": "600",
        "x-ratelimit-limit-tokens": "60000",
        "x-ratelimit-remaining-requests": "599",
        "x-ratelimit-remaining-tokens": "58500",
        "x-ratelimit-reset-requests": "100ms",
        "x-ratelimit-reset-tokens": "1.5s",
    }


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (0.0001, "1ms"),
        (0.012, "12ms"),
        (0.9999, "1s"),
        (1.5, "1.5s"),
        (2.812, "2.812s"),
        (60, "1m0s"),
        (360, "6m0s"),
        (3661.25, "1h1m1.25s"),
    ],
)
def test_durations_are_written_as_go_does(seconds: float, text: str) -> None:
    """A duration is rounded up to milliseconds and written in Go's form."""
    assert go_duration(seconds) == text
