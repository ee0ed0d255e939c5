"""Pacing: budgets, the window, and whole runs against the simulator's quota in simulated time."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pytest_mock import MockerFixture

from langchain_batch_embed.budget import Budget
from langchain_batch_embed.limits import FIRST_REQUESTS
from langchain_batch_embed.nearness import NEAR_USEFUL
from langchain_batch_embed.pacing import Pacer
from langchain_batch_embed.quota import Quota
from langchain_batch_embed.simulator.quota import Quota as ServerQuota
from langchain_batch_embed.window import Window
from tests.pacing_run import Outcome, run

TWENTY_MILLION = 20_000_000


class TestBudget:
    """A bucket that refills continuously."""

    def test_lets_through_what_is_there_and_then_waits_for_the_rest(self) -> None:
        """60 a minute: 60 at once, then one a second."""
        budget = Budget(60)
        budget.take(60, now=0)
        assert budget.wait(1, now=0) == pytest.approx(1)
        assert budget.wait(1, now=0.25) == pytest.approx(0.75)
        assert budget.wait(1, now=1) == 0

    def test_without_a_limit_nothing_waits(self) -> None:
        """As long as no limit is known every amount passes."""
        assert Budget().wait(10**12, now=0) == 0

    def test_more_than_the_bucket_holds_waits_for_a_full_one(self) -> None:
        """A request larger than the bucket is not waited for forever; its debt is paid after."""
        budget = Budget(60)
        assert budget.wait(90, now=0) == 0
        budget.take(90, now=0)
        assert budget.wait(10, now=0) == pytest.approx(40)

    @given(
        per_minute=st.floats(1, 1e8),
        amounts=st.lists(st.floats(0.1, 1e6), min_size=1, max_size=50),
    )
    def test_never_lets_through_more_than_burst_and_rate(
        self, per_minute: float, amounts: list[float]
    ) -> None:
        """Taken when `wait` allows it, the sum stays below what the quota gives in that time."""
        budget, now, taken = Budget(per_minute), 0.0, 0.0
        for amount in amounts:
            now += budget.wait(amount, now)
            assert budget.wait(amount, now) == pytest.approx(0, abs=1e-6 * amount + 1e-9)
            budget.take(amount, now)
            taken += amount
            # The last one may overdraw the bucket, by no more than itself.
            assert taken - amount <= per_minute * (1 + now / 60) * (1 + 1e-6)

    def test_a_header_corrects_a_level_that_is_too_high(self) -> None:
        """Somebody else uses the same key: what the server says remains is believed."""
        budget = Budget(600)
        budget.learn(limit=600, remaining=50, reset=55, unseen=0, sent=0, now=0)
        assert budget.wait(50, now=0) == 0
        assert budget.wait(60, now=0) == pytest.approx(1)

    def test_what_was_sent_meanwhile_does_not_count_as_missing(self) -> None:
        """Requests that overtook the one that was answered are not charged a second time."""
        budget = Budget(600)
        budget.take(200, now=0)
        budget.learn(limit=600, remaining=500, reset=10, unseen=100, sent=0, now=0)
        assert budget.level == pytest.approx(400)

    def test_a_users_quota_is_never_raised_by_a_header(self) -> None:
        """Who sets 600 a minute keeps 600, although the account has 6,000."""
        budget = Budget(600)
        budget.learn(limit=6000, remaining=6000, reset=0, unseen=0, sent=0, now=0)
        assert budget.rate == 10
        assert budget.capacity == 600

    def test_two_refusals_measure_the_rate(self) -> None:
        """What passed between two refusals is the rate, taken with a little caution."""
        budget = Budget()
        budget.refused(now=10)
        budget.take(1000, now=11)
        budget.passed(1000)
        budget.refused(now=20)
        assert budget.rate == pytest.approx(0.9 * 100)
        assert budget.wait(45, now=20) == pytest.approx(0.5)

    def test_a_measured_rate_recovers(self) -> None:
        """Answers without a refusal raise it, slowly at first and then faster."""
        budget = Budget()
        budget.refused(now=0)
        budget.passed(100)
        budget.refused(now=1)
        rates = []
        for _ in range(40):
            budget.passed(10)
            rates.append(budget.rate or 0)
        assert rates[9] == pytest.approx(90 * 1.11, rel=0.02)
        assert rates[39] > 4 * rates[0]

    def test_a_refusal_empties_a_bucket_of_which_only_the_rate_was_told(self) -> None:
        """The server saves up less than a minute's worth: what comes next waits for a refill."""
        budget = Budget(600)
        budget.take(50, now=0)
        assert budget.wait(10, now=0) == 0
        budget.refused(now=0)
        assert budget.wait(10, now=0) == pytest.approx(1, rel=0.05)


