"""A server that refuses a share of all requests, however slowly they are sent."""

import math

from langchain_batch_embed.pacing.erratic import PASSED, PAUSES, TOLD, Erratic


def slowed_down(passed: int = 2, factor: float = 2.0) -> Erratic:
    """Return the state after `PAUSES` pauses, each with a rate lower by the factor."""
    erratic = Erratic()
    for pause in range(PAUSES):
        erratic.paused(100.0 / factor**pause, passed, 1.0)
    return erratic


def test_refusals_as_often_at_a_far_lower_rate_are_random() -> None:
    """A server that refuses as often at a far lower rate refuses at random.

    A quota would refuse hardly anything below its rate.
    """
    assert slowed_down().is_random


def test_long_runs_without_a_refusal_are_not_random() -> None:
    """If many requests pass between refusals at a lower rate, the cause is the rate, not chance."""
    assert not slowed_down(passed=PASSED).is_random


def test_a_rate_that_is_kept_tells_nothing() -> None:
    """Refusals at a nearly constant rate do not count as random.

    A quota of small windows refuses the second of two requests, whatever the mean rate.
    """
    assert not slowed_down(factor=1.1).is_random


def test_one_long_refusal_is_a_quota() -> None:
    """Refusals with nothing passed in between count as a quota that is used up for a while."""
    assert not slowed_down(passed=0).is_random


def test_the_first_pause_has_no_rate() -> None:
    """The first pause gives no rate, because what passed before it came out of a full bucket."""
    erratic = Erratic()
    erratic.paused(None, 60, math.inf)
    for _ in range(PAUSES):
        erratic.paused(1.0, 2, 1.0)
    assert not erratic.is_random


def test_a_rate_that_was_not_measured_is_what_passed() -> None:
    """Without a measured rate, the rate is what passed, so an early fast decline is noticed."""
    erratic = Erratic()
    for pause in range(PAUSES):
        erratic.paused(None, 2, 0.1 * 2**pause)
    assert erratic.is_random


def test_more_refusals_of_what_is_sent_faster_are_a_quota_after_all() -> None:
    """If faster sending is refused more often, random refusals become a quota after 10 requests.

    It takes twice as many pauses to call them random again.
    """
    erratic = slowed_down()
    refusals = 0
    while erratic.is_random and refusals < 100:
        erratic.refused(in_flight=0)
        refusals += 1
    assert refusals == 10
    for pause in range(PAUSES):
        erratic.paused(100.0 / 2**pause, 2, 1.0)
    assert not erratic.is_random
    for pause in range(PAUSES, 2 * PAUSES):
        erratic.paused(100.0 / 2**pause, 2, 1.0)
    assert erratic.is_random


def test_a_share_that_grows_is_a_quota_too() -> None:
    """If the share of refused requests grows, the server has a quota after all.

    The first ten requests pass, and then four of five are refused.
    """
    erratic = slowed_down()
    for _ in range(10):
        erratic.passed(in_flight=0)
    requests = 0
    while erratic.is_random and requests < 200:
        erratic.refused(in_flight=0)
        requests += 1
        if requests % 5 == 0:
            erratic.passed(in_flight=0)
    assert 20 < requests < 100


def test_a_server_that_says_how_long_is_believed_longer() -> None:
    """Refusals that announce a wait count as random only after `TOLD` pauses.

    Such a server is more likely to have a quota.
    """
    erratic = Erratic()
    for pause in range(TOLD - 1):
        erratic.paused(100.0 / 2**pause, 2, 1.0, is_told=True)
    assert not erratic.is_random
    erratic.paused(0.01, 2, 1.0, is_told=True)
    assert erratic.is_random


def test_a_burst_of_refusals_is_no_quota() -> None:
    """A burst of refusals among 64 requests in flight is no quota.

    The refused half comes back first.
    """
    erratic = slowed_down()
    for left in range(64, 32, -1):
        erratic.refused(in_flight=left)
    for left in range(32, 0, -1):
        erratic.passed(in_flight=left)
    assert erratic.is_random
