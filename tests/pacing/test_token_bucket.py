"""A quota as a bucket that refills: set, read from headers, or measured between refusals."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_batch_embed.pacing.token_bucket import LEAST_SHARE, TokenBucket
from tests.simulated.limiter import Bucket


class TestKnownRate:
    """A rate that the user has set or that headers announce."""

    def test_a_delay_is_never_shorter_than_a_clock_can_measure(self) -> None:
        """Less than a microsecond's worth may be missing, so that waiting always ends."""
        rate = 1e6
        bucket = TokenBucket(60 * rate)
        bucket.take(60 * rate, now=1e9)
        now = 1e9 + 1
        bucket.take(rate, now=now)
        assert bucket.delay(0.5, now=now) == 0.0
        assert bucket.delay(2.0, now=now) > 0

    def test_lets_through_what_is_there_and_then_waits_for_the_rest(self) -> None:
        """A quota of 60 a minute lets 60 through at once and then one a second."""
        bucket = TokenBucket(60)
        bucket.take(60, now=0)
        assert bucket.delay(1, now=0) == pytest.approx(1)
        assert bucket.delay(1, now=0.25) == pytest.approx(0.75)
        assert bucket.delay(1, now=1) == 0

    def test_without_a_limit_nothing_waits(self) -> None:
        """Without a known limit every amount passes at once."""
        bucket = TokenBucket()
        bucket.take(10**12, now=0)
        assert bucket.delay(10**12, now=0) == 0

    def test_more_than_the_bucket_holds_waits_for_a_full_one(self) -> None:
        """An amount above the capacity waits for a full bucket only, and its debt is paid later."""
        bucket = TokenBucket(60)
        assert bucket.delay(90, now=0) == 0
        bucket.take(90, now=0)
        assert bucket.delay(10, now=0) == pytest.approx(40)

    def test_what_was_never_sent_is_given_back(self) -> None:
        """Amounts that were never sent are given back, but never beyond the capacity."""
        bucket = TokenBucket(60)
        bucket.take(60, now=0)
        bucket.give_back(60)
        assert bucket.delay(60, now=0) == 0
        bucket.give_back(60)
        assert bucket.level == 60

    @given(
        per_minute=st.floats(1, 1e8),
        amounts=st.lists(st.floats(0.1, 1e6), min_size=1, max_size=50),
    )
    def test_never_lets_through_more_than_burst_and_rate(
        self, per_minute: float, amounts: list[float]
    ) -> None:
        """Amounts taken when `delay` allows it never exceed what the quota gives in that time."""
        bucket, now, taken = TokenBucket(per_minute), 0.0, 0.0
        for amount in amounts:
            now += bucket.delay(amount, now)
            assert bucket.delay(amount, now) == pytest.approx(0, abs=1e-6 * amount + 1e-9)
            bucket.take(amount, now)
            taken += amount
            # The last amount may overdraw the bucket, but by no more than itself.
            assert taken - amount <= per_minute * (1 + now / 60) * (1 + 1e-6)

    def test_a_header_corrects_a_level_that_is_too_high(self) -> None:
        """A header corrects a level that is too high, as when others use the same key."""
        bucket = TokenBucket(600)
        bucket.learn(limit=600, remaining=50, reset=55, unseen=0, sent=0, now=0)
        assert bucket.delay(50, now=0) == 0
        assert bucket.delay(60, now=0) == pytest.approx(1)

    def test_requests_that_may_have_arrived_later_are_taken_off(self) -> None:
        """Requests that may have arrived later are subtracted from what a header says remains.

        The remainder in the first answer is for all requests in flight.
        """
        bucket = TokenBucket(600)
        bucket.take(200, now=0)
        bucket.learn(limit=600, remaining=500, reset=10, unseen=100, sent=0, now=0)
        assert bucket.level == pytest.approx(400)

    def test_a_bucket_smaller_than_a_minute_is_recognised(self) -> None:
        """A bucket that is empty and refills in 3 s is known to hold 3 s' worth."""
        bucket = TokenBucket()
        bucket.learn(limit=600, remaining=0, reset=3, unseen=0, sent=0, now=0)
        assert bucket.capacity == pytest.approx(30)
        assert bucket.delay(30, now=60) == 0
        bucket.take(30, now=60)
        assert bucket.delay(10, now=60) == pytest.approx(1)

    def test_a_users_quota_is_never_raised_by_a_header(self) -> None:
        """A user's quota of 600 a minute is not raised by a header that says 6,000."""
        bucket = TokenBucket(600)
        bucket.learn(limit=6000, remaining=6000, reset=0, unseen=0, sent=0, now=0)
        bucket.name(6000, now=0)
        assert (bucket.rate, bucket.capacity, bucket.is_set) == (10, 600, True)

    def test_a_header_can_lower_a_users_quota(self) -> None:
        """A header that allows less lowers the quota that the user has set."""
        bucket = TokenBucket(6000)
        bucket.learn(limit=600, remaining=600, reset=0, unseen=0, sent=0, now=0)
        assert bucket.rate == 10

    @pytest.mark.parametrize("limit", [0.0, -1.0, math.inf, math.nan])
    def test_a_limit_that_is_none_is_passed_over(self, limit: float) -> None:
        """A limit of 0, below 0, infinity or NaN is ignored."""
        bucket = TokenBucket()
        bucket.learn(limit=limit, remaining=0, reset=0, unseen=0, sent=0, now=0)
        bucket.name(limit, now=0)
        assert bucket.rate is None

    def test_a_refusal_that_names_the_rate_empties_the_bucket(self) -> None:
        """A refusal that names the rate empties the bucket.

        The next request waits for a refill.
        """
        bucket = TokenBucket()
        bucket.name(600, now=0)
        assert bucket.is_known
        assert bucket.delay(10, now=0) == pytest.approx(1)

    def test_refusals_that_tell_what_is_used_tell_what_the_bucket_holds(self) -> None:
        """A bucket's capacity is the largest use that refusals report.

        In fixed windows each refusal reports less than the whole capacity.
        """
        bucket = TokenBucket()
        bucket.name(600, now=0, holds=20)
        assert bucket.capacity == 20
        bucket.name(600, now=1, holds=30)
        bucket.name(600, now=2, holds=10)
        assert bucket.capacity == 30

    def test_a_refusal_empties_a_bucket_of_which_only_the_rate_was_told(self) -> None:
        """A refusal empties a bucket of which only the rate is known.

        The server saves up less than a minute's worth.
        """
        bucket = TokenBucket(600)
        bucket.take(50, now=0)
        assert bucket.delay(10, now=0) == 0
        bucket.refused(10, now=0)
        assert bucket.delay(10, now=0) == pytest.approx(1, rel=0.05)

    def test_refusals_under_a_known_rate_lower_the_share_that_is_used(self) -> None:
        """Refusals under a known rate lower the share that is used, down to `LEAST_SHARE`.

        Answers raise it to the whole rate again.
        """
        bucket = TokenBucket(600)
        for _ in range(100):
            bucket.refused(10, now=0)
        assert bucket.delay(10, now=0) == pytest.approx(1 / LEAST_SHARE)
        for _ in range(100):
            bucket.passed(1, sent=0, now=0)
        assert bucket.delay(10, now=0) == pytest.approx(1)

    def test_the_delay_reaches_zero_whatever_is_rounded(self) -> None:
        """Waiting as long as `delay` returns is enough despite rounding, even in a long run."""
        bucket, now = TokenBucket(7_777_777), 1e7
        for amount in random.Random(1).choices(range(1, 300_000), k=1000):
            now += bucket.delay(amount, now)
            assert bucket.delay(amount, now) == 0
            bucket.take(amount, now)


