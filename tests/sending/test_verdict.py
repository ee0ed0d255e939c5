"""What becomes of failed batches: nothing is lost to the server's state, a bad text alone fails."""

import itertools
import math
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from langchain_batch_embed.errors import ResponseError
from langchain_batch_embed.pacing.diagnosis import diagnose
from langchain_batch_embed.pacing.hedging import Hedges
from langchain_batch_embed.pacing.pacer import Pacer
from langchain_batch_embed.report import Tally
from langchain_batch_embed.sending.odds import Odds
from langchain_batch_embed.sending.rehearsal import Reply, Request
from langchain_batch_embed.sending.size_limits import SizeLimits
from langchain_batch_embed.sending.verdict import QUIET, Cut, Judge, Resend, Verdict
from langchain_batch_embed.sending.work import Batch
from tests.sending.calls import FakeServer, Rehearsal, done, lost, make_sender, make_work, refusal

_ERRORS: dict[str, Callable[[], Exception | None]] = {
    "reset": lambda: ConnectionResetError("reset"),
    "500": lambda: refusal(500),
    "503": lambda: refusal(503),
    "garbage": lambda: ResponseError("not JSON"),
    "silence": lambda: None,
}


def failure(kind: str, after: float) -> Reply:
    """Return the reply of a request that fails in this way."""
    error = _ERRORS[kind]()
    return Reply(after=math.inf if error is None else after, error=error)


@dataclass
class Unsteady:
    """A server that fails requests at random, restarts, and always fails some texts.

    Attributes:
        seed: of its luck.
        share: of the requests that fail at random.
        kind: how these fail.
        bad: rows that always fail.
        bad_kind: how these fail.
        restarts: it is away for 4 seconds, each time after this many requests; 0: never.
        tries: how often each bad row was seen.
    """

    seed: int
    share: float = 0.0
    kind: str = "reset"
    bad: frozenset[int] = frozenset()
    bad_kind: str = "500"
    restarts: int = 0
    requests: int = 0
    tries: Counter[int] = field(default_factory=Counter)
    _back_at: float = -math.inf
    _next_restart: int = 10

    def __post_init__(self) -> None:
        """Throw the dice for the first time."""
        self._dice = random.Random(self.seed)

    def receive(self, request: Request) -> Reply:
        """Draw what comes of it."""
        self.requests += 1
        after = 0.3 * math.exp(0.6 * self._dice.gauss(0, 1))
        is_up = request.sent >= self._back_at
        if self.restarts and is_up and request.number >= self._next_restart:
            self._back_at = request.sent + 4
            self._next_restart = request.number + self.restarts
        if request.sent < self._back_at:
            return Reply(after=0.05, error=ConnectionRefusedError("refused"))
        if self._dice.random() < self.share:
            return failure(self.kind, after)
        bad = self.bad.intersection(request.rows.tolist())
        self.tries.update(bad)
        return failure(self.bad_kind, after) if bad else Reply(after=after)


def run(
    server: Unsteady, count: int, max_items: int, *, max_workers: int = 8, max_retries: int = 8
) -> Rehearsal:
    """Send texts to it, and check that exactly the bad ones are lost."""
    sender = make_sender(
        max_workers=max_workers, max_retries=max_retries, timeout=20.0, seed=server.seed
    )
    rehearsal = Rehearsal(sender, server)
    rehearsal.add(make_work(count, tokens=100, max_items=max_items))
    rehearsal.run()
    assert set(lost(rehearsal.outcomes)) == set(server.bad)
    assert len(done(rehearsal.outcomes)) == count - len(server.bad)
    return rehearsal


SEEDS = range(3)


