"""What refusals mean if the quota is hidden."""

from typing import Any

import pytest
from pytest_mock import MockerFixture

from langchain_batch_embed.pacing.pacer import OVERTAKEN, Pacer
from langchain_batch_embed.pacing.refusals import CROWDS
from langchain_batch_embed.pacing.which_quota import LENIENT, WhichQuota


def pacer_of(max_workers: int = 8, **options: Any) -> Pacer:
    """Return a pacer whose random numbers are all 1, so that its first pause takes 0.5 s."""
    return Pacer(max_workers=max_workers, first_requests=max_workers, draw=lambda: 1.0, **options)


def answer_rounds(
    pacer: Pacer, rounds: int, *, number: int, charge: int = 1000, start: float = 0.0
) -> float:
    """Let rounds of this many requests pass, one round a second, and return the end time."""
    for now in (start + each for each in range(rounds)):
        for ticket in [pacer.start(charge, now=now) for _ in range(number)]:
            pacer.answered(ticket, {}, now=now + 0.5)
    return start + rounds


def refuse_all(pacer: Pacer, number: int, *, now: float, charge: int = 1000) -> list[float | None]:
    """Refuse this many requests in flight together and return the token rate after each."""
    rates = []
    tickets = [pacer.start(charge, now=now) for _ in range(number)]
    for place, ticket in enumerate(tickets):
        pacer.throttled(ticket, now=now + 0.5 + place / 100, after=None, headers={})
        rates.append(pacer.tokens.rate)
    return rates


class TestChance:
    """Some gateways refuse a few requests whatever the rate."""

    def test_a_refusal_now_and_then_is_the_weather(self) -> None:
        """One refusal in ten at any rate counts as chance and lowers no limit for good."""
        pacer = pacer_of(is_known=True)
        for i in range(200):
            ticket = pacer.start(1000, now=i)
            if i % 10 == 9:
                pacer.throttled(ticket, now=i + 0.5, after=0.1, headers={})
            else:
                pacer.answered(ticket, {}, now=i + 0.5)
        assert pacer.tokens.rate is None
        assert pacer.concurrency.limit() == 8

    def test_refusals_of_all_that_was_sent_are_no_chance(self) -> None:
        """If everything in flight is refused, it is no chance, and sending begins with one."""
        pacer = pacer_of(is_known=True)
        tickets = [pacer.start(100, now=0) for _ in range(8)]
        for ticket in tickets:
            pacer.throttled(ticket, now=1, after=None, headers={})
        assert pacer.concurrency.limit() == 1


class TestCrowds:
    """A limit on requests at a time, not on requests a minute."""

    def test_one_more_than_usual_after_a_while_was_one_too_many(self) -> None:
        """A refusal of one request more than usual lowers the concurrency to the usual number.

        Answers make room, so there is no pause and no rate is measured.
        """
        pacer = pacer_of(32, is_known=True)
        pacer.concurrency.timed_out(0, now=0)  # makes the limit less than the most
        now = answer_rounds(pacer, 10, number=4)
        tickets = [pacer.start(1000, now=now) for _ in range(5)]
        pacer.throttled(tickets[-1], now=now + 0.1, after=None, headers={})
        assert pacer.concurrency.limit() == 4
        assert pacer.throttle.delay(now + 0.1) == 0
        assert pacer.tokens.rate is None
        assert pacer.requests.rate is None

    def test_more_than_usual_are_sent_on_purpose_while_small_batches_are_tried(
        self, mocker: MockerFixture
    ) -> None:
        """While small batches are tried on purpose, a refusal counts as a matter of the rate.

        More requests than usual are in flight then, so their number is not the cause.
        """
        mocker.patch.object(WhichQuota, "is_trying_small", new=True)
        pacer = pacer_of(32, is_known=True)
        pacer.concurrency.timed_out(0, now=0)
        now = answer_rounds(pacer, 10, number=4)
        tickets = [pacer.start(1000, now=now) for _ in range(5)]
        pacer.throttled(tickets[-1], now=now + 0.1, after=None, headers={})
        assert pacer.throttle.delay(now + 0.1) == 0.5

    def test_the_same_refusal_with_a_time_is_about_a_rate(self) -> None:
        """A refusal that announces a wait is about a rate and not about the number in flight."""
        pacer = pacer_of(32, is_known=True)
        pacer.concurrency.timed_out(0, now=0)
        now = answer_rounds(pacer, 10, number=4)
        tickets = [pacer.start(1000, now=now) for _ in range(5)]
        pacer.throttled(tickets[-1], now=now + 0.1, after=3, headers={})
        assert pacer.throttle.delay(now + 0.1) == 3

    def test_a_refusal_after_few_tokens_is_first_taken_for_a_crowd(self) -> None:
        """A refusal after few tokens is first taken for too many requests at a time.

        Any quota of tokens lets one long text through, and an answer will show the rest.
        """
        pacer = pacer_of()
        tickets = [pacer.start(10, now=0) for _ in range(8)]
        for ticket in tickets[3:]:
            pacer.throttled(ticket, now=1, after=None, headers={})
        assert pacer.concurrency.limit() == 3
        assert pacer.throttle.delay(1) == 0
        assert not pacer.batch_sizes.are_for_requests

    def test_if_it_is_refused_again_and_again_it_is_a_quota_of_requests(self) -> None:
        """Refusals of few tokens again and again mean a quota of requests.

        There is room for more requests at a time, and still too few tokens for any token quota.
        """
        pacer = pacer_of()
        for crowd in range(CROWDS + 1):
            now = 10 * crowd
            assert not pacer.batch_sizes.are_for_requests
            tickets = [pacer.start(10, now=now) for _ in range(8)]
            for ticket in tickets[:3]:
                pacer.answered(ticket, {}, now=now + 0.5)
            for ticket in tickets[3:]:
                pacer.throttled(ticket, now=now + 1, after=None, headers={})
        assert pacer.batch_sizes.are_for_requests