class TestMeasuredRate:
    """The rate is measured by what passes between two refusals."""

    def test_two_refusals_measure_the_rate(self) -> None:
        """Two refusals measure the rate as slightly less than what passed in between.

        A refused request may be charged too.
        """
        bucket = TokenBucket()
        bucket.refused(10, now=10)
        bucket.passed(1000, sent=11, now=12)
        bucket.refused(10, now=20)
        assert bucket.is_measured
        assert not bucket.is_known
        assert 80 <= (bucket.rate or 0) <= 100
        assert bucket.delay(40, now=20) > 0

    @pytest.mark.parametrize("refuse", ["refused", "ease"])
    def test_a_refusal_ends_what_is_owed(self, refuse: str) -> None:
        """A refusal reduces a debt of ten seconds to one second at most.

        The server let the amount pass, so waiting for all of it would be wrong.
        """
        bucket = TokenBucket()
        bucket.refused(10, now=0)
        bucket.passed(1000, sent=1, now=5)
        bucket.refused(10, now=10)
        rate = bucket.rate or 0
        bucket.take(10 * rate, now=10)
        bucket.passed(10 * rate, sent=11, now=12)
        assert bucket.delay(rate / 2, now=12) > 8
        if refuse == "ease":
            bucket.ease(now=12)
        else:
            bucket.refused(rate / 2, now=12)
        assert bucket.level >= -1.01 * (bucket.rate or 0)
        assert 0 < bucket.delay(rate / 2, now=12) < 2

    def test_one_refusal_alone_measures_nothing(self) -> None:
        """A first refusal measures nothing, because the level at the start is not known."""
        bucket = TokenBucket()
        bucket.passed(1000, sent=0, now=1)
        bucket.refused(10, now=10)
        assert bucket.rate is None

    def test_one_measurement_does_no_more_than_halve_the_rate(self) -> None:
        """A measurement lowers the rate by half at most, since it may be wrong."""
        bucket = TokenBucket()
        bucket.refused(10, now=0)
        bucket.passed(1000, sent=1, now=1)
        bucket.refused(10, now=10)
        rate = bucket.rate or 0
        bucket.passed(1, sent=11, now=12)
        bucket.refused(10, now=20)
        assert 0.4 * rate <= (bucket.rate or 0) <= 0.5 * rate

    def test_a_measured_rate_is_raised_while_there_is_no_refusal(self) -> None:
        """A measured rate rises while there are no refusals, so a quota that has grown is found."""
        bucket, now = TokenBucket(), 0.0
        bucket.refused(10, now=0)
        bucket.passed(100, sent=0.5, now=0.9)
        bucket.refused(10, now=1)
        first = bucket.rate or 0
        now = 1.0
        for _ in range(200):
            now += max(0.001, bucket.delay(10, now))
            bucket.take(10, now)
            bucket.passed(10, sent=now, now=now)
        assert (bucket.rate or 0) > 1.5 * first

    @given(st.floats(1, 1e6), st.integers(1, 50))
    def test_the_debt_of_refused_requests_is_limited(self, amount: float, refused: int) -> None:
        """However much was refused, a measured bucket owes at most ten seconds' worth."""
        bucket = TokenBucket()
        bucket.guess(100.0, now=0)
        for _ in range(refused):
            bucket.take(amount, now=0)
        bucket.limit_debt(now=0)
        assert bucket.level >= -1000.0
        known = TokenBucket(60)
        known.take(600, now=0)
        known.limit_debt(now=0)
        assert known.level == -540

    def test_an_outage_is_no_time_in_which_little_passed(self) -> None:
        """The time of an outage is left out of the measured rate."""
        bucket = TokenBucket()
        bucket.refused(10, now=0)
        bucket.passed(1000, sent=1, now=2)
        bucket.interrupt(300)
        bucket.refused(10, now=310)
        assert (bucket.rate or 0) >= 80

    def test_where_little_passed_no_more_can_have_flowed(self) -> None:
        """If little passes between two refusals, the rate falls to half, not by a twentieth.

        One request in 10 s passes here, at a rate of 100 a second.
        """
        bucket = TokenBucket()
        bucket.refused(10, now=0)
        bucket.passed(1000, sent=1, now=1)
        bucket.refused(10, now=10)
        bucket.passed(10, sent=11, now=12)
        bucket.refused(10, now=20)
        assert (bucket.rate or 0) <= 50

    def test_a_rate_to_begin_with_is_no_more_than_that(self) -> None:
        """A guessed rate is used only if there is no rate yet."""
        bucket = TokenBucket()
        bucket.guess(2.0, now=0)
        bucket.guess(5.0, now=0)
        assert (bucket.rate, bucket.is_measured) == (2.0, True)

    def test_a_rate_that_is_guessed_after_another_was_forgotten_grows(self) -> None:
        """A guess that follows no refusal grows as well: it stands for what is not known."""
        bucket = TokenBucket()
        bucket.refused(1, now=0)
        bucket.guess(1.0, now=0)
        bucket.forget()
        bucket.guess(1.0, now=0)
        for answer in range(20):
            bucket.passed(1, sent=1 + answer, now=1.1 + answer)
        assert (bucket.rate or 0) > 1.5

    def test_a_rate_to_begin_with_is_found_too_low_by_a_few_answers(self) -> None:
        """A guess that is ten times too low more than triples within ten answers."""
        bucket = TokenBucket()
        bucket.refused(1, now=0)
        bucket.guess(1.0, now=0)
        for answer in range(10):
            bucket.passed(1, sent=1 + answer / 10, now=1.1 + answer / 10)
        assert 3 < (bucket.rate or 0) < 4

    def test_a_refusal_that_may_be_chance_lowers_it_a_little(self) -> None:
        """A refusal that may be chance lowers the rate by a twentieth, not by half."""
        bucket = TokenBucket()
        bucket.refused(10, now=0)
        bucket.passed(1000, sent=1, now=2)
        bucket.refused(10, now=10)
        before = bucket.rate or 0
        bucket.ease(now=11)
        assert 0.9 * before <= (bucket.rate or 0) < before

    def test_a_header_replaces_what_was_measured(self) -> None:
        """A rate from a header replaces a measured one, because it is more reliable."""
        bucket = TokenBucket()
        bucket.refused(10, now=0)
        bucket.passed(100, sent=0.5, now=0.9)
        bucket.refused(10, now=1)
        bucket.learn(limit=600, remaining=300, reset=30, unseen=0, sent=2, now=2)
        assert (bucket.is_known, bucket.rate) == (True, 10)

    def test_a_measured_bucket_bounds_no_request(self) -> None:
        """A measured bucket does not limit a request's size, as its capacity is a guess.

        A request of any size waits for a full bucket, which holds what flows in a second.
        """
        bucket = TokenBucket()
        bucket.refused(10, now=0)
        bucket.passed(100, sent=0.5, now=0.9)
        bucket.refused(10, now=1)
        assert bucket.is_measured
        assert bucket.delay(1e9, now=1) == pytest.approx(1)
        assert bucket.delay(1e9, now=2) == 0

    @pytest.mark.parametrize("per_minute", [60_000, 1_000_000, 20_000_000])
    def test_finds_the_rate_of_a_server_that_says_nothing(self, per_minute: int) -> None:
        """At a server with a hidden quota, 80 % of it are used and at most a tenth are refused."""
        rate = per_minute / 60
        amount, now = rate / 10, 0.0
        bucket, server = TokenBucket(), Bucket(rate, rate)
        passed, refused, begin = 0.0, 0, 100.0
        while now < 300:
            now += max(0.001, bucket.delay(amount, now))
            bucket.take(amount, now)
            server.settle(now)
            if server.delay(amount, now):
                bucket.refused(amount, now)
                refused += now > begin
                now += 0.5
            else:
                server.charge(amount, now)
                bucket.passed(amount, sent=now, now=now)
                passed += amount if now > begin else 0
        assert passed >= 0.8 * rate * (300 - begin)
        assert refused <= 0.1 * passed / amount

    @given(
        st.lists(
            st.tuples(st.sampled_from(["passed", "refused", "ease", "take"]), st.floats(0, 100)),
            max_size=60,
        )
    )
    def test_whatever_happens_a_delay_is_finite(self, events: list[tuple[str, float]]) -> None:
        """No sequence of answers and refusals makes the rate 0, so every delay is finite."""
        bucket, now = TokenBucket(), 0.0
        for name, step in events:
            now += step
            if name == "take":
                bucket.take(10, now)
            elif name == "passed":
                bucket.passed(10, sent=now, now=now)
            elif name == "refused":
                bucket.refused(10, now)
            else:
                bucket.ease(now)
            assert bucket.rate is None or bucket.rate > 0
            assert 0 <= bucket.delay(10, now) < math.inf


