"""Whether rounds of round trips differ by more than chance."""

import math

import pytest

from langchain_batch_embed.pacing.comparisons import (
    has_grown,
    is_better_with_fewer,
    is_better_with_more,
    is_near,
    slowdown,
)
from langchain_batch_embed.pacing.round_trips import Round


def a_round(
    number: float,
    *,
    seconds: float = 0.3,
    work: float = 600,
    error: float = 0.1,
    rate: float = 1000.0,
) -> Round:
    """Return the statistics of a round, with its median round trip and median work."""
    return Round(
        number=number, middle=math.log(seconds), work=math.log(work), error=error, rate=rate
    )


@pytest.mark.parametrize(
    ("seconds", "error", "near"),
    [
        (0.01, 0.1, True),
        (0.07, 0.1, True),
        (0.07, 0.3, False),
        (0.01, 0.3, True),
        (0.1, 0.1, False),
    ],
)
def test_a_server_is_near_if_round_trips_are_short(
    seconds: float, error: float, near: bool
) -> None:
    """Below 80 ms a server is near, below 25 ms even if round trips vary much."""
    assert is_near(a_round(8, seconds=seconds, error=error)) is near


def test_larger_requests_may_take_longer_in_proportion() -> None:
    """Round trips are slower only by what the work of the requests does not explain."""
    first = a_round(8, seconds=0.1, work=600)
    assert slowdown(a_round(8, seconds=0.4, work=2_400), first) == pytest.approx(0)
    assert slowdown(a_round(8, seconds=0.4, work=600), first) == pytest.approx(math.log(4))


@pytest.mark.parametrize(
    ("seconds", "error", "grown"), [(1.2, 0.1, True), (1.2, 0.5, False), (0.5, 0.1, False)]
)
def test_round_trips_grow_where_requests_queue(seconds: float, error: float, grown: bool) -> None:
    """Four times as many requests that take four times as long queue, unless chance explains it."""
    last = a_round(8, seconds=0.3, error=error)
    assert has_grown(a_round(32, seconds=seconds, error=error), last) is grown


def test_more_requests_have_to_get_more_done() -> None:
    """Twice the requests are better only if they get clearly more work done per second."""
    last = a_round(4, rate=1000)
    assert is_better_with_more(a_round(8, rate=1900), last)
    assert not is_better_with_more(a_round(8, rate=1100), last)


def test_a_change_of_size_speaks_for_more_requests() -> None:
    """If smaller or larger requests may explain a difference, more requests are kept."""
    last = a_round(8, seconds=0.4, work=600, rate=1000)
    assert is_better_with_more(a_round(16, work=300, rate=1000), last)
    larger = a_round(4, seconds=0.2, work=1_800, rate=1200)
    assert not is_better_with_fewer(larger, last, at_start=False)


def test_fewer_requests_have_to_get_as_much_done_in_shorter_round_trips() -> None:
    """Fewer requests are better if a shorter queue gets the same work done.

    Otherwise less work, or chance where round trips vary, would lower the number.
    """
    last = a_round(8, seconds=0.4, rate=1000)
    assert is_better_with_fewer(a_round(4, seconds=0.2, rate=1000), last, at_start=False)
    assert not is_better_with_fewer(a_round(4, seconds=0.2, rate=500), last, at_start=False)
    assert not is_better_with_fewer(a_round(4, seconds=0.4, rate=1000), last, at_start=False)
    assert not is_better_with_fewer(
        a_round(4, seconds=0.2, rate=1000, error=0.4), last, at_start=False
    )


def test_next_door_round_trips_need_not_become_shorter_at_first() -> None:
    """Where this process is the bottleneck, even round trips only have to get the work done."""
    last = a_round(8, seconds=0.01, rate=1000)
    assert is_better_with_fewer(a_round(4, seconds=0.01, rate=1000), last, at_start=True)
