"""Statistics of several round trips."""

import math
import random

import pytest

from langchain_batch_embed.pacing.round_trips import (
    Round,
    Trip,
    came_one_by_one,
    came_together,
)


def trips(*ends: float, seconds: float = 1.0) -> list[Trip]:
    """Return round trips of equal length, for 100 tokens each, that ended at these times."""
    return [Trip(seconds=seconds, work=100.0, end=end) for end in ends]


def test_one_stalled_answer_does_not_change_the_middle() -> None:
    """One stalled answer does not change the middle, which is a median."""
    usual = [Trip(seconds=0.2, work=100.0, end=n / 10) for n in range(8)]
    stalled = [*usual, Trip(seconds=20.0, work=100.0, end=20.0)]
    assert Round.of(stalled, number=4).middle == Round.of(usual, number=4).middle == math.log(0.2)


def test_work_is_counted_between_the_first_and_the_last_answer() -> None:
    """The rate counts work between the first and last answer, and is infinite if these coincide.

    Here there are four intervals of 0.5 s with 100 tokens each.
    """
    assert Round.of(trips(1.0, 1.5, 2.0, 2.5, 3.0), number=2).rate == pytest.approx(200)
    assert Round.of(trips(1.0, 1.0), number=2).rate == math.inf


def test_equal_round_trips_have_no_error() -> None:
    """Equal round trips have no error.

    Otherwise it shrinks with the square root of their number.
    """
    assert Round.of(trips(1.0, 2.0, 3.0), number=1).error == 0
    few = [Trip(seconds=each, work=1.0, end=each) for each in (1.0, math.e)]
    assert Round.of(few, number=1).error == pytest.approx(1.25 * 0.5 / math.sqrt(2))
    assert Round.of(few * 4, number=1).error == pytest.approx(1.25 * 0.5 / math.sqrt(8))


@pytest.mark.parametrize(
    ("ends", "together"), [((1.0, 1.1, 1.2), True), ((1.0, 2.0, 3.0), False), ((1.0, 1.0), True)]
)
def test_answers_of_a_line_do_not_come_together(ends: tuple[float, ...], together: bool) -> None:
    """Answers of a line do not come together: each takes its time after the one before."""
    assert came_together(trips(*ends)) is together


@pytest.mark.parametrize(
    ("seconds", "one_by_one"),
    [
        pytest.param((1.0, 2.0, 3.0, 4.0), True, id="one worker"),
        pytest.param((4.0, 1.0, 3.0, 2.0), True, id="in any order"),
        pytest.param((1.0, 1.8, 2.9, 3.8), True, id="one worker, a little uneven"),
        pytest.param((1.0, 6.0, 11.0, 16.0), True, id="a gateway that delays requests"),
        pytest.param((1.0, 1.4, 1.8, 2.2), False, id="several at a time"),
        pytest.param((1.0, 2.0, 2.1, 3.1), False, id="two of them together"),
        pytest.param((1.0, 8.0, 9.0, 10.0), False, id="a fast first answer"),
        pytest.param((1.0, 1.0, 1.0, 1.0), False, id="no queue"),
    ],
)
def test_round_trips_of_a_queue_grow_in_even_steps(
    seconds: tuple[float, ...], one_by_one: bool
) -> None:
    """Answers came one by one if round trips grow in even steps of a round trip or more."""
    queued = [Trip(seconds=each, work=100.0, end=each) for each in seconds]
    assert came_one_by_one(queued) is one_by_one


def test_requests_sent_one_after_another_are_no_queue() -> None:
    """Requests that were sent one after another show no queue, however evenly answers come."""
    assert not came_one_by_one(trips(1.0, 2.0, 3.0, 4.0))


def test_all_of_eight_answers_rarely_come_one_by_one_by_chance() -> None:
    """Round trips of a hosted API look like a queue once in 300 times, the first four in ten."""
    dice, share = random.Random(0), {4: 0, 8: 0}
    for _ in range(20_000):
        ends = sorted(dice.lognormvariate(0.0, 0.85) for _ in range(8))
        answers = [Trip(seconds=end, work=1.0, end=end) for end in ends]
        for count in share:
            share[count] += came_one_by_one(answers[:count])
    assert 8 < 20_000 / share[4] < 12
    assert 200 < 20_000 / share[8] < 400
