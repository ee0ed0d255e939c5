"""How many requests a server works on at a time, estimated from round trips."""

import heapq
import math
import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_batch_embed.limits import FIRST_REQUESTS
from langchain_batch_embed.pacing.concurrency import (
    FEWEST_ANSWERS,
    MOST_ANSWERS,
    OVERTAKERS,
    SHARING,
    Concurrency,
)
from tests.support import examples

MOST = 128
WORK = 10_000.0


def drive(
    concurrency: Concurrency,
    workers: int | None,
    *,
    seconds: float,
    requests: int,
    noise: float = 0.1,
    seed: int = 0,
    look: Callable[[float], None] = lambda _: None,
) -> float:
    """Keep as many requests in flight as the limit allows, at a server with this many workers.

    Returns:
        The seconds until all are answered.
    """
    dice = random.Random(seed)
    now, left = 0.0, requests
    free = [0.0] * (workers or requests)  # time at which each worker becomes free
    in_flight: list[tuple[float, float]] = []  # a heap of end and start times
    while left or in_flight:
        while left and len(in_flight) < concurrency.limit():
            start = max(now, heapq.heappop(free))
            end = start + seconds * math.exp(noise * dice.gauss(0, 1))
            heapq.heappush(free, end)
            heapq.heappush(in_flight, (end, now))
            left -= 1
        busy = len(in_flight)
        now, sent = heapq.heappop(in_flight)
        concurrency.answered(sent=sent, now=now, work=WORK, in_flight=busy)
        look(now)
    return now


class TestStart:
    """A few requests go out at first, then several times as many."""

    def test_an_unknown_server_is_sent_a_few_small_requests_first(self) -> None:
        """An unknown server receives a few small requests first, so that a small machine copes."""
        concurrency = Concurrency(MOST)
        assert concurrency.limit() == FIRST_REQUESTS
        assert concurrency.is_starting

    def test_a_known_provider_is_not_sent_small_ones(self) -> None:
        """A known provider is not sent small requests first, as it accepts any number at once."""
        concurrency = Concurrency(MOST, first=96, is_known=True)
        assert concurrency.limit() == 96
        assert not concurrency.is_starting

    def test_a_known_provider_gets_the_full_number_when_it_has_told_its_quota(self) -> None:
        """A known provider gets the full number of requests once it has announced its quota."""
        concurrency = Concurrency(MOST, first=16, is_known=True)
        concurrency.open()
        assert concurrency.limit() == MOST

    def test_without_a_word_on_its_quota_each_answer_opens_three_more_places(self) -> None:
        """If the quota is hidden, each answer opens three more places.

        That makes four times as many after a round of answers.
        """
        concurrency = Concurrency(1000, first=16, is_known=True)
        for now in range(16):
            concurrency.answered(sent=0, now=1 + now, work=1, in_flight=16)
        assert concurrency.limit() == 64

    @pytest.mark.parametrize("noise", [0.1, 0.85])
    def test_a_server_without_a_line_gets_the_full_number_soon(self, noise: float) -> None:
        """A server without a line gets the full number of requests soon.

        This holds even if round trips vary tenfold, as those of a hosted API do.
        """
        fulls = []
        for seed in range(9):
            concurrency, reached = Concurrency(MOST), list[float]()

            def look(
                now: float, it: Concurrency = concurrency, seen: list[float] = reached
            ) -> None:
                if it.limit() == MOST:
                    seen.append(now)

            drive(concurrency, None, seconds=0.3, requests=600, noise=noise, seed=seed, look=look)
            fulls.append(min(reached, default=math.inf))
        assert sorted(fulls)[4] <= 10 * 0.3

    def test_one_worker_stays_one(self) -> None:
        """With one request at a time allowed by the user, the limit stays at 1."""
        concurrency = Concurrency(1)
        drive(concurrency, 1, seconds=0.1, requests=50)
        assert (concurrency.limit(), concurrency.is_starting, concurrency.is_saturated) == (
            1,
            False,
            False,
        )


