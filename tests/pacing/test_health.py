"""Whether a server is reachable: a circuit breaker."""

import socket

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_batch_embed.pacing.diagnosis import Kind, diagnose
from langchain_batch_embed.pacing.health import DOWN_AFTER, FIRST_CONTACT, PROBES, Health

PATIENCE = 600.0


def health() -> Health:
    """Return a `Health` whose random numbers are all 1."""
    return Health(PATIENCE, lambda: 1.0)


def down(now: float = 0.0, *, answered: bool = True) -> Health:
    """Return the state of a server that went away at this time."""
    state = health()
    if answered:
        state.answered(now, now)
    for _ in range(DOWN_AFTER):
        state.failed(sent=now, now=now)
    assert state.is_down
    return state


def test_a_server_is_away_after_failures_without_an_answer_in_between() -> None:
    """A server counts as away after `DOWN_AFTER` failures in a row, as fewer may be bad luck."""
    state = health()
    state.answered(1, 1)
    for failures in range(1, DOWN_AFTER + 1):
        state.failed(sent=2, now=3)
        assert state.is_down == (failures == DOWN_AFTER)


def test_a_failure_of_what_was_sent_before_an_answer_says_nothing() -> None:
    """Failures of requests sent before the last answer do not count.

    The server has answered others since.
    """
    state = health()
    state.answered(5, 5)
    for _ in range(10):
        state.failed(sent=4, now=6)
    assert (state.failures, state.is_down) == (0, False)


def test_an_answer_in_between_begins_the_count_again() -> None:
    """An answer resets the count: a server that answers every third request is not away."""
    state = health()
    for now in range(0, 100, 3):
        state.failed(sent=now, now=now)
        state.failed(sent=now + 1, now=now + 1)
        state.answered(now + 2, now + 2)
        assert not state.is_down


def test_probes_are_ever_further_apart_up_to_five_seconds() -> None:
    """The time between probes doubles up to 5 s.

    Work therefore goes on within 5 s of the server's return.
    """
    state, now, delays = down(), 0.0, []
    for _ in range(8):
        delays.append(state.delay(now))
        now += delays[-1]
        assert state.delay(now) == 0
        assert state.is_probe(now)
        state.failed(sent=now, now=now)
    assert delays == [0.5, 1.0, 2.0, 4.0, 5.0, 5.0, 5.0, 5.0]
    assert PROBES.longest == 5.0


def test_what_was_sent_before_the_outage_is_no_probe() -> None:
    """The failure of a request sent before the outage does not put off the next probe."""
    state = health()
    state.answered(0, 0)
    for now in (10, 11, 12):
        state.failed(sent=now, now=now)
    assert not state.is_probe(9)
    before = state.delay(12)
    state.failed(sent=9, now=12)
    assert state.delay(12) == before


def test_the_first_answer_ends_the_outage_for_everybody() -> None:
    """The first answer ends the outage for all calls, even one to a request sent before it."""
    state = down()
    state.answered(-1, 100)
    assert (state.is_down, state.failures, state.delay(100), state.away_for(100)) == (
        False,
        0,
        0.0,
        0.0,
    )


def test_the_latest_answered_request_is_the_one_sent_last() -> None:
    """A late answer to an early request does not hide that a later one was answered."""
    state = health()
    state.answered(5, 6)
    state.answered(1, 7)
    assert (state.answered_sent, state.answered_at) == (5, 7)


def test_an_outage_of_minutes_is_waited_out() -> None:
    """A server that is away is given up after the time that the user allows, and not before."""
    state = down(now=100.0)
    assert not state.gives_up(100 + PATIENCE - 1, unreachable=True)
    assert state.gives_up(100 + PATIENCE, unreachable=True)


def test_the_time_counts_from_when_it_began_to_fail() -> None:
    """An outage counts from its first failure, not from the last answer.

    A caller that sends nothing for an hour has not seen an outage of an hour.
    """
    state = health()
    state.answered(0, 0)
    for _ in range(DOWN_AFTER):
        state.failed(sent=3600, now=3601)
    assert state.away_for(3601) == 1
    assert not state.gives_up(3601, unreachable=True)


def test_an_address_that_never_answered_is_given_up_soon() -> None:
    """An address that never answered is given up after `FIRST_CONTACT`, since it may be wrong."""
    state = down(answered=False)
    assert not state.gives_up(FIRST_CONTACT - 1, unreachable=True)
    assert state.gives_up(FIRST_CONTACT, unreachable=True)


def test_a_server_that_answers_with_errors_is_there() -> None:
    """An address that answers with errors is not given up early, because it speaks HTTP."""
    state = down(answered=False)
    assert not state.gives_up(FIRST_CONTACT, unreachable=False)


def test_less_patience_than_for_a_first_contact_is_kept() -> None:
    """A patience of 5 s, shorter than the one for a first contact, is kept."""
    state = Health(5.0, lambda: 1.0)
    for _ in range(DOWN_AFTER):
        state.failed(sent=0, now=0)
    assert state.gives_up(5, unreachable=True)


@pytest.mark.parametrize("answered", [True, False])
@given(luck=st.floats(0, 1), took=st.floats(0, 30))
def test_every_outage_ends(answered: bool, luck: float, took: float) -> None:
    """Every outage ends within the patience plus one probe, with any luck and any probe time.

    The patience is shorter for a server that never answered. `DOWN_AFTER` failures show an outage.
    """
    state, now = Health(PATIENCE, lambda: luck), 0.0
    if answered:
        state.answered(0, 0)
    patience = PATIENCE if answered else FIRST_CONTACT
    for _ in range(1000):
        now += state.delay(now)
        sent, now = now, now + took
        state.failed(sent, now)
        if state.gives_up(now, unreachable=True):
            break
    assert patience <= now <= max(patience + PROBES.longest + took, DOWN_AFTER * took)


class TestFirstContact:
    """A server that never answered is given up early only if it could never be reached."""

    @pytest.mark.parametrize(
        ("error", "reached"),
        [
            (ConnectionRefusedError("refused"), False),
            (socket.gaierror("name or service not known"), False),
            (ConnectionResetError("reset by peer"), True),
            (BrokenPipeError("broken"), True),
            (httpx.ReadError("reset"), True),
            (httpx.RemoteProtocolError("server disconnected without sending a response"), True),
            (httpx.ConnectError("all connection attempts failed"), False),
        ],
    )
    def test_a_connection_that_broke_shows_that_the_address_is_right(
        self, error: Exception, reached: bool
    ) -> None:
        """A broken connection shows that the address is right.

        A refused connection or an unknown name does not.
        """
        found = diagnose(error)
        assert found.kind is Kind.UNREACHABLE
        assert found.reached is reached

    @pytest.mark.parametrize(("reached", "patience"), [(False, FIRST_CONTACT), (True, 600.0)])
    def test_the_patience_is_that_of_an_outage_once_it_was_reached(
        self, reached: bool, patience: float
    ) -> None:
        """Once the server was reached, the full patience applies, even before its first answer."""
        state = health()
        state.was_reached = reached
        assert state.patience_for(unreachable=True) == patience