class TestWindow:
    """How many requests may be in flight."""

    def test_starts_small_and_multiplies_with_each_round(self) -> None:
        """Every answer opens three more places: four times as many after as many answers."""
        window = Window(1000)
        assert window.size == FIRST_REQUESTS
        for _ in range(FIRST_REQUESTS):
            window.succeeded()
        assert window.size == 4 * FIRST_REQUESTS

    def test_is_halved_once_for_all_that_was_in_flight(self) -> None:
        """Ten failures of one moment count as one."""
        window = Window(64)
        window.open()
        for _ in range(10):
            window.overloaded(sent=1, now=2)
        assert window.size == 32
        window.overloaded(sent=3, now=4)
        assert window.size == 16

    def test_a_server_that_is_near_is_sent_few_requests_at_a_time(self) -> None:
        """A few in flight keep this process busy."""
        window = Window(128)
        window.open()
        assert (window.limit(), window.is_narrowed) == (128, False)
        window.nearness.is_near = True
        assert (window.limit(), window.is_narrowed) == (NEAR_USEFUL, True)

    def test_one_worker_stays_one(self) -> None:
        """However near a server is, it never gets more requests at a time than it may."""
        window = Window(1)
        window.nearness.is_near = True
        assert (window.limit(), window.is_narrowed) == (1, False)

    def test_grows_by_one_a_round_after_that_and_never_above_its_bound(self) -> None:
        """Additive increase, multiplicative decrease."""
        window = Window(8)
        window.open()
        window.overloaded(sent=1, now=2)
        for _ in range(5):
            window.succeeded()
        assert 5 <= window.size <= 5.2
        for _ in range(100):
            window.succeeded()
        assert window.size == 8


class TestPacer:
    """Everything together."""

    def test_a_pause_holds_everybody_until_it_is_over(self) -> None:
        """After a refusal with a delay of 5 s nothing starts for 5 s."""
        pacer = Pacer(max_workers=4)
        tickets = [pacer.start(10, now=0) for _ in range(3)]
        pacer.refused(tickets[0], now=1, after=5, headers={})
        assert pacer.wait(10, now=2) == pytest.approx(4)
        assert pacer.wait(10, now=6) == 0

    def test_tells_nearness_what_all_requests_in_flight_took(self, mocker: MockerFixture) -> None:
        """Of the request's own thread there is a measurement, and so many are there of them."""
        pacer = Pacer(max_workers=4)
        answered = mocker.patch.object(pacer.window.nearness, "answered")
        for _ in range(2):
            pacer.start(10, now=0)
        ticket = pacer.start(10, now=1, worked=5)
        pacer.succeeded(ticket, {}, now=3, worked=6, own=0.2)
        answered.assert_called_once_with(
            process=0.5, requests=pytest.approx(0.1 * 3), sent=1, now=3
        )

    def test_a_full_window_waits_for_an_answer(self) -> None:
        """With all places taken there is no time to wait for, only an answer."""
        pacer = Pacer(max_workers=1)
        ticket = pacer.start(10, now=0)
        assert pacer.wait(10, now=0) == math.inf
        pacer.failed(ticket, now=1, overloaded=False)
        assert pacer.wait(10, now=1) == 0

    def test_a_refusal_now_and_then_is_the_weather(self) -> None:
        """One refusal in ten, whatever the rate, does not lower the rate for good."""
        pacer = Pacer(max_workers=8)
        for i in range(200):
            ticket = pacer.start(1000, now=i)
            if i % 10 == 9:
                pacer.refused(ticket, now=i + 0.5, after=0.1, headers={})
            else:
                pacer.succeeded(ticket, {}, now=i + 0.5)
        assert pacer.tokens.rate is None
        assert pacer.window.size == 8

    def test_a_quota_that_the_facts_contradict_is_not_believed(self) -> None:
        """A gateway's text says 1,000 a minute, but 100,000 have just passed."""
        pacer = Pacer(max_workers=8)
        for i in range(100):
            pacer.succeeded(pacer.start(1000, now=i / 100), {}, now=i / 100)
        for _ in range(16):
            ticket = pacer.start(1000, now=1)
            quota = Quota(kind="tokens", limit=1000, used=1000)
            pacer.refused(ticket, now=1, after=0.1, headers={}, quota=quota)
        assert not pacer.tokens.known

    @pytest.mark.parametrize("start", [0.0, 1000.0])
    def test_a_quota_that_refills_while_they_pass_is_believed(self, start: float) -> None:
        """Of 60,000 a minute 100,000 may have passed after a minute, by whatever clock."""
        pacer = Pacer(max_workers=8)
        for i in range(100):
            now = start + 0.6 * i
            pacer.succeeded(pacer.start(1000, now=now), {}, now=now)
        for _ in range(16):
            ticket = pacer.start(1000, now=start + 60)
            quota = Quota(kind="tokens", limit=60_000, used=60_000)
            pacer.refused(ticket, now=start + 60, after=0.1, headers={}, quota=quota)
        assert pacer.tokens.known
        assert pacer.tokens.rate == pytest.approx(1000, rel=0.1)


