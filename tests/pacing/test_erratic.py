"""A server that refuses a share of all requests, however few and slowly they are sent."""

import pytest

from langchain_batch_embed.pacing.erratic import (
    CONFIRMED,
    CONTRADICTIONS,
    FORGOTTEN,
    TOLD,
    TRIAL,
    Erratic,
)
from langchain_batch_embed.pacing.ticket import Ticket


def ticket(sent: float, *, charge: int = 100, number: int = 1, quiet: float = 1.0) -> Ticket:
    """Return a request that was sent after a quiet time."""
    return Ticket(
        charge=charge,
        work=charge,
        sent=sent,
        ended_tokens=0,
        ended_requests=0,
        number=number,
        quiet=quiet,
    )


class Driver:
    """Sends one request at a time, of 100 tokens and 10 ms.

    A refusal at the beginning and eleven requests that pass in the second after it show at least
    ten requests a second.
    """

    def __init__(self) -> None:
        self.erratic = Erratic()
        self.now = 0.0
        self.refuse()
        for _ in range(11):
            self.passes(quiet=0.09)

    def passes(self, *, quiet: float = 1.0, number: int = 1, charge: int = 100) -> None:
        """Send a request that passes."""
        self.now += quiet
        sent = ticket(self.now, quiet=quiet, number=number, charge=charge)
        self.erratic.passed(sent, number - 1)
        self.now += 0.01

    def refuse(
        self, *, quiet: float = 1.0, number: int = 1, charge: int = 100, is_told: bool = False
    ) -> bool:
        """Send a request that is refused; return whether that contradicts a limit."""
        self.now += quiet
        sent = ticket(self.now, quiet=quiet, number=number, charge=charge)
        self.now += 0.01
        return self.erratic.refused(sent, self.now, number - 1, at_most=number, is_told=is_told)

    def contradict(self, times: int, *, is_told: bool = False) -> None:
        """Send pairs of requests, one that passes and one that is refused."""
        for _ in range(times):
            self.passes()
            self.refuse(is_told=is_told)


def test_a_request_refused_after_a_quiet_time_contradicts_a_quota() -> None:
    """A refusal a second after the last request contradicts a quota of ten requests a second."""
    driver = Driver()
    assert driver.refuse(quiet=1.0)


def test_a_server_that_refuses_almost_everything_is_not_random() -> None:
    """Where three of four requests are refused, sending at full speed would win little."""
    driver = Driver()
    for _ in range(4 * CONTRADICTIONS):
        driver.contradict(1)
        for _ in range(3):
            driver.refuse(quiet=0.0)
    assert not driver.erratic.is_random


@pytest.mark.parametrize("quiet", [0.0, 0.1, 0.25])
def test_a_request_refused_soon_after_another_may_be_about_a_quota(quiet: float) -> None:
    """A quota of ten requests a second may refuse a request less than 0.3 s after another."""
    driver = Driver()
    assert not driver.refuse(quiet=quiet)


def test_a_request_larger_than_any_that_passed_may_exceed_the_bucket() -> None:
    """A request larger than all that have passed may be refused for its size."""
    driver = Driver()
    assert not driver.refuse(charge=101)


def test_a_slow_quota_of_tokens_may_refuse_what_a_quota_of_requests_would_not() -> None:
    """Both kinds of quota must be contradicted: a large request may wait for a quota of tokens."""
    driver = Driver()
    driver.erratic.passed(ticket(0.0, charge=10_000), 0)  # before the first refusal
    assert not driver.refuse(charge=10_000, quiet=0.5)


def test_as_many_in_flight_as_ever_may_be_too_many() -> None:
    """A limit on requests in flight is contradicted by a refusal among far fewer than passed."""
    driver = Driver()
    driver.passes(number=16)
    assert not driver.refuse(number=5)
    assert driver.refuse(number=4)


def test_nothing_is_known_before_the_first_refusal() -> None:
    """What passes before the first refusal comes out of a full bucket and shows no rate."""
    erratic = Erratic()
    for number in range(60):
        erratic.passed(ticket(number / 60), 0)
    assert not erratic.refused(ticket(2.0), 2.0, 0, at_most=1)
    assert not erratic.refused(ticket(3.0), 3.0, 0, at_most=1)


def test_refusals_that_contradict_a_quota_are_random() -> None:
    """After a few contradictions with answers in between, the server refuses at random."""
    driver = Driver()
    driver.contradict(CONTRADICTIONS - 1)
    assert not driver.erratic.is_random
    driver.contradict(1)
    assert driver.erratic.is_random


def test_refusals_in_a_row_count_once() -> None:
    """A quota counted in fixed minutes refuses everything for a while, however slowly it comes."""
    driver = Driver()
    for _ in range(10):
        driver.refuse()
    assert not driver.erratic.is_random