class TestSaturation:
    """Round trips that grow with the number in flight show that requests wait in a line."""

    @pytest.mark.parametrize("workers", [1, 2, 4, 8, 32])
    def test_requests_do_not_wait_in_a_long_line(self, workers: int) -> None:
        """In the long run few more requests are in flight than a busy server works on."""
        concurrency, seen = Concurrency(MOST), list[int]()
        took = drive(
            concurrency,
            workers,
            seconds=0.2,
            requests=4000,
            look=lambda _: seen.append(concurrency.limit()),
        )
        late = sorted(seen[2000:])
        assert late[len(late) // 2] <= 1.5 * workers
        assert took <= 1.2 * 4000 * 0.2 / workers

    def test_it_is_told_that_more_requests_get_no_more_done(self) -> None:
        """A saturated server is recognised, and the work is cut for the useful requests."""
        concurrency = Concurrency(MOST)
        drive(concurrency, 4, seconds=0.2, requests=400)
        assert concurrency.is_saturated
        assert concurrency.useful == concurrency.limit() < MOST


class TestOverload:
    """Time-outs and refusals lower the number, which is then raised ever more rarely."""

    def opened(self) -> Concurrency:
        """Return a `Concurrency` with the full number."""
        concurrency = Concurrency(MOST, is_known=True)
        concurrency.open()
        return concurrency

    def test_a_timeout_halves_once_for_all_that_was_in_flight(self) -> None:
        """Time-outs of requests in flight together halve the number once."""
        concurrency = self.opened()
        for _ in range(10):
            concurrency.timed_out(sent=1, now=2)
        assert concurrency.limit() == MOST // 2
        concurrency.timed_out(sent=3, now=4)
        assert concurrency.limit() == MOST // 4

    def test_a_single_straggler_lowers_nothing(self) -> None:
        """A request that times out while later ones were answered was not queued."""
        concurrency = self.opened()
        for _ in range(OVERTAKERS):
            concurrency.answered(sent=2, now=3, work=100, in_flight=MOST)
        concurrency.timed_out(sent=1, now=11)
        assert concurrency.limit() == MOST
        concurrency.timed_out(sent=2.5, now=12)
        assert concurrency.limit() == MOST // 2

    def test_a_refusal_lowers_it_to_what_was_let_in(self) -> None:
        """A refusal lowers the number to the 40 requests that the server was working on."""
        concurrency = self.opened()
        for _ in range(10):
            concurrency.refused(sent=1, now=2, in_flight=[0.5] * 40)
        assert concurrency.limit() == 40

    def test_refusals_that_were_about_something_else_are_forgotten(self) -> None:
        """Refusals that were about something else are forgotten.

        The number goes back to half of its former value, and each answer raises it up to that
        value.
        """
        concurrency = self.opened()
        for now in range(1, 9):
            concurrency.refused(sent=now, now=now + 0.5, in_flight=[])
        assert concurrency.limit() == 1
        concurrency.restore(now=10)
        assert concurrency.limit() == MOST // 2
        for now in range(MOST):
            concurrency.answered(sent=11 + now, now=12 + now, work=1, in_flight=1)
        assert concurrency.limit() == MOST

    def test_refusals_of_one_shortage_do_not_delay_the_next_attempt(self) -> None:
        """The refusals of one shortage do not delay the next attempt to send more.

        They are no attempts themselves, so more is tried again after a few rounds.
        """
        concurrency = self.opened()
        for now in range(50):
            concurrency.refused(sent=1 + now, now=1.5 + now, in_flight=[])
        rounds = 0
        while concurrency.limit() < MOST and rounds < 100:
            rounds, busy = rounds + 1, concurrency.limit()
            for _ in range(max(FEWEST_ANSWERS, min(MOST_ANSWERS, -(-busy // 2)))):
                sent = 100.0 + rounds
                concurrency.answered(sent=sent, now=sent + 0.5, work=WORK, in_flight=busy)
        assert rounds <= 16

    def test_it_never_falls_below_one(self) -> None:
        """The number never falls below one, so something is always sent."""
        concurrency = self.opened()
        for now in range(1, 100):
            concurrency.refused(sent=now, now=now + 0.5, in_flight=[])
            concurrency.timed_out(sent=now + 0.6, now=now + 0.7)
        assert concurrency.limit() == 1

    @pytest.mark.parametrize(("most", "few"), [(4, 1), (16, 1), (40, 2), (64, 4), (128, 4)])
    def test_after_a_throttle_it_begins_again_with_few(self, most: int, few: int) -> None:
        """After a throttle the number is a sixteenth of its former value, and at most four."""
        concurrency = Concurrency(most, first=most)
        concurrency.throttled(now=1)
        assert concurrency.limit() == few

    @pytest.mark.parametrize(("most", "few"), [(32, 32), (64, 4), (128, 4)])
    def test_many_are_not_let_go_together_after_a_first_refusal(self, most: int, few: int) -> None:
        """After a first refusal, a number of 64 and more falls to 4, and a smaller one stays.

        The refusal may be chance, so it costs time only where a second burst would be large.
        """
        concurrency = Concurrency(most, first=most)
        concurrency.hesitate(now=1)
        assert concurrency.limit() == few
        for now in range(70):
            concurrency.answered(sent=2 + now, now=3 + now, work=1, in_flight=1)
        assert concurrency.limit() >= min(most, 64)

    def test_after_a_throttle_it_grows_up_to_what_was_let_in(self) -> None:
        """After a throttle the number grows with each answer up to what was let in before.

        The quota is not known.
        """
        concurrency = self.opened()
        concurrency.throttled(now=1)
        concurrency.accepts(10)
        assert concurrency.limit() == 4
        for now in range(20):
            concurrency.answered(sent=2 + now, now=3 + now, work=1, in_flight=1)
        assert concurrency.limit() <= 11
        assert concurrency.limit() >= 10

    def test_a_limit_of_connections_is_kept_with_few_refusals(self) -> None:
        """At a limit of 8 connections at most 1 request in 200 is refused.

        The number settles at the limit, and more is tried ever more rarely.
        """
        concurrency, limit = Concurrency(64), 8
        now, sent_in_all = 0.0, 0
        refused: list[int] = []
        in_flight: list[tuple[float, float]] = []
        while sent_in_all < 5000:
            while len(in_flight) < concurrency.limit():
                sent_in_all += 1
                if len(in_flight) < limit:
                    heapq.heappush(in_flight, (now + 0.3, now))
                else:
                    refused.append(sent_in_all)
                    sent_at = [sent for _, sent in in_flight]
                    concurrency.refused(now, now + 1e-9, in_flight=sent_at)
                    break
            busy = len(in_flight)
            now, sent = heapq.heappop(in_flight)
            concurrency.answered(sent=sent, now=now, work=WORK, in_flight=busy)
            now += 1e-6
        assert len(refused) <= sent_in_all / 200
        assert 0 < sum(number > sent_in_all / 2 for number in refused) < len(refused) / 4
        assert concurrency.limit() == limit
        assert now <= 1.05 * sent_in_all * 0.3 / limit


@examples(50)
@given(
    most=st.integers(1, 200),
    first=st.integers(1, 200),
    is_known=st.booleans(),
    events=st.lists(
        st.tuples(
            st.sampled_from(
                [
                    *("answered", "timed_out", "refused", "throttled", "accepts", "open"),
                    *("hesitate", "recover", "restore"),
                ]
            ),
            st.floats(0, 10),
            st.integers(0, 200),
        ),
        max_size=200,
    ),
)
def test_the_number_is_between_one_and_the_most(
    most: int, first: int, is_known: bool, events: list[tuple[str, float, int]]
) -> None:
    """The number is always between one and the most, whatever happens in whatever order."""
    concurrency, now = Concurrency(most, first=first, is_known=is_known), 0.0
    for name, step, amount in events:
        sent, now = now, now + step
        match name:
            case "answered":
                concurrency.answered(sent=sent, now=now, work=amount, in_flight=max(1, amount))
            case "timed_out":
                concurrency.timed_out(sent, now)
            case "refused":
                concurrency.refused(sent, now, in_flight=[sent] * amount)
            case "throttled":
                concurrency.throttled(now)
            case "accepts":
                concurrency.accepts(amount)
            case "hesitate":
                concurrency.hesitate(now)
            case "recover":
                concurrency.recover(amount, now)
            case "restore":
                concurrency.restore(now)
            case _:
                concurrency.open()
        assert 1 <= concurrency.limit() <= most
        assert 1 <= concurrency.useful <= most


@pytest.mark.parametrize(
    ("ends", "number"),
    [
        pytest.param([0.30, 0.31, 0.32, 0.33], 48, id="together"),
        pytest.param([0.15, 0.20, 0.40, 0.60], 32, id="neither together nor one by one"),
        pytest.param([0.15 * i for i in range(1, 5)], 8, id="four of eight one by one"),
        pytest.param([0.15 * i for i in range(1, 9)], 4, id="all eight one by one"),
        pytest.param([0.010, 0.011, 0.012, 0.013], 8, id="next door, where a round costs nothing"),
    ],
)
def test_answers_that_come_together_open_more_places(ends: list[float], number: int) -> None:
    """Answers that come together open more places than others.

    Answers that come one by one show a queue, so fewer requests get as much done. A few of them may
    look like that by chance.
    """
    concurrency = Concurrency(128, first=8)
    for now in ends:
        concurrency.answered(sent=0.0, now=now, work=500, in_flight=8)
    assert concurrency.limit() == number


def test_the_start_goes_on_after_a_few_answers() -> None:
    """At the start eight answers of 48 are enough to go on, if round trips have not grown."""
    concurrency = Concurrency(128, first=8)
    for now in (0.30, 0.31, 0.32, 0.33):
        concurrency.answered(sent=0.0, now=now, work=500, in_flight=8)
    assert concurrency.limit() == 48
    for answer in range(8):
        assert concurrency.limit() == 48
        concurrency.answered(sent=0.35, now=0.65 + answer / 100, work=500, in_flight=48)
    assert concurrency.limit() == 128


@pytest.mark.parametrize(
    ("trips", "number"),
    [
        pytest.param([0.010, 0.011, 0.012, 0.013], 2, id="even"),
        pytest.param([0.001, 0.004, 0.016, 0.064], 8, id="uneven"),
        pytest.param([0.010, 0.040, 0.090, 0.200], 128, id="as uneven as a hosted API"),
    ],
)
def test_next_door_the_same_work_with_fewer_requests_is_enough(
    trips: list[float], number: int
) -> None:
    """At a nearby server, fewer requests are enough if they get the same work done.

    This process is the line there, so round trips need not get shorter with fewer requests.
    """
    concurrency, now = Concurrency(128, first=8), 0.0
    for answers in (4, 8, 8):  # the very first round, one with 8 in flight, one with 4
        busy = concurrency.limit()
        now += 0.1
        for answer in range(answers):
            now += 0.002
            sent = now - trips[answer % 4]
            concurrency.answered(sent=sent, now=now, work=500, in_flight=busy)
    assert concurrency.limit() == number


def test_a_wave_of_refusals_shows_how_many_were_let_in() -> None:
    """If 24 of 32 requests sent together are refused one by one, the server lets 8 in at a time."""
    concurrency = Concurrency(128, first=32)
    in_flight = [0.0] * 32
    for i in range(24):
        in_flight.pop()
        concurrency.refused(0.0, 0.1 + i / 100, in_flight=in_flight)
    assert concurrency.limit() == 8


def test_a_refusal_in_a_slow_start_lowers_where_it_leads() -> None:
    """During a slow start from 128 on, a refusal beside 60 older requests makes it lead to 60.

    The few requests of the slow start are not what the server has no room for.
    """
    concurrency = Concurrency(128, first=128)
    concurrency.hesitate(now=1.0)
    slow = concurrency.limit()
    concurrency.refused(1.5, now=2.0, in_flight=[0.5] * 60)
    assert concurrency.limit() == slow
    assert concurrency.threshold == 60


def test_a_refusal_beside_few_others_ends_a_slow_start() -> None:
    """During a slow start, a refusal beside two other requests lowers the number to two."""
    concurrency = Concurrency(128, first=128)
    concurrency.hesitate(now=1.0)
    concurrency.refused(1.5, now=2.0, in_flight=[1.4] * 2)
    assert concurrency.limit() == concurrency.threshold == 2


def test_what_was_answered_meanwhile_was_let_in_too() -> None:
    """Requests answered while others are refused were let in too.

    Of 12 that were sent together, three are answered before the last refusal comes.
    """
    concurrency = Concurrency(128, first=32)
    concurrency.refused(0.0, 0.1, in_flight=[0.0] * 11)
    for answer in range(3):
        concurrency.answered(sent=0.0, now=0.2, work=WORK, in_flight=11 - answer)
    for i in range(8):
        concurrency.refused(0.0, 0.3 + i / 100, in_flight=[0.0] * (7 - i))
    assert concurrency.limit() == 3


def test_batches_are_cut_for_a_few_times_what_was_let_in() -> None:
    """Where eight requests at a time are let in, the work is shared by a few times as many.

    A share of one in 128 would make the batches far too small.
    """
    concurrency = Concurrency(128, is_known=True)
    concurrency.open()
    assert concurrency.useful == 128
    concurrency.refused(1.0, now=1.1, in_flight=[0.5] * 8)
    assert concurrency.useful == SHARING * concurrency.threshold < 128


def test_a_slow_start_counts_from_the_refusal_on() -> None:
    """A slow start counts from the refusal on, however many answers come.

    Otherwise each round would let a second burst through.
    """
    concurrency = Concurrency(128, is_known=True)
    concurrency.open()
    concurrency.throttled(1.0)
    for answer in range(40):
        concurrency.answered(sent=1.5, now=2.0 + answer / 100, work=100, in_flight=30)
    assert concurrency.is_slow_start
    assert concurrency.began == 1.0


@pytest.mark.parametrize(("growth", "limit"), [(1.0, 15), (10.0, MOST)])
def test_round_trips_of_larger_requests_may_take_longer(growth: float, limit: int) -> None:
    """Round trips of larger requests may take longer without being the sign of a line.

    Only a delay that the work does not explain shows a line.
    """
    concurrency = Concurrency(MOST, first=8)
    now = 0.0
    while concurrency.limit() < MOST:
        for _ in range(MOST_ANSWERS):
            concurrency.answered(sent=now, now=now + 0.5, work=1000.0, in_flight=MOST)
        now += 1.0
    lowest = MOST
    for _ in range(4 * MOST_ANSWERS):
        now += 0.01
        concurrency.answered(sent=now, now=now + 6.5, work=1000.0 * growth, in_flight=MOST)
        lowest = min(lowest, concurrency.limit())
    assert lowest == limit