class TestRates:
    """The rates of requests and of tokens are measured at the same time."""

    def test_what_passes_between_two_pauses_measures_both_rates(self) -> None:
        """What passes between two pauses measures both rates, and sending resumes with one request.

        One of the two quotas is used up.
        """
        pacer = pacer_of()
        refuse_all(pacer, 8, now=answer_rounds(pacer, 5, number=8))
        assert pacer.tokens.rate is None
        refuse_all(pacer, 8, now=answer_rounds(pacer, 20, number=8, start=6))
        assert pacer.tokens.rate == pytest.approx(8000, rel=0.15)
        assert pacer.requests.rate == pytest.approx(8, rel=0.15)
        assert pacer.concurrency.limit() == 1

    def test_conclusions_are_drawn_once_a_pause(self) -> None:
        """Refusals of requests in flight together lead to one new rate, once they are no chance."""
        pacer = pacer_of()
        refuse_all(pacer, 8, now=answer_rounds(pacer, 5, number=8))
        rates = refuse_all(pacer, 8, now=answer_rounds(pacer, 20, number=8, start=6))
        assert rates[:2] == [None, None]
        assert len(set(rates[2:])) == 1
        assert rates[2] is not None

    def test_a_quota_that_the_headers_tell_is_not_measured(self) -> None:
        """A quota announced in headers explains a refusal, so no rate is measured."""
        pacer = pacer_of()
        headers = {"x-ratelimit-limit-tokens": "60000", "x-ratelimit-remaining-tokens": "0"}
        for ticket in [pacer.start(5000, now=0) for _ in range(8)]:
            pacer.throttled(ticket, now=0.5, after=None, headers=headers)
        assert pacer.tokens.is_known
        assert pacer.requests.rate is None
        assert pacer.concurrency.limit() == 8


def test_a_batch_that_decides_is_not_overtaken_for_ever() -> None:
    """A batch that decides between quotas waits longer than others, but only for a while.

    Its refusal means something only if it does not come too early.
    """
    pacer = pacer_of()
    pacer.tokens.guess(10_000.0, now=0)
    pacer.requests.guess(1.0, now=0)
    pacer._which.kind = "requests"
    now = 10.0
    for _ in range(OVERTAKEN - 1):
        pacer.answered(pacer.start(10, now=now), {}, now=now)
        assert pacer.delay(50_000, now=now) == pytest.approx(LENIENT)
        assert pacer.delay(10, now=now) <= 1.0
        now += 1.0
    pacer.answered(pacer.start(10, now=now), {}, now=now)
    assert pacer.delay(50_000, now=now) == pacer.delay(10, now=now) <= 1.0
