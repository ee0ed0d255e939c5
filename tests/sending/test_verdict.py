"""What becomes of failed batches: the server's state costs no text, and a bad text fails alone."""

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
    """Return the reply to a request that fails in this way."""
    error = _ERRORS[kind]()
    return Reply(after=math.inf if error is None else after, error=error)


@dataclass
class Unsteady:
    """A server that fails requests at random, restarts, and always fails some texts.

    Attributes:
        seed: seed of the random numbers.
        share: share of the requests that fail at random.
        kind: how these requests fail.
        bad: rows that always fail.
        bad_kind: how these rows fail.
        restarts: number of requests after which it is away for 4 seconds, or 0 for never.
        tries: how often each bad row was received.
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
        """Create the random number generator."""
        self._dice = random.Random(self.seed)

    def receive(self, request: Request) -> Reply:
        """Draw the reply to a request."""
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
    """Send texts to the server and check that exactly the bad ones are lost."""
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
    """Failures by chance or in an outage cost no text."""

    @pytest.mark.parametrize("max_items", [1, 50])
    @pytest.mark.parametrize("share", [0.1, 0.3, 0.5])
    @pytest.mark.parametrize("kind", sorted(_ERRORS))
    def test_a_server_that_fails_requests_at_random_loses_nothing(
        self, kind: str, share: float, max_items: int
    ) -> None:
        """A server that fails up to half of all requests at random, in any way, loses no text."""
        for seed in SEEDS:
            server = Unsteady(seed=seed, share=share, kind=kind)
            run(server, 400 if max_items == 1 else 1500, max_items)

    @pytest.mark.slow
    @pytest.mark.parametrize("kind", ["reset", "500"])
    def test_of_20_000_texts_a_server_that_fails_three_in_ten_loses_none(self, kind: str) -> None:
        """Of 20,000 texts, each in its own request, none is lost if three in ten requests fail."""
        run(Unsteady(seed=1, share=0.3, kind=kind), 20_000, 1, max_workers=64)

    @pytest.mark.parametrize("max_items", [1, 25])
    @pytest.mark.parametrize("max_workers", [1, 2, 8, 32])
    @pytest.mark.parametrize("restarts", [5, 20])
    def test_a_server_that_restarts_again_and_again_loses_nothing(
        self, restarts: int, max_workers: int, max_items: int
    ) -> None:
        """A server that restarts again and again loses no text.

        Not even the text in flight each time is lost, because an outage uses up no retries.
        """
        for seed in SEEDS:
            server = Unsteady(seed=seed, restarts=restarts)
            run(server, 80 * max_items, max_items, max_workers=max_workers)

    def test_what_failed_most_often_goes_first_when_the_server_is_back(self) -> None:
        """After an outage, the batch that failed most often is sent first.

        Otherwise the batch that is sent last would be caught in each of the next outages.
        """
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
    """A text that always fails is found, fails alone and takes few requests."""

    @pytest.mark.parametrize("max_items", [1, 50])
    @pytest.mark.parametrize("bad_kind", sorted(_ERRORS))
    @pytest.mark.parametrize(("share", "kind"), [(0.0, "503"), (0.1, "503"), (0.3, "reset")])
    def test_amid_random_failures(
        self, share: float, kind: str, bad_kind: str, max_items: int
    ) -> None:
        """A bad text is found amid random failures, with more tries the more of them there are."""
        for seed in SEEDS:
            bad = frozenset({123})
            server = Unsteady(seed=seed, share=share, kind=kind, bad=bad, bad_kind=bad_kind)
            run(server, 400 if max_items == 1 else 2000, max_items)
            most = 12 if share == 0 else 20 if share < 0.2 else 45
            # A text that is overloaded alone again and again is first treated as sent too fast.
            assert server.tries[123] <= most + 6 * (bad_kind == "503")

    @pytest.mark.parametrize("max_items", [1, 50])
    def test_amid_restarts(self, max_items: int) -> None:
        """A bad text is found at a server that restarts, by its failures between the outages."""
        for seed in SEEDS:
            server = Unsteady(seed=seed, restarts=20, bad=frozenset({123}))
            run(server, 400 if max_items == 1 else 2000, max_items)

    @pytest.mark.parametrize("bad", [range(3, 403, 20), range(203, 223)])
    @pytest.mark.parametrize("max_items", [1, 50])
    def test_many_of_them(self, bad: range, max_items: int) -> None:
        """Many bad texts, scattered or in a row, fail alone and are not taken for an outage."""
        for seed in SEEDS:
            server = Unsteady(seed=seed, bad=frozenset(bad))
            run(server, 500 if max_items == 1 else 2000, max_items)
            assert max(server.tries.values()) <= 16

    def test_its_neighbours_are_not_blamed_for_it(self) -> None:
        """The neighbours of a bad text are not lost with it, even if they fail by chance later.

        They were in every request that failed because of it.
        """
        for seed in range(40):
            server = Unsteady(seed=seed, share=0.3, kind="500", bad=frozenset({7}))
            run(server, 200, 50)


class TestMaxRetries:
    """`max_retries` has the same meaning for one text and for a batch of several."""

    @pytest.mark.parametrize(("max_retries", "tries"), [(0, 1), (1, 2), (2, 3), (3, 4)])
    def test_one_text_fails_once_more_than_it_is_retried(
        self, max_retries: int, tries: int
    ) -> None:
        """A text that fails while others are answered is sent once more than `max_retries`.

        Little is known about the server here.
        """
        server = FakeServer(error=lambda request: refusal(500) if 9 in request.rows else None)
        sender = make_sender(max_workers=1, max_retries=max_retries)
        rehearsal = Rehearsal(sender, server)
        rehearsal.add(make_work(400, max_items=1))
        rehearsal.run()
        assert list(lost(rehearsal.outcomes)) == [9]
        assert server.rows().count(9) == tries

    def test_without_retries_a_batch_that_met_an_error_is_cut_at_once(self) -> None:
        """Without retries a failed batch is cut at once: no two requests hold the same texts."""
        server = FakeServer(error=lambda request: refusal(500) if 9 in request.rows else None)
        rehearsal = Rehearsal(make_sender(max_workers=1, max_retries=0), server)
        rehearsal.add(make_work(40, max_items=8))
        rehearsal.run()
        assert list(lost(rehearsal.outcomes)) == [9]
        sent = [tuple(request.rows.tolist()) for request in server.requests]
        assert len(set(sent)) == len(sent)

    def test_without_retries_a_broken_connection_is_judged_by_what_comes_after_it(self) -> None:
        """Without retries, a text whose connection broke once is tried again.

        A broken connection proves nothing by itself, since an outage looks the same.
        """
        away = itertools.count()

        def error(request: Request) -> Exception | None:
            return ConnectionResetError() if 9 in request.rows and next(away) < 1 else None

        rehearsal = Rehearsal(make_sender(max_workers=1, max_retries=0), FakeServer(error=error))
        rehearsal.add(make_work(20, max_items=1))
        rehearsal.run()
        assert len(done(rehearsal.outcomes)) == 20


class TestRefusedForTheRate:
    """Whether a batch was too large for a hidden quota, or came too early."""

    THROTTLED = diagnose(refusal(429, "slow down"))

    @pytest.fixture
    def pacer(self) -> Pacer:
        """Return a pacer that has sent nothing so far."""
        return Pacer(max_workers=8)

    @pytest.fixture
    def judge(self, pacer: Pacer) -> Judge:
        """Return a judge for a server that answered 5,000 tokens once and refused the rest."""
        limits = SizeLimits()
        pacer.throttle.in_a_row = 2
        limits.answered(self.batch(5), 0.1, 60.0)
        return Judge(pacer, limits, Odds(), max_retries=8, draw=lambda: 0.5)

    @staticmethod
    def batch(texts: int) -> Batch:
        """Return a batch of texts of 1,000 tokens each."""
        return make_work(texts, tokens=1_000).batch(np.arange(texts))

    def is_cut(self, judge: Judge, batch: Batch, now: float = 0.0) -> bool:
        """Return whether a refusal makes the judge cut the batch."""
        return isinstance(judge.verdict(batch, self.THROTTLED, refusal(429), now), Cut)

    def test_a_batch_above_all_that_passed_is_cut_when_it_is_refused_again(
        self, judge: Judge
    ) -> None:
        """A batch larger than all that passed is cut at its second refusal alone."""
        large = self.batch(20)
        assert [self.is_cut(judge, large) for _ in range(2)] == [False, True]

    def test_what_has_passed_is_never_cut(self, judge: Judge) -> None:
        """A batch as large as one that passed is never cut, because it came too early each time."""
        assert not any(self.is_cut(judge, batch) for batch in [self.batch(5)] * 20)

    @pytest.mark.parametrize("count", [1, 3])
    def test_refusals_of_what_has_passed_speak_for_the_large_ones(
        self, judge: Judge, count: int
    ) -> None:
        """Each refusal of a size that has passed allows a large batch one more refusal.

        Such a refusal shows that everything came too early.
        """
        large, usual = self.batch(20), self.batch(5)
        assert not self.is_cut(judge, large)
        assert not any(self.is_cut(judge, usual) for _ in range(count))
        assert [self.is_cut(judge, large) for _ in range(count + 1)] == [False] * count + [True]

    def test_whatever_is_refused_for_more_than_a_minute_is_cut(
        self, judge: Judge, pacer: Pacer
    ) -> None:
        """Any batch refused for more than a minute is cut, even if as much got through before.

        No quota is counted over a longer time.
        """
        pacer.throttle.in_a_row, pacer.throttle.since = 8, 0.0
        usual = self.batch(5)
        assert not self.is_cut(judge, usual, now=60.0)
        assert self.is_cut(judge, usual, now=80.0)

    def test_not_where_the_server_says_how_long_it_takes(self, judge: Judge, pacer: Pacer) -> None:
        """A batch is not cut while the server announces how long the wait takes."""
        pacer.throttle.in_a_row, pacer.throttle.since = 8, 0.0
        told = diagnose(refusal(429, "slow down", headers={"retry-after": "600"}))
        assert not isinstance(judge.verdict(self.batch(5), told, refusal(429), 80.0), Cut)

    def test_an_answer_ends_that(self, judge: Judge) -> None:
        """An answer cancels the allowance, and a large batch that is refused again is too large."""
        large, usual = self.batch(20), self.batch(5)
        assert not self.is_cut(judge, large)
        assert not self.is_cut(judge, usual)
        judge.answered(usual)
        assert self.is_cut(judge, large)


class TestFailuresForSize:
    """A batch that fails each time while smaller ones are answered is cut for its size."""

    FAILED = diagnose(refusal(500, "Internal Server Error"))

    @pytest.fixture
    def limits(self) -> SizeLimits:
        """Return the limits known of a server that answered 5 texts once."""
        limits = SizeLimits()
        limits.answered(self.batch(5), 0.1, 60.0)
        return limits

    @pytest.fixture
    def pacer(self) -> Pacer:
        """Return a pacer that has sent nothing so far."""
        return Pacer(max_workers=8)

    @pytest.fixture
    def judge(self, pacer: Pacer, limits: SizeLimits) -> Judge:
        """Return a judge for that server."""
        return Judge(pacer, limits, Odds(), max_retries=8, draw=lambda: 0.5)

    @staticmethod
    def batch(texts: int) -> Batch:
        """Return a batch of texts of 10 tokens each."""
        return make_work(texts).batch(np.arange(texts))

    def fails(self, judge: Judge, batch: Batch, now: float) -> Verdict:
        """Return the verdict on a batch that fails at this time."""
        return judge.verdict(batch, self.FAILED, refusal(500), now)

    def search(self, judge: Judge, pacer: Pacer) -> tuple[Batch, Batch]:
        """Make two batches fail, one of them again after an answer, and return both."""
        large, other = self.batch(20), self.batch(20)
        for batch in (large, other):
            assert isinstance(self.fails(judge, batch, now=1.0), Resend)
        pacer.health.answered(1.5, 1.5)
        assert isinstance(self.fails(judge, large, now=2.0), Cut)
        return large, other

    def test_the_second_failure_is_enough_if_others_are_answered_in_between(
        self, judge: Judge, pacer: Pacer, limits: SizeLimits
    ) -> None:
        """A second failure is enough to cut a batch if others were answered in between.

        The other batches that failed in this way wait for what its parts show.
        """
        _, other = self.search(judge, pacer)
        assert limits.parks(other)

    def test_not_while_nobody_is_answered(self, judge: Judge, limits: SizeLimits) -> None:
        """While no request is answered the server is away, and no size limit is searched for."""
        large = self.batch(20)
        for now in (1.0, 2.0):
            self.fails(judge, large, now)
        assert not limits.is_trying

    def test_not_where_as_much_got_through(
        self, judge: Judge, pacer: Pacer, limits: SizeLimits
    ) -> None:
        """If as large a batch got through before, no size limit is searched for.

        A text or chance is the cause then.
        """
        usual = self.batch(5)
        self.fails(judge, usual, now=1.0)
        pacer.health.answered(1.5, 1.5)
        self.fails(judge, usual, now=2.0)
        assert not limits.is_trying

    def test_a_usual_batch_is_sent_again_where_failures_are_chance(
        self, pacer: Pacer, limits: SizeLimits
    ) -> None:
        """A batch of a usual size is not cut while half of all requests fail by chance."""
        odds = Odds()
        for number in range(40):
            place = odds.sent()
            (place.failed if number % 2 else place.answered)()
        judge = Judge(pacer, limits, odds, max_retries=8, draw=lambda: 0.5)
        usual = self.batch(5)
        for now in (1.0, 2.0):
            usual.place = odds.sent()
            assert isinstance(self.fails(judge, usual, now), Resend)
            pacer.health.answered(now + 0.5, now + 0.5)

    def test_nobody_was_answered_since_it_failed_last(
        self, judge: Judge, pacer: Pacer, limits: SizeLimits
    ) -> None:
        """If no request was answered since the last failure, no size limit is searched for.

        The server may have gone away in between.
        """
        large = self.batch(20)
        self.fails(judge, large, now=1.0)
        pacer.health.answered(1.5, 1.5)
        large.failures, large.failed_last = 2, 2.0
        self.fails(judge, large, now=3.0)
        assert not limits.is_trying

    def test_what_is_above_a_known_limit_does_not_wait(
        self, judge: Judge, pacer: Pacer, limits: SizeLimits
    ) -> None:
        """A batch above a known limit does not wait for the search for another limit.

        It is cut for the known limit at once.
        """
        _, other = self.search(judge, pacer)
        named = diagnose(refusal(400, "at most 10 inputs are allowed"))
        limits.refused(self.batch(30), replace(named, max_items=10))
        assert not limits.parks(other)

    def test_a_part_that_fails_though_as_much_got_through_ends_the_search(
        self, judge: Judge, pacer: Pacer, limits: SizeLimits
    ) -> None:
        """If a part fails though as much got through, the search ends and no limit is learnt.

        One of its texts is the cause, and the batches that waited go on.
        """
        large, other = self.search(judge, pacer)
        assert limits.parks(other)
        good, bad = self.batch(10), self.batch(10)
        limits.inherit(large, [good, bad])
        limits.answered(good, 0.1, 60.0)
        assert limits.items == 10  # until the cause is known
        pacer.health.answered(2.5, 2.5)
        verdict = self.fails(judge, bad, now=3.0)
        assert isinstance(verdict, Resend | Cut)
        assert not limits.is_trying
        assert limits.items == math.inf

    def test_an_overload_is_only_taken_for_the_size_after_a_quiet_time(
        self, judge: Judge, pacer: Pacer, limits: SizeLimits
    ) -> None:
        """An overload counts as a matter of size only after a quiet time.

        A proxy that lets one request through every few seconds refuses large ones too.
        """
        told = diagnose(refusal(503, "Service Unavailable"))
        large = self.batch(20)
        for now in (1.0, 2.0, 20.0):
            judge.verdict(large, told, refusal(503), now)
            pacer.health.answered(now + 0.5, now + 0.5)
        assert pacer.throttle.delay(20.5) == 0
        assert judge.verdict(large, told, refusal(503), 22.0) == Resend()
        assert pacer.throttle.delay(22.0) == QUIET  # for all workers
        assert not limits.is_trying
        large.quiet = QUIET
        judge.verdict(large, told, refusal(503), 22.0 + QUIET)
        assert limits.is_trying

    def test_a_quiet_time_that_never_comes_is_not_waited_for_for_ever(
        self, judge: Judge, pacer: Pacer, limits: SizeLimits
    ) -> None:
        """The judge stops asking for a quiet time after about two minutes in which it never came.

        Other calls send something after each pause.
        """
        told = diagnose(refusal(503, "Service Unavailable"))
        large, held = self.batch(20), []
        for now in range(1, 300, 16):
            judge.verdict(large, told, refusal(503), now)
            held.append(pacer.throttle.delay(now) == QUIET)
            pacer.health.answered(now + 0.5, now + 0.5)
        assert 0 < sum(held) <= 8
        assert not any(held[8:])
        assert not limits.is_trying
