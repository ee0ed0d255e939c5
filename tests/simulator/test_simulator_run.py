"""The randomness of requests, computed without a server."""

import statistics
from typing import Any

import pytest

from langchain_batch_embed.simulator.run import Call, Run
from langchain_batch_embed.simulator.scenario import Scenario


def calls(count: int = 400, *, is_cold: bool = False, **options: Any) -> list[Call]:
    """Return the first requests of a run."""
    run = Run(Scenario(**options))
    return [run.arrive(on_new_connection=False, is_cold=is_cold) for _ in range(count)]


def test_the_server_takes_80_ms_and_7_ms_a_kilotoken_in_the_median() -> None:
    """The median server time is 80 ms and 7 ms for each 1,000 tokens.

    The lognormal factor has the median 1 and the sigma 0.85.
    """
    dealt = calls()
    for call in dealt:
        call.tokens = 10_000
    seconds = [call.server_seconds() for call in dealt]

    assert statistics.median(seconds) == pytest.approx(0.150, rel=0.15)
    assert max(seconds) > 4 * statistics.median(seconds)


@pytest.mark.parametrize(("is_cold", "connect"), [(False, 0.0), (True, 0.3)])
def test_the_network_takes_40_to_150_ms_and_a_new_connection_300_more(
    *, is_cold: bool, connect: float
) -> None:
    """The network takes 40 to 150 ms, drawn evenly, and a new connection 300 ms more."""
    seconds = [call.network_seconds - connect for call in calls(is_cold=is_cold)]

    assert min(seconds) == pytest.approx(0.040, abs=0.003)
    assert max(seconds) == pytest.approx(0.150, abs=0.003)


def test_latency_scales_everything() -> None:
    """Twice the latency option is twice the time of the same request."""
    for one, two in zip(calls(10), calls(10, latency=2.0), strict=True):
        assert two.server_seconds() == pytest.approx(2 * one.server_seconds())
        assert two.network_seconds == pytest.approx(2 * one.network_seconds)


def test_a_stalled_request_takes_20_times_as_long() -> None:
    """Stalls affect their share of the requests, which take 20 times as long."""
    factors = [
        round(stalled.network_seconds / normal.network_seconds)
        for normal, stalled in zip(calls(), calls(stall_probability=0.1), strict=True)
    ]

    assert set(factors) == {1, 20}
    assert 20 < factors.count(20) < 60


def test_how_long_a_stall_is_can_be_set() -> None:
    """A stalled request takes `stall_factor` times as long."""
    (normal,), (stalled,) = calls(1), calls(1, stall_probability=1.0, stall_factor=3.0)

    assert stalled.network_seconds == pytest.approx(3 * normal.network_seconds)
    assert stalled.server_seconds() == pytest.approx(3 * normal.server_seconds())


def test_a_slow_period_slows_the_latency() -> None:
    """A request that arrives in a slow period takes its factor times as long."""
    (normal,) = calls(1)
    (slow,) = calls(1, slow_periods=((0, 60, 4),))
    (before,) = calls(1, slow_periods=((30, 60, 4),))

    assert slow.network_seconds == pytest.approx(4 * normal.network_seconds)
    assert slow.server_seconds() == pytest.approx(4 * normal.server_seconds())
    assert before.network_seconds == normal.network_seconds


def test_luck_does_not_depend_on_faults() -> None:
    """The n-th request is equally slow with faults and without."""
    run = Run(Scenario(faults={"500": 0.5}))
    with_faults = [run.arrive(on_new_connection=False, is_cold=False) for _ in range(10)]

    assert [call.network_seconds for call in with_faults] == [
        call.network_seconds for call in calls(10)
    ]
