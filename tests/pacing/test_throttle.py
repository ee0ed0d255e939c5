"""The pause after a rate-limit refusal."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_batch_embed.pacing.throttle import BACKOFF, LOOK_AGAIN, STARVED, Throttle
from langchain_batch_embed.pacing.which_quota import LEAST_QUOTA


def always(luck: float) -> Throttle:
    """Return a throttle whose random numbers are all the same."""
    return Throttle(lambda: luck)


def test_the_first_pause_is_what_the_server_asks_for() -> None:
    """The first pause is the server's `Retry-After`, to the second."""
    throttle = always(1.0)
    assert throttle.refused(sent=0, now=1, after=5)
    assert throttle.delay(1) == 5
    assert throttle.delay(4) == 2
    assert throttle.delay(6) == 0


def test_without_a_word_the_pause_is_an_exponential_backoff() -> None:
    """Without a hint from the server, each refusal after a pause doubles it up to 10 s."""
    throttle, now, pauses = always(1.0), 0.0, []
    for _ in range(8):
        throttle.refused(sent=now, now=now, after=None)
        pauses.append(throttle.delay(now))
        now += pauses[-1] + 0.001
    assert pauses == pytest.approx([0.5, 1.0, 2.0, 4.0, 8.0, 10.0, 10.0, 10.0])


def test_requests_that_were_in_flight_together_count_as_one() -> None:
    """Ten refusals of requests in flight together make one pause, as long as the last one asks."""
    throttle = always(1.0)
    begins = [throttle.refused(sent=0, now=1 + i / 100, after=1) for i in range(10)]
    assert begins == [True] + [False] * 9
    assert throttle.in_a_row == 1
    assert throttle.delay(1.09) == pytest.approx(1)


def test_a_hint_that_was_wrong_is_not_believed_alone() -> None:
    """From the second refusal in a row on, a pause is at least as long as the backoff.

    A second refusal shows that the server's hint was wrong.
    """
    throttle, now = always(1.0), 0.0
    for _ in range(6):
        throttle.refused(sent=now, now=now, after=0.0)
        now += throttle.delay(now) + 0.001
    throttle.refused(sent=now, now=now, after=0.0)
    assert throttle.delay(now) == BACKOFF.longest


def test_an_answer_after_the_pause_begins_the_backoff_again() -> None:
    """An answer to a request sent after the pause resets the backoff.

    An answer to an earlier request does not, since it says nothing about the pause.
    """
    throttle = always(1.0)
    throttle.refused(sent=0, now=1, after=None)
    throttle.refused(sent=2, now=3, after=None)
    throttle.answered(sent=2.5)
    assert throttle.in_a_row == 2
    throttle.answered(sent=4)
    assert throttle.in_a_row == 0


def test_a_long_pause_is_looked_at_each_minute() -> None:
    """During a long pause a probe is due each minute, as the server's hint may be out of date."""
    throttle = always(1.0)
    throttle.refused(sent=0, now=0, after=3600)
    assert throttle.delay(1) == 3599
    assert throttle.delay_of_probe(1) == LOOK_AGAIN - 1
    throttle.refused(sent=LOOK_AGAIN, now=LOOK_AGAIN, after=3540)
    assert throttle.delay_of_probe(LOOK_AGAIN) == LOOK_AGAIN


@given(
    st.lists(
        st.tuples(st.floats(0, 10), st.floats(0, 10), st.one_of(st.none(), st.floats(0, 100))),
        max_size=20,
    )
)
def test_no_pause_is_longer_than_it_has_a_reason_to_be(
    refusals: list[tuple[float, float, float | None]],
) -> None:
    """No pause exceeds the longest hint or the longest backoff, and every pause ends."""
    throttle, now = always(1.0), 0.0
    hints = [0.0]
    for step, age, after in refusals:
        now += step
        throttle.refused(sent=now - age, now=now, after=after)
        hints.append(after or 0.0)
        assert throttle.delay(now) <= max(BACKOFF.longest, *hints) + 1e-9
        assert throttle.delay_of_probe(now) <= throttle.delay(now)
    assert throttle.delay(now + throttle.delay(now) + 1e-6) == 0


@pytest.mark.parametrize(
    ("charge", "pauses"),
    [
        pytest.param(LEAST_QUOTA, [20.0, 40.0, 60.0, 60.0], id="the longest text"),
        pytest.param(LEAST_QUOTA // 2, [20.0, 30.0, 30.0, 30.0], id="a text of half of that"),
        pytest.param(100, [BACKOFF.longest] * 4, id="a short text, which is charged too little"),
        pytest.param(LEAST_QUOTA + 1, [BACKOFF.longest] * 4, id="a batch that can be cut"),
    ],
)
def test_where_nothing_is_accepted_pauses_grow_to_what_the_text_needs(
    charge: int, pauses: list[float]
) -> None:
    """After `STARVED` seconds without an answer, a pause lasts as long as the text needs.

    Otherwise a server that charges refused requests would never accept it. An answer ends that.
    """
    throttle, now = always(1.0), 0.0
    while now <= STARVED:
        throttle.refused(sent=now, now=now, after=None, charge=charge)
        assert throttle.paused <= BACKOFF.longest
        now += throttle.paused + 0.001
    grown = []
    for _ in pauses:
        throttle.refused(sent=now, now=now, after=None, charge=charge)
        grown.append(throttle.paused)
        now += throttle.paused + 0.001
    assert grown == pytest.approx(pauses, abs=0.01)
    throttle.answered(now)
    throttle.refused(sent=now + 1, now=now + 1, after=None, charge=charge)
    assert throttle.paused == BACKOFF.first
