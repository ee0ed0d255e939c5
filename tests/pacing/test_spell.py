"""How many requests to send together after a spell of failures."""

import pytest

from langchain_batch_embed.pacing.spell import LONG_OUTAGE, ROOM, Spell


def opened(together: int = 16) -> Spell:
    """Return a spell of a server that worked on this many requests together."""
    spell = Spell()
    spell.answered(0.0, together=together, was_away=False)
    return spell


def test_after_an_outage_the_number_is_what_it_was_before() -> None:
    """After an outage the number is that of the first failure, not one that later failures left."""
    spell = opened()
    spell.failed(16.0, 1.0)
    spell.failed(5.0, 2.0)
    assert spell.answered(3.0, together=1, was_away=True) == 16.0


@pytest.mark.parametrize(
    ("at_most", "number"),
    [
        pytest.param(16 // ROOM, 16.0, id="far fewer than it worked on before"),
        pytest.param(16 // ROOM + 1, None, id="enough for a limit on their number"),
    ],
)
def test_a_refusal_with_room_is_not_about_the_number(at_most: int, number: float | None) -> None:
    """A server that refuses a request although it has room does not limit the number in flight.

    So the number of before the refusals is right. Otherwise they show a limit, which stays.
    """
    spell = opened(together=16)
    spell.failed(16.0, 1.0)
    spell.refused(20)
    spell.failed(9.0, 3.0)
    spell.refused(at_most)
    assert spell.answered(3.0, together=1, was_away=False) == number


def refused_alone(*, first: float = 1.0, last: float = 4.0) -> Spell:
    """Return a spell whose first and last requests were refused half a second after sending."""
    spell = opened()
    for now in (first, last):
        spell.failed(16.0, now)
        spell.refused(1)
    return spell


def test_an_answer_to_an_earlier_request_does_not_end_the_spell() -> None:
    """An answer to a request sent before the first failure came does not end the spell.

    It may have overtaken the request that failed.
    """
    spell = refused_alone(first=1.0)
    assert spell.answered(0.9, together=3, was_away=False) is None
    assert spell.answered(4.0, together=1, was_away=False) == 16.0


def test_a_server_that_answers_between_refusals_is_not_away() -> None:
    """A server that answers one of the requests sent between two refusals limits something."""
    spell = refused_alone()
    assert spell.answered(2.0, together=1, was_away=False) is None
    assert spell.answered(4.0, together=1, was_away=False) is None


def test_a_short_spell_may_be_a_rate() -> None:
    """A server that refuses single requests for less than two seconds may limit the rate."""
    spell = refused_alone(last=0.9 + LONG_OUTAGE)
    assert spell.answered(4.0, together=1, was_away=False) is None


def test_a_spell_ends_once() -> None:
    """The second answer after a spell has nothing to return to."""
    spell = refused_alone()
    assert spell.answered(4.0, together=1, was_away=False) == 16.0
    assert spell.answered(4.0, together=1, was_away=False) is None


def test_after_a_time_out_the_number_stays_lowered() -> None:
    """A time-out means that the server works, but too slowly for the number of before."""
    spell = opened()
    spell.failed(16.0, 1.0)
    spell.timed_out()
    assert spell.answered(2.0, together=1, was_away=True) is None