class TestWrongRate:
    """A rate that was measured while something else was refused."""

    @staticmethod
    def measured() -> TokenBucket:
        """Return a bucket with a rate of about 10 a second, measured over 10 s and until 10 s."""
        bucket = TokenBucket()
        bucket.refused(10, now=0)
        for second in range(1, 11):
            bucket.passed(10, sent=second - 0.5, now=second)
        bucket.refused(10, now=10)
        return bucket

    def test_what_has_passed_since_corrects_it(self) -> None:
        """Three answers for 1,000 each in three seconds correct a measured rate of 10 a second."""
        bucket = self.measured()
        assert bucket.rate == pytest.approx(9.3)
        for second in (11, 12):
            bucket.passed(1000, sent=second - 0.5, now=second)
        bucket.correct(now=12.5)
        assert bucket.rate is not None
        assert bucket.rate < 100
        bucket.passed(1000, sent=12.6, now=13)
        bucket.correct(now=13)
        assert bucket.rate == pytest.approx(930)

    def test_the_time_of_a_request_that_was_too_large_is_left_out(self) -> None:
        """A minute in which only a request above the bucket was sent is not measured."""
        bucket = TokenBucket()
        bucket.refused(10_000, now=0)
        bucket.measure_anew(now=60)
        for second in range(61, 71):
            bucket.passed(100, sent=second - 0.5, now=second)
        bucket.refused(100, now=70)
        assert bucket.rate == pytest.approx(93)

    def test_it_can_be_forgotten(self) -> None:
        """A measured rate can be forgotten.

        Nothing waits for it then, and the next refusal measures nothing.
        """
        bucket = self.measured()
        bucket.forget()
        assert bucket.rate is None
        assert bucket.delay(1e9, now=10) == 0
        bucket.refused(10, now=20)
        assert bucket.rate is None

    def test_a_rate_that_was_told_is_kept(self) -> None:
        """A rate that the user has set is not forgotten, because it was not measured."""
        bucket = TokenBucket(600)
        bucket.forget()
        assert bucket.rate == 10