def test_a_server_that_says_how_long_is_believed_longer() -> None:
    """Refusals that announce a wait count as random only after `TOLD` contradictions.

    Such a server is more likely to have a quota.
    """
    driver = Driver()
    driver.contradict(TOLD - 1, is_told=True)
    assert not driver.erratic.is_random
    driver.contradict(1, is_told=True)
    assert driver.erratic.is_random


def test_rare_contradictions_are_forgotten() -> None:
    """A quota that changes, or is shared, contradicts itself now and then, and stays a quota."""
    driver = Driver()
    for _ in range(5 * CONTRADICTIONS):
        driver.contradict(1)
        for _ in range(FORGOTTEN + 1):
            driver.passes(quiet=0.1)
    assert not driver.erratic.is_random


def test_hardly_anything_passing_means_a_quota_after_all() -> None:
    """If hardly anything passes once everything is sent, there is a quota after all.

    It takes twice as many contradictions to call the refusals random again.
    """
    driver = Driver()
    driver.contradict(CONTRADICTIONS)
    refusals = 0
    while driver.erratic.is_random and refusals < 100:
        driver.refuse(quiet=0.0)
        refusals += 1
    assert refusals == TRIAL
    driver.refuse()
    for _ in range(11):
        driver.passes(quiet=0.09)
    driver.contradict(CONTRADICTIONS)
    assert not driver.erratic.is_random
    driver.contradict(CONTRADICTIONS)
    assert driver.erratic.is_random


def test_a_share_that_grows_is_a_quota_too() -> None:
    """If the share of refused requests grows to nine in ten, the server has a quota after all."""
    driver = Driver()
    driver.contradict(CONTRADICTIONS)
    for _ in range(TRIAL):
        driver.passes()
    requests = 0
    while driver.erratic.is_random and requests < 400:
        driver.refuse(quiet=0.0)
        requests += 1
        if requests % 9 == 0:
            driver.passes()
    assert 20 < requests < 200


def test_a_burst_of_refusals_is_no_quota() -> None:
    """A burst of refusals among 64 requests in flight is no quota.

    The refused half comes back first.
    """
    driver = Driver()
    driver.contradict(CONTRADICTIONS)
    for left in range(64, 32, -1):
        driver.refuse(quiet=0.0, number=left)
    for left in range(32, 0, -1):
        driver.passes(quiet=0.0, number=left)
    assert driver.erratic.is_random


def test_a_quota_of_fixed_seconds_shows_no_more_than_its_rate() -> None:
    """What two fixed seconds let through together at their border is counted over a second.

    Twenty requests in 0.2 s after a refusal show a rate of 20 a second, so a request refused 0.1 s
    after another one contradicts nothing.
    """
    for period, expected in ((0.0, True), (1.0, False)):
        erratic = Erratic(period)
        erratic.refused(ticket(0.0), 0.01, 0, at_most=1)
        for number in range(1, 21):
            erratic.passed(ticket(number / 100 + 0.01), 0)
        assert erratic.refused(ticket(0.4, quiet=0.1), 0.41, 0, at_most=1) == expected


def test_contradictions_within_a_period_count_half() -> None:
    """Until its period ends, a quota may be used up, so such refusals need more contradictions."""
    erratic = Erratic(period=2.0)
    now = 0.0
    erratic.refused(ticket(now), now, 0, at_most=1)
    for count in range(1, 2 * CONTRADICTIONS + 1):
        for _ in range(20):
            now += 0.1
            erratic.passed(ticket(now), 0)
        now += 1.0
        erratic.refused(ticket(now, quiet=1.0), now, 0, at_most=1)
        assert erratic.is_random == (count == 2 * CONTRADICTIONS)


def test_answers_that_come_late_show_no_higher_rate() -> None:
    """A slow answer to an early request does not make the ones after it seem to come at once.

    Ten requests pass in the ten seconds after a refusal, the first of them last: one a second.
    """
    erratic = Erratic()
    erratic.refused(ticket(0.0), 0.01, 0, at_most=1)
    for second in (2, 3, 4, 5, 6, 7, 8, 9, 10, 1):
        erratic.passed(ticket(float(second)), 0)
    assert not erratic.refused(ticket(12.0, quiet=2.0), 12.01, 0, at_most=1)
    assert erratic.refused(ticket(16.0, quiet=4.0), 16.01, 0, at_most=1)


def test_the_user_is_told_once_the_conclusion_has_held() -> None:
    """A conclusion is confirmed after some requests at full speed, as it may still be wrong."""
    driver = Driver()
    driver.contradict(CONTRADICTIONS)
    for _ in range(CONFIRMED - 1):
        driver.passes(quiet=0.0)
    assert driver.erratic.is_random
    assert not driver.erratic.is_confirmed
    driver.passes(quiet=0.0)
    assert driver.erratic.is_confirmed
