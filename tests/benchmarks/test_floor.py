"""The model of a client that costs nothing, against which the comparison's figures are judged."""

from dataclasses import replace

import pytest

from langchain_batch_embed.sending.work import Work
from langchain_batch_embed.simulator import Scenario
from langchain_batch_embed.simulator.run import Run
from tests.benchmarks.floor import equal_requests, run

FAR = Scenario(tier=5)
ROUNDS = range(20)


def work(count: int) -> Work:
    """Return work of this many requests of 5,000 tokens."""
    return equal_requests(count, tokens=5000, charge=5000)


def all_at_once(scenario: Scenario, count: int) -> float:
    """Return the seconds of a client that sends everything at once."""
    return run(scenario, work(count), max_workers=count, first_requests=count)[0]


def test_it_takes_as_long_as_the_slowest_answer() -> None:
    """With everything in flight at once, a run takes as long as the server's slowest answer."""
    luck = Run(FAR)
    calls = [luck.arrive(on_new_connection=True, is_cold=True) for _ in range(30)]
    for call in calls:
        call.tokens = 5000
    slowest = max(call.network_seconds + call.server_seconds() for call in calls)
    assert all_at_once(FAR, 30) == pytest.approx(slowest)


def test_finding_out_about_the_quota_takes_longer() -> None:
    """A client that first has to find out about the quota takes longer, summed over all rounds."""
    later = 0.0
    for seed in ROUNDS:
        scenario = replace(FAR, seed=seed)
        finding_out, _ = run(scenario, work(200), max_workers=200, first_requests=16)
        later += finding_out - all_at_once(scenario, 200)
    assert later > 0


def test_hedging_ends_earlier_and_keeps_its_share() -> None:
    """Hedging makes the rounds shorter in sum and sends at most 5 of 100 requests twice."""
    alone, hedged = 0.0, 0.0
    for seed in ROUNDS:
        scenario = replace(FAR, seed=seed)
        alone += all_at_once(scenario, 100)
        seconds, tally = run(scenario, work(100), max_workers=200, first_requests=200, hedge=True)
        hedged += seconds
        assert tally.hedged <= 5
    assert hedged < alone


def test_a_quota_that_is_too_small_is_an_error() -> None:
    """A quota that is too small for the scenario raises an error, not a wrong figure."""
    with pytest.raises(RuntimeError, match="quota is too small"):
        all_at_once(replace(FAR, tokens_per_minute=20_000), 30)