class TestChance:
    """What fails by chance, or in an outage, costs no text."""

    @pytest.mark.parametrize("max_items", [1, 50])
    @pytest.mark.parametrize("share", [0.1, 0.3, 0.5])
    @pytest.mark.parametrize("kind", sorted(_ERRORS))
    def test_a_server_that_fails_requests_at_random_loses_nothing(
        self, kind: str, share: float, max_items: int
    ) -> None:
        """Whatever the way in which it fails up to half of all requests."""
        for seed in SEEDS:
            server = Unsteady(seed=seed, share=share, kind=kind)
            run(server, 400 if max_items == 1 else 1500, max_items)

    @pytest.mark.slow
    @pytest.mark.parametrize("kind", ["reset", "500"])
    def test_of_20_000_texts_a_server_that_fails_three_in_ten_loses_none(self, kind: str) -> None:
        """Each in a request of its own."""
        run(Unsteady(seed=1, share=0.3, kind=kind), 20_000, 1, max_workers=64)

    @pytest.mark.parametrize("max_items", [1, 25])
    @pytest.mark.parametrize("max_workers", [1, 2, 8, 32])
    @pytest.mark.parametrize("restarts", [5, 20])
    def test_a_server_that_restarts_again_and_again_loses_nothing(
        self, restarts: int, max_workers: int, max_items: int
    ) -> None:
        """Also the text that was in flight each time: no outage uses up its retries."""
        for seed in SEEDS:
            server = Unsteady(seed=seed, restarts=restarts)
            run(server, 80 * max_items, max_items, max_workers=max_workers)

    def test_what_failed_most_often_goes_first_when_the_server_is_back(self) -> None:
        """Or what is sent last would be in each of the next outages."""
        work = make_work(30, max_items=10)
        queue = make_sender().queue(work, Tally(), Hedges())
        batches = []
        while (batch := queue.peek(queue.deployments[0], 0)) is not None:
            queue.take(batch, queue.deployments[0], 0)
            batches.append(batch)
        error = refusal(503)
        for batch, times in zip(batches, (2, 5, 3), strict=True):
            batch.failures = times
            queue.failed(batch, queue.deployments[0], diagnose(error), error, 1)
        queue.release_delayed()
        order = []
        while (batch := queue.peek(queue.deployments[0], 1)) is not None:
            queue.take(batch, queue.deployments[0], 1)
            order.append(batches.index(batch))
        assert order == [1, 2, 0]


class TestBadTexts:
    """A text that always fails is found, alone, and with few requests."""

    @pytest.mark.parametrize("max_items", [1, 50])
    @pytest.mark.parametrize("bad_kind", sorted(_ERRORS))
    @pytest.mark.parametrize(("share", "kind"), [(0.0, "503"), (0.1, "503"), (0.3, "reset")])
    def test_amid_random_failures(
        self, share: float, kind: str, bad_kind: str, max_items: int
    ) -> None:
        """A few tries where all others are answered, and more the more fail by chance."""
        for seed in SEEDS:
            bad = frozenset({123})
            server = Unsteady(seed=seed, share=share, kind=kind, bad=bad, bad_kind=bad_kind)
            run(server, 400 if max_items == 1 else 2000, max_items)
            most = 12 if share == 0 else 20 if share < 0.2 else 45
            # Alone again and again, an overload is first taken for a matter of rate.
            assert server.tries[123] <= most + 6 * (bad_kind == "503")

    @pytest.mark.parametrize("max_items", [1, 50])
    def test_amid_restarts(self, max_items: int) -> None:
        """Its failures between the outages tell."""
        for seed in SEEDS:
            server = Unsteady(seed=seed, restarts=20, bad=frozenset({123}))
            run(server, 400 if max_items == 1 else 2000, max_items)

    @pytest.mark.parametrize("bad", [range(3, 403, 20), range(203, 223)])
    @pytest.mark.parametrize("max_items", [1, 50])
    def test_many_of_them(self, bad: range, max_items: int) -> None:
        """Scattered or in a row: their errors are not taken for the server's state."""
        for seed in SEEDS:
            server = Unsteady(seed=seed, bad=frozenset(bad))
            run(server, 500 if max_items == 1 else 2000, max_items)
            assert max(server.tries.values()) <= 16

    def test_its_neighbours_are_not_blamed_for_it(self) -> None:
        """They were in all the requests that failed for it, and then fail by chance."""
        for seed in range(40):
            server = Unsteady(seed=seed, share=0.3, kind="500", bad=frozenset({7}))
            run(server, 200, 50)


