"""How large a batch may be, estimated from how long earlier answers took."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_batch_embed.sending.answer_times import GROWTH, AnswerTimes


def after(
    answers: int,
    *,
    base: float,
    slope: float,
    number: int = 1,
    spread: float = 0.0,
    work: tuple[float, float] = (500, 1_000),
) -> AnswerTimes:
    """Return the estimate after answers of random sizes that take `base + slope * work` each."""
    dice = random.Random(0)
    times = AnswerTimes()
    for _ in range(answers):
        size = dice.uniform(*work)
        luck = math.exp(dice.gauss(0, spread))
        times.note(size, number * (base + slope * size) * luck, number)
    return times


def test_before_the_first_answer_nothing_is_known() -> None:
    """Before the first answer the size of a batch is not limited."""
    assert AnswerTimes().work_within(1.0) == math.inf
    assert AnswerTimes().usual == 0


def test_one_answer_is_taken_for_proportional() -> None:
    """After one answer, a batch of ten times the work is expected to take ten times as long."""
    times = AnswerTimes()
    times.note(100, 1.0, 1)
    assert times.work_within(10.0) == pytest.approx(1_000)
    assert times.work_within(1_000.0) == GROWTH * 100


def test_the_part_that_does_not_grow_is_left_out_of_the_slope() -> None:
    """At 2 s a request plus 1 ms a token, 10 s are enough for 8,000 tokens."""
    times = after(100, base=2.0, slope=0.001, work=(2_000, 6_000))
    assert times.work_within(10.0) == pytest.approx(8_000, rel=0.01)


def test_requests_in_a_line_take_their_share_each() -> None:
    """Each of four requests in a line may use a quarter of the time."""
    times = after(100, base=0.0, slope=0.001, number=4, work=(2_000, 6_000))
    assert times.work_within(10.0, number=4) == pytest.approx(2_500, rel=0.01)
    assert times.work_within(10.0, number=2) == pytest.approx(5_000, rel=0.01)


@pytest.mark.parametrize("spread", [0.0, 0.3, 0.85])
def test_where_each_request_takes_long_batches_do_not_shrink(spread: float) -> None:
    """Batches stay large where eight in a line take 2.5 s each whatever their size.

    Smaller ones would be answered no sooner.
    """
    dice = random.Random(1)
    times, work = AnswerTimes(), 500.0
    for _ in range(100):
        luck = math.exp(dice.gauss(-(spread**2) / 2, spread))
        size = work * dice.uniform(0.6, 1.0)
        times.note(size, 8 * (2.5 + 7e-6 * size) * luck, 8)
        work = min(200_000.0, times.work_within(10.0, number=8))
    assert work >= 20_000


def test_noise_is_not_taken_for_a_slope() -> None:
    """Random delays that do not depend on the size of a batch rarely make batches smaller.

    Each request takes 2.5 s, and now and then five times as much, whatever its size.
    """
    held_back = 0
    for seed in range(40):
        dice = random.Random(seed)
        times = AnswerTimes()
        for _ in range(40):
            luck = math.exp(dice.gauss(0, 0.85))
            times.note(dice.uniform(500, 1_000), 2.5 * luck, 1)
        held_back += times.work_within(5.0) < 3_000
    assert held_back <= 4


def test_where_time_is_in_proportion_batches_shrink_until_they_are_in_time() -> None:
    """Where the time is proportional to the tokens, batches shrink until they take 10 s.

    A processor takes 0.6 ms a token here, with eight requests in a line.
    """
    times, work = AnswerTimes(), 20_000.0
    for _ in range(60):
        times.note(work, 8 * 0.0006 * work, 8)
        work = times.work_within(10.0, number=8)
    assert 8 * 0.0006 * work == pytest.approx(10.0, rel=0.1)


def test_a_server_that_has_become_slower_is_noticed() -> None:
    """The estimate forgets older answers, so it follows a server that has become slower."""
    times = after(100, base=0.1, slope=0.0001, work=(2_000, 6_000))
    before = times.work_within(10.0)
    for size in (2_000.0, 4_000.0, 6_000.0) * 40:
        times.note(size, 0.1 + 0.001 * size, 1)
    assert before > 20_000  # far beyond any size that was tried
    assert times.work_within(10.0) == pytest.approx(9_900, rel=0.15)


def test_a_first_answer_that_took_no_time_is_soon_forgotten() -> None:
    """A first answer that took no time has little effect after 60 answers at 1 ms a token.

    Such an answer comes out of a cache, or the clock is coarse.
    """
    times = AnswerTimes()
    times.note(1_000, 0.0, 1)
    for _ in range(60):
        times.note(1_000, 1.0, 1)
    assert times.work_within(10.0) == pytest.approx(10_000, rel=0.2)


def test_one_answer_that_stalls_changes_little() -> None:
    """One stalled answer after a hundred others does not halve the allowed size.

    It weighs as much as one in about thirty, and counts as at most four times the expected time.
    """
    times = after(100, base=0.1, slope=0.001, work=(2_000, 6_000))
    usual = times.work_within(10.0)
    times.note(4_000, 400.0, 1)
    assert times.work_within(10.0) > usual / 2


@given(
    st.lists(
        st.tuples(
            st.floats(0, 1e7), st.floats(0, 1e5, allow_subnormal=False), st.integers(0, 1_000)
        ),
        min_size=1,
        max_size=50,
    ),
    st.floats(0.001, 1e4),
    st.none() | st.integers(1, 1_000),
)
def test_it_is_always_a_size(
    answers: list[tuple[float, float, int]], seconds: float, number: int | None
) -> None:
    """The allowed size is always between half the smallest answer and 16 times the largest.

    This holds whatever was measured.
    """
    times = AnswerTimes()
    for answer in answers:
        times.note(*answer)
    sizes = [max(1.0, work) for work, _, _ in answers]
    found = times.work_within(seconds, number)
    assert min(sizes) / 2 * 0.999 <= found <= GROWTH * max(sizes)
