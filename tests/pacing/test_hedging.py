"""Late requests are sent a second time, for a small share of the tokens."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_batch_embed.pacing.hedging import AFTER, SHARE, Hedges


def allowed(charge: float) -> Hedges:
    """Return the budget for copies of a call of this many tokens."""
    hedges = Hedges()
    hedges.allow(charge)
    return hedges


def test_before_any_answer_nothing_is_late() -> None:
    """Before any answer nothing is late, because the usual time is not known yet."""
    assert allowed(1000).patience(1) == math.inf


@pytest.mark.parametrize("order", [(1.0, 2.0, 9.0), (9.0, 1.0, 2.0)])
def test_late_is_what_takes_many_times_the_median(order: tuple[float, ...]) -> None:
    """A request is late after `AFTER` times the median of all answers, in whatever order they came.

    One answer that took far longer changes nothing.
    """
    hedges = allowed(1000)
    for seconds in order:
        hedges.answered(seconds)
    assert hedges.patience(20) == pytest.approx(2 * AFTER)


def test_nothing_is_late_while_not_all_in_flight_can_be_afforded() -> None:
    """Nothing is late while the budget does not cover all requests in flight.

    The budget is for the last ones, so it waits until only these are left.
    """
    hedges = allowed(1000)
    hedges.answered(2.0)
    assert hedges.patience(51) == math.inf
    assert hedges.patience(50) < math.inf
    hedges.spend(30)
    assert hedges.patience(21) == math.inf
    assert hedges.patience(20) < math.inf


def test_an_answer_as_slow_as_the_others_is_not_late() -> None:
    """A request that takes as long as the others is not late, so nothing is paid for twice."""
    hedges = allowed(1000)
    for seconds in (1.0, 1.1, 1.2):
        hedges.answered(seconds)
    assert hedges.patience(1) > 1.2


def test_the_shares_of_several_runs_add_up() -> None:
    """The budgets of several runs add up: two can afford a batch that one cannot."""
    hedges = allowed(1000)
    assert not hedges.affords(60)
    hedges.allow(1000)
    assert hedges.affords(60)


@given(st.lists(st.integers(1, 10_000), min_size=1, max_size=50))
def test_never_more_than_a_twentieth_is_paid_twice(charges: list[int]) -> None:
    """At most a twentieth of the tokens is paid for twice, whatever requests become late."""
    hedges, twice = Hedges(), 0
    for charge in charges:
        hedges.allow(charge)
    for charge in charges:
        if hedges.affords(charge):
            hedges.spend(charge)
            twice += charge
    assert SHARE == 0.05
    assert twice <= sum(charges) / 20