def ideal(tokens: float, per_minute: float, bucket_seconds: float) -> float:
    """Return the seconds that the quota alone takes: the burst is free, the rest at the rate."""
    rate = per_minute / 60
    return (tokens - rate * bucket_seconds) / rate


def share_refused(outcome: Outcome) -> float:
    """Return the share of requests that were refused."""
    return len(outcome.refused) / outcome.requests


BATCHES = [20_000] * 600
"""12 million tokens."""


class TestRuns:
    """Whole runs in simulated time, with OpenAI's latency."""

    @pytest.mark.parametrize("seed", range(5))
    @pytest.mark.parametrize("refused_share", [0.0, 0.5, 1.0])
    def test_learns_the_quota_from_headers(self, seed: int, refused_share: float) -> None:
        """20M tokens a minute, 3 s of burst: within 1.10 of the ideal, 2 % throttled at most."""
        quota = ServerQuota(None, TWENTY_MILLION, bucket_seconds=3, refused_share=refused_share)
        outcome = run(Pacer(max_workers=64), BATCHES, quota, seed=seed)
        assert outcome.seconds <= 1.10 * ideal(sum(BATCHES), TWENTY_MILLION, 3)
        assert share_refused(outcome) <= 0.02

    @pytest.mark.parametrize("seed", range(5))
    def test_keeps_a_quota_it_is_told(self, seed: int) -> None:
        """The same with `tokens_per_minute` given."""
        quota = ServerQuota(None, TWENTY_MILLION, bucket_seconds=3)
        pacer = Pacer(max_workers=64, tokens_per_minute=TWENTY_MILLION)
        outcome = run(pacer, BATCHES, quota, seed=seed)
        assert outcome.seconds <= 1.10 * ideal(sum(BATCHES), TWENTY_MILLION, 3)
        assert share_refused(outcome) <= 0.02

    @pytest.mark.parametrize("seed", range(5))
    @pytest.mark.parametrize("told", [True, False])
    def test_finds_the_rate_without_headers(self, seed: int, told: bool) -> None:
        """Within 1.4 of the ideal, whether the refusal's text says something or nothing."""
        quota = ServerQuota(None, TWENTY_MILLION, bucket_seconds=3)
        outcome = run(Pacer(max_workers=64), BATCHES, quota, seed=seed, headers=False, told=told)
        assert outcome.seconds <= 1.4 * ideal(sum(BATCHES), TWENTY_MILLION, 3)

    @pytest.mark.parametrize("seed", range(3))
    def test_uses_98_percent_of_tier_1(self, seed: int) -> None:
        """1M tokens and 3,000 requests a minute for a quarter of an hour, without a refusal."""
        outcome = run(
            Pacer(max_workers=64), [40_000] * 400, ServerQuota(3000, 1_000_000), seed=seed
        )
        lasted = max(time for time, _ in outcome.passed)
        assert sum(charge for _, charge in outcome.passed) == 16_000_000
        assert 0.98 * 1_000_000 * (1 + lasted / 60) <= 16_000_000
        assert [time for time in outcome.refused if time > 60] == []

    @pytest.mark.parametrize("seed", range(3))
    def test_requests_can_be_what_is_scarce(self, seed: int) -> None:
        """60 requests a minute applied as one a second: the worst case, a bucket of one."""
        quota = ServerQuota(60, None, bucket_seconds=1)
        outcome = run(Pacer(max_workers=16), [1000] * 120, quota, seed=seed)
        assert outcome.seconds <= 1.5 * 120
        assert share_refused(outcome) <= 0.25  # without easing off it is 0.36

    @settings(max_examples=30, deadline=None)
    @given(
        per_minute=st.integers(100_000, 50_000_000),
        bucket_seconds=st.floats(1, 60),
        workers=st.integers(1, 128),
        seed=st.integers(0, 1000),
        headers=st.booleans(),
        told=st.booleans(),
    )
    def test_every_run_ends(
        self,
        per_minute: int,
        bucket_seconds: float,
        workers: int,
        seed: int,
        headers: bool,
        told: bool,
    ) -> None:
        """Whatever the quota, all batches that can pass do, at no more than the quota's rate."""
        batch = int(per_minute / 60 * bucket_seconds / 3) + 1
        quota = ServerQuota(None, per_minute, bucket_seconds=bucket_seconds)
        outcome = run(
            Pacer(max_workers=workers), [batch] * 60, quota, seed=seed, headers=headers, told=told
        )
        assert len(outcome.passed) == 60
        assert outcome.most_in_flight <= workers