class TestMaxRetries:
    """It is one rule for one text and for a batch of several."""

    @pytest.mark.parametrize(("max_retries", "tries"), [(0, 1), (1, 2), (2, 3), (3, 4)])
    def test_one_text_fails_once_more_than_it_is_retried(
        self, max_retries: int, tries: int
    ) -> None:
        """While others are answered, at a server of which little is known."""
        server = FakeServer(error=lambda request: refusal(500) if 9 in request.rows else None)
        sender = make_sender(max_workers=1, max_retries=max_retries)
        rehearsal = Rehearsal(sender, server)
        rehearsal.add(make_work(400, max_items=1))
        rehearsal.run()
        assert list(lost(rehearsal.outcomes)) == [9]
        assert server.rows().count(9) == tries

    def test_without_retries_a_batch_that_met_an_error_is_cut_at_once(self) -> None:
        """None of its texts is sent with the same others again."""
        server = FakeServer(error=lambda request: refusal(500) if 9 in request.rows else None)
        rehearsal = Rehearsal(make_sender(max_workers=1, max_retries=0), server)
        rehearsal.add(make_work(40, max_items=8))
        rehearsal.run()
        assert list(lost(rehearsal.outcomes)) == [9]
        sent = [tuple(request.rows.tolist()) for request in server.requests]
        assert len(set(sent)) == len(sent)

    def test_without_retries_a_broken_connection_is_judged_by_what_comes_after_it(self) -> None:
        """It says nothing by itself: an outage looks the same."""
        away = itertools.count()

        def error(request: Request) -> Exception | None:
            return ConnectionResetError() if 9 in request.rows and next(away) < 1 else None

        rehearsal = Rehearsal(make_sender(max_workers=1, max_retries=0), FakeServer(error=error))
        rehearsal.add(make_work(20, max_items=1))
        rehearsal.run()
        assert len(done(rehearsal.outcomes)) == 20


class TestRefusedForTheRate:
    """Whether a batch was too large for a quota that nobody tells, or came too early."""

    THROTTLED = diagnose(refusal(429, "slow down"))

    @pytest.fixture
    def pacer(self) -> Pacer:
        """Count what was sent so far: nothing."""
        return Pacer(max_workers=8)

    @pytest.fixture
    def judge(self, pacer: Pacer) -> Judge:
        """Judge at a server that answered 5,000 tokens once and has refused what came since."""
        limits = SizeLimits()
        pacer.throttle.in_a_row = 2
        limits.answered(self.batch(5), 0.1, 60.0)
        return Judge(pacer, limits, Odds(), max_retries=8, draw=lambda: 0.5)

    @staticmethod
    def batch(texts: int) -> Batch:
        """Return a batch of texts of 1,000 tokens."""
        return make_work(texts, tokens=1_000).batch(np.arange(texts))

    def is_cut(self, judge: Judge, batch: Batch, now: float = 0.0) -> bool:
        """Tell whether a refusal makes the judge cut a batch."""
        return isinstance(judge.verdict(batch, self.THROTTLED, refusal(429), now), Cut)

    def test_a_batch_above_all_that_passed_is_cut_when_it_is_refused_again(
        self, judge: Judge
    ) -> None:
        """Alone, twice."""
        large = self.batch(20)
        assert [self.is_cut(judge, large) for _ in range(2)] == [False, True]

    def test_what_has_passed_is_never_cut(self, judge: Judge) -> None:
        """It came too early, each time."""
        assert not any(self.is_cut(judge, batch) for batch in [self.batch(5)] * 20)

    @pytest.mark.parametrize("count", [1, 3])
    def test_refusals_of_what_has_passed_speak_for_the_large_ones(
        self, judge: Judge, count: int
    ) -> None:
        """Everything came too early: each of them takes one more refusal of a large one."""
        large, usual = self.batch(20), self.batch(5)
        assert not self.is_cut(judge, large)
        assert not any(self.is_cut(judge, usual) for _ in range(count))
        assert [self.is_cut(judge, large) for _ in range(count + 1)] == [False] * count + [True]

    def test_whatever_is_refused_for_more_than_a_minute_is_cut(
        self, judge: Judge, pacer: Pacer
    ) -> None:
        """As much got through before, but no quota is counted for that long."""
        pacer.throttle.in_a_row, pacer.throttle.since = 8, 0.0
        usual = self.batch(5)
        assert not self.is_cut(judge, usual, now=60.0)
        assert self.is_cut(judge, usual, now=80.0)

    def test_not_where_the_server_says_how_long_it_takes(self, judge: Judge, pacer: Pacer) -> None:
        """Then it is waited for."""
        pacer.throttle.in_a_row, pacer.throttle.since = 8, 0.0
        told = diagnose(refusal(429, "slow down", headers={"retry-after": "600"}))
        assert not isinstance(judge.verdict(self.batch(5), told, refusal(429), 80.0), Cut)

    def test_an_answer_ends_that(self, judge: Judge) -> None:
        """Time has passed, so a large one that is refused again is too large."""
        large, usual = self.batch(20), self.batch(5)
        assert not self.is_cut(judge, large)
        assert not self.is_cut(judge, usual)
        judge.answered(usual)
        assert self.is_cut(judge, large)


