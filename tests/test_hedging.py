"""Late answers are asked for a second time, for a small share of the tokens."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_batch_embed.hedging import AFTER, LAST_AFTER, SHARE, Hedges


def allowed(charge: float) -> Hedges:
    """Return what a call of so many tokens may spend."""
    hedges = Hedges()
    hedges.allow(charge)
    return hedges


def test_before_any_answer_nothing_is_late() -> None:
    """How long a request takes is not known yet."""
    assert allowed(1000).patience(1) == math.inf


@pytest.mark.parametrize("order", [(1.0, 2.0, 9.0), (9.0, 1.0, 2.0)])
def test_late_is_what_takes_many_times_the_median(order: tuple[float, ...]) -> None:
    """Also where one answer took far longer than the others, and in whatever order they came."""
    hedges = allowed(1000)
    for seconds in order:
        hedges.answered(seconds)
    assert hedges.patience(1000) == pytest.approx(2 * AFTER)


def test_the_last_requests_are_late_sooner() -> None:
    """Namely when all that are in flight may be sent again."""
    hedges = allowed(1000)
    hedges.answered(2.0)
    assert hedges.patience(51) == pytest.approx(2 * AFTER)
    assert hedges.patience(50) == pytest.approx(2 * LAST_AFTER)
    hedges.spend(30)
    assert hedges.patience(21) == pytest.approx(2 * AFTER)
    assert hedges.patience(20) == pytest.approx(2 * LAST_AFTER)


def test_what_takes_as_long_as_the_others_is_not_late() -> None:
    """Not at the end either: where answers are even, nothing is paid twice."""
    hedges = allowed(1000)
    for seconds in (1.0, 1.1, 1.2):
        hedges.answered(seconds)
    assert hedges.patience(1) > 1.2


def test_what_several_runs_may_spend_adds_up() -> None:
    """A batch that is too much for one run's share may still be late."""
    hedges = allowed(1000)
    assert not hedges.affords(60)
    hedges.allow(1000)
    assert hedges.affords(60)


@given(st.lists(st.integers(1, 10_000), min_size=1, max_size=50))
def test_never_more_than_a_twentieth_is_paid_twice(charges: list[int]) -> None:
    """Whatever the requests are charged, and in whatever order they become late."""
    hedges, twice = Hedges(), 0
    for charge in charges:
        hedges.allow(charge)
    for charge in charges:
        if hedges.affords(charge):
            hedges.spend(charge)
            twice += charge
    assert SHARE == 0.05
    assert twice <= sum(charges) / 20