class TestFailuresForSize:
    """A batch that fails each time, while smaller ones are answered, is cut for its size."""

    FAILED = diagnose(refusal(500, "Internal Server Error"))

    @pytest.fixture
    def limits(self) -> SizeLimits:
        """Know a server that answered 5 texts once."""
        limits = SizeLimits()
        limits.answered(self.batch(5), 0.1, 60.0)
        return limits

    @pytest.fixture
    def pacer(self) -> Pacer:
        """Count what was sent so far: nothing."""
        return Pacer(max_workers=8)

    @pytest.fixture
    def judge(self, pacer: Pacer, limits: SizeLimits) -> Judge:
        """Judge at that server."""
        return Judge(pacer, limits, Odds(), max_retries=8, draw=lambda: 0.5)

    @staticmethod
    def batch(texts: int) -> Batch:
        """Return a batch of texts of 10 tokens."""
        return make_work(texts).batch(np.arange(texts))

    def fails(self, judge: Judge, batch: Batch, now: float) -> Verdict:
        """Return what becomes of a batch that fails at a time."""
        return judge.verdict(batch, self.FAILED, refusal(500), now)

    def search(self, judge: Judge, pacer: Pacer) -> tuple[Batch, Batch]:
        """Make two batches fail, one of them again after an answer; return both."""
        large, other = self.batch(20), self.batch(20)
        for batch in (large, other):
            assert isinstance(self.fails(judge, batch, now=1.0), Resend)
        pacer.health.answered(1.5)
        assert isinstance(self.fails(judge, large, now=2.0), Cut)
        return large, other

    def test_the_second_failure_is_enough_if_others_are_answered_in_between(
        self, judge: Judge, pacer: Pacer, limits: SizeLimits
    ) -> None:
        """And the other batches that failed in this way wait for what its parts tell."""
        _, other = self.search(judge, pacer)
        assert limits.parks(other)

    def test_not_while_nobody_is_answered(self, judge: Judge, limits: SizeLimits) -> None:
        """The server is away: whatever becomes of the batch, no limit is found out."""
        large = self.batch(20)
        for now in (1.0, 2.0):
            self.fails(judge, large, now)
        assert not limits.is_trying

    def test_not_where_as_much_got_through(
        self, judge: Judge, pacer: Pacer, limits: SizeLimits
    ) -> None:
        """It is a text, or chance: no limit is found out."""
        usual = self.batch(5)
        self.fails(judge, usual, now=1.0)
        pacer.health.answered(1.5)
        self.fails(judge, usual, now=2.0)
        assert not limits.is_trying

    def test_a_usual_batch_is_sent_again_where_failures_are_chance(
        self, pacer: Pacer, limits: SizeLimits
    ) -> None:
        """As much got through, and half of all requests fail: it is not cut."""
        odds = Odds()
        for number in range(40):
            place = odds.sent()
            (place.failed if number % 2 else place.answered)()
        judge = Judge(pacer, limits, odds, max_retries=8, draw=lambda: 0.5)
        usual = self.batch(5)
        for now in (1.0, 2.0):
            usual.place = odds.sent()
            assert isinstance(self.fails(judge, usual, now), Resend)
            pacer.health.answered(now + 0.5)

    def test_nobody_was_answered_since_it_failed_last(
        self, judge: Judge, pacer: Pacer, limits: SizeLimits
    ) -> None:
        """The server may have gone away in between."""
        large = self.batch(20)
        self.fails(judge, large, now=1.0)
        pacer.health.answered(1.5)
        large.failures, large.failed_last = 2, 2.0
        self.fails(judge, large, now=3.0)
        assert not limits.is_trying

    def test_what_is_above_a_known_limit_does_not_wait(
        self, judge: Judge, pacer: Pacer, limits: SizeLimits
    ) -> None:
        """It is cut for that limit, whatever else is being found out."""
        _, other = self.search(judge, pacer)
        named = diagnose(refusal(400, "at most 10 inputs are allowed"))
        limits.refused(self.batch(30), replace(named, max_items=10))
        assert not limits.parks(other)

    def test_a_part_that_fails_though_as_much_got_through_ends_the_search(
        self, judge: Judge, pacer: Pacer, limits: SizeLimits
    ) -> None:
        """One of its texts is the cause, so no limit is learnt, and what waited goes on."""
        large, other = self.search(judge, pacer)
        assert limits.parks(other)
        good, bad = self.batch(10), self.batch(10)
        limits.inherit(large, [good, bad])
        limits.answered(good, 0.1, 60.0)
        assert limits.items == 10  # until it is known
        pacer.health.answered(2.5)
        verdict = self.fails(judge, bad, now=3.0)
        assert isinstance(verdict, Resend | Cut)
        assert not limits.is_trying
        assert limits.items == math.inf

    def test_an_overload_is_only_taken_for_the_size_after_a_quiet_time(
        self, judge: Judge, pacer: Pacer, limits: SizeLimits
    ) -> None:
        """A proxy that lets one request in a few seconds through refuses large ones too."""
        told = diagnose(refusal(503, "Service Unavailable"))
        large = self.batch(20)
        for now in (1.0, 2.0, 20.0):
            judge.verdict(large, told, refusal(503), now)
            pacer.health.answered(now + 0.5)
        assert pacer.throttle.delay(20.5) == 0
        assert judge.verdict(large, told, refusal(503), 22.0) == Resend()
        assert pacer.throttle.delay(22.0) == QUIET  # for everybody
        assert not limits.is_trying
        large.quiet = QUIET
        judge.verdict(large, told, refusal(503), 22.0 + QUIET)
        assert limits.is_trying

    def test_a_quiet_time_that_never_comes_is_not_waited_for_for_ever(
        self, judge: Judge, pacer: Pacer, limits: SizeLimits
    ) -> None:
        """Other calls send something after each pause: after two minutes nobody waits any more."""
        told = diagnose(refusal(503, "Service Unavailable"))
        large, held = self.batch(20), []
        for now in range(1, 300, 16):
            judge.verdict(large, told, refusal(503), now)
            held.append(pacer.throttle.delay(now) == QUIET)
            pacer.health.answered(now + 0.5)
        assert 0 < sum(held) <= 8
        assert not any(held[8:])
        assert not limits.is_trying
