"""All calls of one object to one server, in simulated time."""

import itertools
import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_batch_embed.errors import DeadlineError, DimensionsError, NotSentError, ResponseError
from langchain_batch_embed.pacing.diagnosis import Kind
from langchain_batch_embed.pacing.hedging import Hedges
from langchain_batch_embed.report import Tally
from langchain_batch_embed.sending import deployment as deployment_module
from langchain_batch_embed.sending.deployment import REFUSED_IN_A_ROW
from langchain_batch_embed.sending.flight import Flight
from langchain_batch_embed.sending.rehearsal import Reply, Request
from tests.sending.calls import (
    FakeServer,
    Rehearsal,
    done,
    lost,
    make_sender,
    make_work,
    refusal,
)
from tests.simulated.grid import Cell, sample
from tests.simulated.server import SimulatedServer
from tests.support import examples

SPENT = refusal(429, "You exceeded your current quota", code="insufficient_quota")


def refuses_between(start: float, end: float) -> Callable[[Request], Exception | None]:
    """Return a function that refuses every request sent between `start` and `end`."""
    return lambda request: refusal(403) if start <= request.sent < end else None


def is_canary(request: Request) -> bool:
    """Return whether a request holds none of the caller's texts."""
    return not request.rows.size


@dataclass
class Misfortunes:
    """A server that treats each request at random and recovers in the end.

    Attributes:
        seed: seed of the random numbers.
        bad: a request that holds one of these rows is always refused.
        kinds: the errors to draw from.
        share: share of the requests that get an error.
        lasts: number of requests after which the random errors end.
        answered: rows that were answered.
    """

    seed: int
    bad: frozenset[int]
    kinds: list[str]
    share: float
    lasts: int = 300
    answered: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        """Create the random number generator."""
        self._dice = random.Random(self.seed)

    def receive(self, request: Request) -> Reply:
        """Draw the reply to a request."""
        after = self._dice.choice([0.001, 0.1, 0.1, 1.0, 20.0])
        unlucky = self._dice.random() < self.share and request.number < self.lasts
        if self.kinds and unlucky:
            error = _error(self._dice.choice(self.kinds))
            return Reply(after=math.inf if error is None else after, error=error)
        if self.bad.intersection(request.rows.tolist()):
            return Reply(after=after, error=refusal(400))
        self.answered.update(request.rows.tolist())
        return Reply(after=after)


def _error(kind: str) -> Exception | None:
    match kind:
        case "retry":
            return refusal(429, "Please try again in 3s")
        case "reset":
            return ConnectionResetError("reset")
        case "garbage":
            return ResponseError("not JSON")
        case "silence":
            return None
        case status:
            return refusal(int(status))


KINDS = ["429", "retry", "500", "503", "reset", "silence", "garbage", "403"]


class TestEveryRunEnds:
    """Every row has exactly one outcome, whatever happens."""

    @examples(150)
    @given(
        seed=st.integers(0, 10_000),
        counts=st.lists(st.integers(1, 200), min_size=1, max_size=5),
        kinds=st.lists(st.sampled_from(KINDS), unique=True, max_size=4),
        share=st.floats(0, 1),
        bad=st.frozensets(st.integers(0, 199), max_size=5),
        max_items=st.integers(1, 100),
        max_workers=st.integers(1, 20),
        max_retries=st.integers(0, 6),
        is_known=st.booleans(),
        hedge=st.booleans(),
        deadline=st.one_of(st.none(), st.floats(0.001, 1000)),
    )
    def test_with_any_mix_of_errors(
        self,
        seed: int,
        counts: list[int],
        kinds: list[str],
        share: float,
        bad: frozenset[int],
        max_items: int,
        max_workers: int,
        max_retries: int,
        is_known: bool,
        hedge: bool,
        deadline: float | None,
    ) -> None:
        """Every call ends in bounded time with one outcome a row; only answered rows are done."""
        server = Misfortunes(seed=seed, bad=bad, kinds=kinds, share=share)
        sender = make_sender(
            max_workers=max_workers,
            max_retries=max_retries,
            is_known=is_known,
            hedge=hedge,
            timeout=30.0,
            seed=seed,
        )
        rehearsal = Rehearsal(sender, server)
        begin = 0
        for count in counts:
            work = make_work(count, begin=begin, max_items=max_items)
            rehearsal.add(work, deadline=deadline)
            begin += count
        end = rehearsal.run()
        rows = [row for outcome in rehearsal.outcomes for row in outcome.rows.tolist()]
        assert sorted(rows) == list(range(begin))
        assert set(done(rehearsal.outcomes)) <= server.answered
        assert end <= (24 * 3600 if deadline is None else deadline + 1e-6)

    @examples(60)
    @given(
        seed=st.integers(0, 10_000),
        luck=st.one_of(
            st.tuples(st.just(["429", "retry"]), st.floats(0, 0.5)),
            st.tuples(
                st.lists(st.sampled_from(["429", "503", "reset", "silence"]), min_size=1),
                st.floats(0, 0.2),
            ),
        ),
        count=st.integers(1, 400),
        max_items=st.integers(1, 100),
    )
    def test_no_text_fails_for_the_servers_state(
        self, seed: int, luck: tuple[list[str], float], count: int, max_items: int
    ) -> None:
        """Occasional rate limits, time-outs and lost connections fail no text.

        The server has answered before; one that never did is given up after seconds.
        """
        kinds, share = luck
        sender = make_sender(timeout=30.0, max_retries=8, seed=seed)
        before = Rehearsal(sender, FakeServer())
        before.add(make_work(1))
        now = before.run()
        server = Misfortunes(seed=seed, bad=frozenset(), kinds=kinds, share=share)
        rehearsal = Rehearsal(sender, server)
        rehearsal.add(make_work(count, max_items=max_items), now=now)
        rehearsal.run(now=now)
        assert done(rehearsal.outcomes) == list(range(count))

    @pytest.mark.parametrize("cell", sample(24, seed=11), ids=lambda cell: cell.name)
    def test_at_servers_of_all_kinds(self, cell: Cell) -> None:
        """At servers of all kinds, exactly the rows that are refused alone are lost."""
        server = SimulatedServer(cell, seed=1)
        sender = make_sender(max_workers=64, is_known=False, max_retries=8, hedge=True)
        rehearsal = Rehearsal(sender, server)
        rehearsal.add(make_work(2000, tokens=200))
        rehearsal.run()
        cursed = cell.refused_rows | cell.failing_rows
        assert list(lost(rehearsal.outcomes)) == sorted(row for row in cursed if row < 2000)


@dataclass
class _BadReplica:
    """Refuses one request in four at once, and answers the others after half a second."""

    status: int
    dice: random.Random

    def receive(self, request: Request) -> Reply:
        del request
        if self.dice.random() < 0.25:
            return Reply(after=0.005, error=refusal(self.status))
        return Reply(after=0.5)


class TestCanary:
    """A request of one word shows whether the server refuses certain texts or everything."""

    def test_a_server_that_refuses_everything_is_asked_a_few_times(self) -> None:
        """A server that refuses everything receives a few requests and one canary.

        All texts carry the refusal or a `NotSentError` caused by it.
        """
        server = FakeServer(error=lambda _: refusal(400))
        rehearsal = Rehearsal(make_sender(), server)
        rehearsal.add(make_work(10_000, max_items=100))
        rehearsal.run()
        assert len(server.requests) <= 4 * REFUSED_IN_A_ROW
        assert sum(map(is_canary, server.requests)) == 1
        errors = lost(rehearsal.outcomes)
        assert len(errors) == 10_000
        for error in errors.values():
            cause = error.__cause__ if isinstance(error, NotSentError) else error
            assert getattr(cause, "status_code", None) == 400

    def test_bad_texts_are_found_where_the_canary_passes(self) -> None:
        """Where the canary passes, each bad text fails alone, even if half of all texts are bad."""
        server = FakeServer(
            error=lambda request: refusal(400) if (request.rows % 2).any() else None
        )
        rehearsal = Rehearsal(make_sender(), server)
        rehearsal.add(make_work(200))
        rehearsal.run()
        assert done(rehearsal.outcomes) == list(range(0, 200, 2))
        assert 1 <= sum(map(is_canary, server.requests)) <= 8

    @pytest.mark.parametrize("status", [401, 402, 403, 404, 405])
    def test_a_wrong_key_or_address_ends_the_call_at_once(self, status: int) -> None:
        """A wrong key or address ends the call after the first requests and one canary."""
        server = FakeServer(error=lambda _: refusal(status))
        rehearsal = Rehearsal(make_sender(max_workers=4), server)
        rehearsal.add(make_work(100, max_items=1))
        assert rehearsal.run() < 1
        assert len(server.requests) <= 5
        errors = [e.__cause__ or e for e in lost(rehearsal.outcomes).values()]
        assert {getattr(error, "status_code", None) for error in errors} == {status}

    @pytest.mark.parametrize(("status", "most"), [(400, 40), (401, 10), (403, 10), (404, 10)])
    def test_one_bad_replica_does_not_end_the_call(self, status: int, most: int) -> None:
        """A replica that refuses one request in four, before any answer has come, ends nothing.

        Texts that it has refused are sent again once it has accepted some of them. Before that, a
        refusal of a single text is believed, so one text in 1,000 may fail.
        """
        failed = 0
        for seed in range(20):
            server = _BadReplica(status, random.Random(seed))
            sender = make_sender(max_workers=64, is_known=False, max_retries=8, seed=seed)
            rehearsal = Rehearsal(sender, server)
            rehearsal.add(make_work(2000, max_items=100))
            rehearsal.run()
            failed += len(lost(rehearsal.outcomes))
        assert failed <= most

    def test_a_request_that_hangs_does_not_keep_a_wrong_key_from_ending_the_call(self) -> None:
        """A wrong key ends the call within 15 s, even if one of the first requests hangs."""
        server = FakeServer(
            error=lambda _: refusal(401),
            seconds=lambda request: 600.0 if request.number == 0 else 0.1,
        )
        rehearsal = Rehearsal(make_sender(timeout=600.0), server)
        rehearsal.add(make_work(1000, max_items=10))
        rehearsal.run()
        ended = max(request.sent for request in server.requests)
        assert ended < 15
        assert sum(map(is_canary, server.requests)) <= 15

    def test_a_firewall_that_dislikes_one_text_does_not_end_the_call(self) -> None:
        """A 403 for one text while others are answered fails only that text."""
        server = FakeServer(error=lambda request: refusal(403) if 7 in request.rows else None)
        rehearsal = Rehearsal(make_sender(), server)
        rehearsal.add(make_work(100, max_items=10))
        rehearsal.run()
        assert list(lost(rehearsal.outcomes)) == [7]

    def test_a_text_that_takes_the_server_down_alone_is_found(self) -> None:
        """A single text that makes the server fail is found to be bad, because the canary passes.

        The call has no other request that could show it.
        """
        server = FakeServer(error=lambda request: None if is_canary(request) else refusal(500))
        rehearsal = Rehearsal(make_sender(), server)
        rehearsal.add(make_work(1))
        assert rehearsal.run() < 60
        assert list(lost(rehearsal.outcomes)) == [0]


class TestWordsOfTexts:
    """Words in a refusal that may be quoted from a text end no call and set no lasting limit."""

    @pytest.mark.parametrize(
        "words",
        [
            "the dimensions of this room",
            "the model of the car was not found",
            "insufficient_quota",
            "your credit balance is too low",
            "maximum number of inputs is 1, says my text",
        ],
    )
    def test_a_text_that_is_quoted_beyond_recognition_costs_only_itself(self, words: str) -> None:
        """A text quoted in an error message that looks like another error fails alone.

        The canary passes, so the text is the cause, and later requests are as large as before.
        """
        bad = [777]

        def error(request: Request) -> Exception | None:
            return refusal(400, f"bad: {words}") if np.isin(bad, request.rows).any() else None

        server = FakeServer(error=error)
        sender = make_sender(max_workers=4)
        rehearsal = Rehearsal(sender, server)
        rehearsal.add(make_work(2000, max_items=40))
        rehearsal.run()
        assert list(lost(rehearsal.outcomes)) == [777]
        assert len(server.requests) <= 50 + 60
        bad.clear()
        server.requests.clear()
        later = Rehearsal(sender, server)
        later.add(make_work(2000, max_items=40))
        later.run()
        assert len(server.requests) <= 52

    @pytest.mark.parametrize(
        "message",
        ["This model does not support specifying dimensions.", "Your credit balance is too low."],
    )
    @pytest.mark.parametrize("answers", [0, 20])
    def test_a_refusal_of_everything_is_confirmed_by_the_canary(
        self, message: str, answers: int
    ) -> None:
        """A refusal of everything is confirmed with one request more than were in flight.

        This also holds if other requests were answered before.
        """
        error = refusal(400, message)
        server = FakeServer(error=lambda request: error if request.number >= answers else None)
        rehearsal = Rehearsal(make_sender(max_workers=4), server)
        rehearsal.add(make_work(5000, max_items=10))
        rehearsal.run()
        assert len(lost(rehearsal.outcomes)) == 5000 - 10 * answers
        assert len(server.requests) <= answers + 5

    @pytest.mark.parametrize("status", [400, 406, 413, 415, 422])
    @pytest.mark.parametrize("max_items", [1, 50])
    def test_whatever_the_words_it_ends_after_a_handful_of_requests(
        self, status: int, max_items: int
    ) -> None:
        """A refusal of everything in unknown words ends the call within 100 requests.

        An example is a wrong option.
        """
        server = FakeServer(error=lambda _: refusal(status, "extra inputs are not permitted: x"))
        rehearsal = Rehearsal(make_sender(), server)
        rehearsal.add(make_work(5000, max_items=max_items))
        rehearsal.run()
        assert len(lost(rehearsal.outcomes)) == 5000
        assert len(server.requests) <= 100


class TestFinal:
    """An error that neither waiting nor another batch can help ends the call at once."""

    @pytest.mark.parametrize(
        "error",
        [
            SPENT,
            refusal(400, "unknown parameter", param="dimensions"),
            DimensionsError(expected=256, received=1536),
        ],
    )
    def test_it_ends_at_once(self, error: Exception) -> None:
        """After a final error nothing is sent beyond the requests already in flight."""
        server = FakeServer(error=lambda _: error)
        rehearsal = Rehearsal(make_sender(max_workers=4), server)
        rehearsal.add(make_work(1000, max_items=1))
        assert rehearsal.run() < 1
        assert len(server.requests) <= 4
        assert len(lost(rehearsal.outcomes)) == 1000

    def test_what_was_answered_before_is_kept(self) -> None:
        """Vectors that arrived before a final error are kept.

        Here the credit runs out in the middle of the call.
        """
        server = FakeServer(error=lambda request: SPENT if request.number >= 50 else None)
        rehearsal = Rehearsal(make_sender(max_workers=4), server)
        rehearsal.add(make_work(100, max_items=1))
        rehearsal.run()
        assert done(rehearsal.outcomes) == list(range(50))


class TestOutage:
    """While a server is unreachable the call waits and sends one probe at a time."""

    def away(self, start: float, end: float) -> FakeServer:
        """Return a server that refuses connections from `start` to `end`."""
        return FakeServer(
            error=lambda request: ConnectionRefusedError() if start <= request.sent < end else None,
            seconds=0.5,
        )

    def test_five_minutes_are_waited_out(self) -> None:
        """A five-minute outage fails no text, even without retries, and wastes few requests."""
        server = self.away(2, 302)
        rehearsal = Rehearsal(make_sender(max_workers=32, max_retries=0), server)
        rehearsal.add(make_work(1000, max_items=1))
        end = rehearsal.run()
        assert done(rehearsal.outcomes) == list(range(1000))
        assert len(server.requests) <= 1000 + 32 + 302 / 2.5
        assert end <= 302 + 5 + 1000 * 0.5 / 32 + 5

    def test_one_probe_at_a_time(self) -> None:
        """During an outage one probe is sent at a time, however many requests wait."""
        server = self.away(2, 302)
        rehearsal = Rehearsal(make_sender(max_workers=32), server)
        rehearsal.add(make_work(1000, max_items=1))
        rehearsal.run()
        probes = [request.sent for request in server.requests if 4 <= request.sent < 302]
        assert probes
        assert all(later - sooner >= 0.5 for sooner, later in itertools.pairwise(probes))

    def test_a_probe_that_hangs_is_not_waited_for_as_long_as_a_request(self) -> None:
        """A probe that hangs in a load balancer does not hold up the call for a whole time-out."""
        probes = itertools.count()

        def seconds(request: Request) -> float:
            return math.inf if request.sent > 1 and next(probes) == 0 else 0.5

        server = FakeServer(
            error=lambda request: ConnectionRefusedError() if request.sent < 1 else None,
            seconds=seconds,
        )
        rehearsal = Rehearsal(make_sender(timeout=300.0), server)
        rehearsal.add(make_work(100, max_items=1))
        assert rehearsal.run() < 60
        assert len(done(rehearsal.outcomes)) == 100

    def test_a_server_that_does_not_come_back_is_given_up(self) -> None:
        """A server that does not come back is given up after `max_outage`, with its own error."""
        server = self.away(2, math.inf)
        rehearsal = Rehearsal(make_sender(max_outage=100.0), server)
        rehearsal.add(make_work(1000, max_items=1))
        assert 90 <= rehearsal.run() <= 120
        causes = {type(e.__cause__ or e) for e in lost(rehearsal.outcomes).values()}
        assert causes == {ConnectionRefusedError}

    def test_an_address_where_nobody_ever_answered_is_given_up_soon(self) -> None:
        """An address that never answered is given up within 30 s, because it may be wrong."""
        rehearsal = Rehearsal(make_sender(), self.away(0, math.inf))
        rehearsal.add(make_work(1000))
        assert 15 <= rehearsal.run() <= 30

    @pytest.mark.parametrize("status", [429, 500, 503])
    def test_a_server_that_answers_with_nothing_but_errors_is_given_up(self, status: int) -> None:
        """A server that only returns errors is given up within an hour, whichever error it is."""
        error = refusal(status)
        sender = make_sender(max_outage=100.0)
        rehearsal = Rehearsal(sender, FakeServer(error=lambda _: error))
        rehearsal.add(make_work(3, max_items=1))
        now = _run_for(rehearsal, 3600)
        assert now < 3600
        assert set(lost(rehearsal.outcomes)) == {0, 1, 2}

    def test_the_next_call_asks_again(self) -> None:
        """After a call has given up on a server, the next call sends requests to it again."""
        server = self.away(0, 100)
        sender = make_sender()
        Rehearsal(sender, server).add(make_work(1))
        first = Rehearsal(sender, server)
        first.add(make_work(10))
        first.run()
        assert len(lost(first.outcomes)) == 10
        second = Rehearsal(sender, server)
        second.add(make_work(10), now=200)
        assert second.run(now=200) < 210
        assert len(done(second.outcomes)) == 10


class TestDeadline:
    """A call ends at its `deadline` to the second, whatever the server does."""

    @pytest.mark.parametrize("error", [refusal(429), refusal(503), ConnectionError(), None])
    def test_it_ends_the_call(self, error: Exception | None) -> None:
        """The deadline ends the call while the server throttles, fails, is away or is silent.

        It does so neither sooner nor later.
        """
        server = FakeServer(error=lambda _: error, seconds=0.1 if error else math.inf)
        rehearsal = Rehearsal(make_sender(), server)
        rehearsal.add(make_work(100, max_items=1), deadline=7)
        assert rehearsal.run() == pytest.approx(7)
        errors = lost(rehearsal.outcomes)
        assert len(errors) == 100
        assert {type(each) for each in errors.values()} == {DeadlineError}

    @pytest.mark.parametrize("ended", [0.5, 0.4999])
    def test_it_says_nothing_about_the_server(self, ended: float) -> None:
        """A request that the deadline cuts short is no failure of the server, nor of its size.

        The next call sends as much as if there had been no such call. Nothing is sent again, even
        if the socket's clock is a little ahead.
        """
        sender = make_sender(timeout=60.0)
        at = sender.deployments[0]
        queue = sender.queue(make_work(100, max_items=10), Tally(), Hedges(), deadline=0.5, since=0)
        sender.add(queue, 0.0)
        flights = []
        while isinstance(flight := sender.next(0.0), Flight):
            flights.append(flight)
        assert len(flights) == 8
        for flight in flights:
            assert flight.timeout == 0.5
            sender.failed(flight, TimeoutError(), ended)
        assert sender.next(ended) == math.inf
        assert len(lost(queue.outcomes)) == 100
        assert not at.pacer.health.failures
        assert not at.pacer.in_flight
        assert at.pacer.concurrency.limit() == 8
        assert at.limits.work == math.inf

    def test_another_call_goes_on_with_its_part_of_the_request(self) -> None:
        """A call without a deadline sends its texts again if another one's deadline cut them short.

        Its failures are not counted against the texts.
        """
        sender = make_sender(timeout=60.0, max_retries=0)
        hurried = sender.queue(make_work(1), Tally(), Hedges(), deadline=0.5, since=0)
        patient = sender.queue(make_work(1, begin=1), Tally(), Hedges())
        for queue in (hurried, patient):
            sender.add(queue, 0.0)
        flight = sender.next(0.0)
        assert isinstance(flight, Flight)
        assert len(flight.parts) == 2
        sender.failed(flight, TimeoutError(), 0.5)
        again = sender.next(0.5)
        assert isinstance(again, Flight)
        assert [queue for queue, _ in again.parts] == [patient]
        assert again.timeout == 60.0
        assert list(lost(hurried.outcomes)) == [0]

    def test_it_is_no_end_for_other_calls(self) -> None:
        """The deadline of one call does not end another call."""
        rehearsal = Rehearsal(make_sender(max_workers=1), FakeServer(seconds=1.0))
        rehearsal.add(make_work(100, max_items=1, tokens=5000), deadline=7)
        rehearsal.add(make_work(100, begin=100, max_items=1, tokens=5000))
        rehearsal.run()
        assert set(range(100, 200)) <= set(done(rehearsal.outcomes))
        assert 80 <= len(lost(rehearsal.outcomes)) < 100


class TestHedging:
    """Late requests are sent a second time if hedging is allowed."""

    def server(self) -> FakeServer:
        """Return a server that stalls for 50 s at row 99, once."""
        sent: list[int] = []

        def seconds(request: Request) -> float:
            stalls = 99 in request.rows and not sent
            sent.extend(request.rows[request.rows == 99])
            return 50.0 if stalls else 0.5

        return FakeServer(seconds=seconds)

    @pytest.mark.parametrize(("hedge", "most"), [(True, 10), (False, 60)])
    def test_the_answer_that_comes_first_is_taken(self, hedge: bool, most: float) -> None:
        """With hedging the copy's answer is taken if it comes first, and both requests count.

        Without hedging the call waits for the one answer.
        """
        server = self.server()
        rehearsal = Rehearsal(make_sender(hedge=hedge), server)
        rehearsal.add(make_work(100, max_items=2))
        end = rehearsal.run()
        assert end <= most
        assert (end < 20) == hedge
        assert done(rehearsal.outcomes) == list(range(100))
        tally = rehearsal.tally
        assert (tally.hedged, tally.hedged_tokens) == ((1, 20) if hedge else (0, 0))
        assert tally.requests == len(server.requests)

    @pytest.mark.parametrize(("is_known", "hedged"), [(True, 1), (False, 0)])
    def test_a_place_that_a_straggler_holds_up_is_not_waited_for(
        self, is_known: bool, hedged: int
    ) -> None:
        """A late request in the only place is copied at a provider known to accept any number.

        Noise has reduced the estimate to one place. At any other server there may be a line of one
        that
        the copy would only make longer.
        """
        sender = make_sender(hedge=True, is_known=is_known)
        concurrency = sender.deployments[0].pacer.concurrency

        def seconds(request: Request) -> float:
            concurrency.estimate = concurrency.threshold = 1.0
            concurrency.is_saturated = True
            first = sum(99 in each.rows for each in server.requests) == 1
            return 50.0 if 99 in request.rows and first else 0.5

        server = FakeServer(seconds=seconds)
        rehearsal = Rehearsal(sender, server)
        rehearsal.add(make_work(100, max_items=2))
        rehearsal.run()
        assert rehearsal.tally.hedged == hedged
        assert done(rehearsal.outcomes) == list(range(100))

    def test_a_late_batch_that_is_a_quarter_of_the_call_is_waited_for(self) -> None:
        """A late batch that is a quarter of the call is not copied, even if there is room."""
        rehearsal = Rehearsal(make_sender(hedge=True), self.server())
        rehearsal.add(make_work(100, max_items=25))
        assert rehearsal.run() == pytest.approx(50)
        assert rehearsal.tally.hedged == 0

    @given(seed=st.integers(0, 1000), count=st.integers(1, 300))
    def test_no_more_than_a_twentieth_is_sent_twice(self, seed: int, count: int) -> None:
        """At most a twentieth of the tokens is sent twice, however unlucky the answer times are."""
        dice = random.Random(seed)
        server = FakeServer(seconds=lambda _: dice.paretovariate(1))
        rehearsal = Rehearsal(make_sender(hedge=True), server)
        rehearsal.add(make_work(count, max_items=3))
        rehearsal.run()
        assert rehearsal.tally.hedged_tokens <= count * 10 / 20
        assert done(rehearsal.outcomes) == list(range(count))


class TestIdleTime:
    """Time without a call is no outage."""

    @pytest.mark.parametrize(
        "error",
        [refusal(429, "slow down"), refusal(500), ConnectionRefusedError("refused"), refusal(403)],
        ids=lambda error: str(error)[:20],
    )
    def test_a_failure_long_after_a_failed_call_ends_nothing(self, error: Exception) -> None:
        """A call that ended without an answer does not make a later one end at its first failure.

        The object was idle in between, for longer than the longest outage.
        """
        sender = make_sender(max_outage=60.0)
        server = FakeServer(error=lambda request: error if 5 < request.sent < 900.01 else None)
        rehearsal = Rehearsal(sender, server)
        rehearsal.add(make_work(1))
        rehearsal.run()
        rehearsal.add(make_work(10, max_items=1), now=6.0, deadline=5.0)
        rehearsal.run(now=6.0)
        assert len(lost(rehearsal.outcomes)) == 10
        rehearsal.outcomes.clear()
        rehearsal.add(make_work(2, max_items=1), now=900.0)
        assert rehearsal.run(now=900.0) < 960
        assert done(rehearsal.outcomes) == [0, 1]

    def test_a_call_soon_after_a_failed_one_ends_at_once(self) -> None:
        """If the server is still away a few seconds after a call gave it up, the next ends soon."""
        server = FakeServer(error=lambda _: ConnectionRefusedError("refused"))
        rehearsal = Rehearsal(make_sender(max_outage=60.0), server)
        rehearsal.add(make_work(1))
        end = rehearsal.run()
        assert 20 <= end < 70
        rehearsal.add(make_work(1), now=end + 5)
        assert rehearsal.run(now=end + 5) < end + 10


class TestDeadlineOfACall:
    """A call's deadline ends it, and nothing else does."""

    @pytest.mark.parametrize("error", [refusal(504), TimeoutError("the class's own")])
    def test_a_time_out_before_the_deadline_is_tried_again(self, error: Exception) -> None:
        """A time-out that comes long before the deadline is not taken for the deadline."""
        server = FakeServer(error=lambda request: error if request.number == 0 else None)
        server.seconds = lambda request: 1.2 if request.number == 0 else 0.1
        rehearsal = Rehearsal(make_sender(max_workers=2, timeout=120.0), server)
        rehearsal.add(make_work(20, max_items=5), deadline=60.0)
        assert rehearsal.run() < 10
        assert done(rehearsal.outcomes) == list(range(20))


class TestBookkeeping:
    """What the sender counts, undoes and reports."""

    def test_outages_do_not_put_off_the_test_of_a_dead_key(self) -> None:
        """Canaries that end outages do not raise the number of refusals that call for the next."""
        sender = make_sender()
        at = sender.deployments[0]
        for _ in range(20):
            at.canary_passed(0.0)
        server = FakeServer(error=lambda request: refusal(403) if request.number else None)
        rehearsal = Rehearsal(sender, server)
        rehearsal.add(make_work(2_000, max_items=1))
        rehearsal.run()
        assert len(server.requests) < 200

    def test_a_request_that_could_not_be_submitted_leaves_no_trace(self) -> None:
        """A request that could not be submitted leaves no trace, and its batch is sent later."""
        sender, tally = make_sender(max_workers=1), Tally()
        queue = sender.queue(make_work(10), tally, Hedges())
        sender.add(queue, 0)
        flight = sender.next(0)
        assert isinstance(flight, Flight)
        sender.undo(flight)
        assert tally.requests == 0
        assert sender.deployments[0].pacer.in_flight == {}
        again = sender.next(0)
        assert isinstance(again, Flight)
        assert again.texts == flight.texts
        sender.answered(again, 1, headers={})
        assert queue.open == 0

    def test_without_calls_there_is_nothing_to_wait_for(self) -> None:
        """Without calls the delay until the next request is infinite."""
        assert make_sender().next(0) == math.inf

    def test_calls_with_outcomes_are_news(self) -> None:
        """`news` returns each call with new outcomes once."""
        sender = make_sender()
        queues = [sender.queue(make_work(1, begin=i), Tally(), Hedges()) for i in range(3)]
        for queue in queues:
            sender.add(queue, 0)
        flight = sender.next(0)
        assert isinstance(flight, Flight)
        sender.news()
        sender.answered(flight, 1, headers={})
        assert sorted(map(queues.index, sender.news())) == [0, 1, 2]
        assert all(queue.outcomes for queue in queues)

    def test_an_error_that_cannot_be_read_is_a_failure(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        """An exception while an error is diagnosed counts as a failure, and the call ends.

        The log names the type of the error but not its text.
        """

        def fail(*_: object, **__: object) -> None:
            raise TypeError("secret")

        monkeypatch.setattr(deployment_module, "diagnose", fail)
        rehearsal = Rehearsal(make_sender(), FakeServer(error=lambda _: ValueError("secret")))
        rehearsal.add(make_work(3))
        rehearsal.run()
        assert len(lost(rehearsal.outcomes)) == 3
        assert "ValueError" in caplog.text
        assert "secret" not in caplog.text

    def test_answers_of_one_part_that_cannot_be_used_fail_that_part_alone(self) -> None:
        """An error in one part of a shared answer fails that part alone.

        The other calls in the request have their vectors.
        """
        sender = make_sender()
        queues = [sender.queue(make_work(1, begin=i), Tally(), Hedges()) for i in range(3)]
        for queue in queues:
            sender.add(queue, 0)
        flight = sender.next(0)
        assert isinstance(flight, Flight)
        error = DimensionsError(expected=3, received=2)
        sender.answered(flight, 1, headers={}, errors={1: error})
        assert [queue.open for queue in queues] == [0, 0, 0]
        assert lost(queues[1].outcomes) == {1: error}


def _run_for(rehearsal: Rehearsal, seconds: float) -> float:
    """Run until the calls end by themselves, or after `seconds`; return the time of the end."""
    for queue in rehearsal.queues:
        queue.end, queue.deadline = seconds, seconds
    return rehearsal.run()


def test_a_gateway_that_has_waited_is_not_overloaded() -> None:
    """A 504 at once counts as an overload, and one after 2 s or 30 s as a time-out."""
    at = make_sender().deployments[0]
    ticket = at.pacer.start(1, now=0.0)
    kinds = [at.diagnose(ticket, [], [], refusal(504), now).kind for now in (0.1, 2.0, 30.0)]
    assert kinds == [Kind.OVERLOADED, Kind.TIMED_OUT, Kind.TIMED_OUT]


def test_batches_that_wait_are_cut_once_the_limit_is_known() -> None:
    """Waiting batches are cut once a size limit is known, without being refused whole again.

    All of them failed for their size, and one of them was cut to find the limit.
    """
    server = FakeServer(lambda request: ConnectionResetError() if len(request.rows) > 10 else None)
    rehearsal = Rehearsal(make_sender(max_workers=32), server)
    rehearsal.add(make_work(10))
    rehearsal.run()
    rehearsal.add(make_work(2000, max_items=100))
    rehearsal.run()
    assert lost(rehearsal.outcomes) == {}
    assert sum(len(request.rows) == 100 for request in server.requests) <= 2 * 20
    assert len(server.requests) <= 400


def test_it_says_that_a_server_that_refuses_everything_is_waited_for() -> None:
    """The status shows a wait for the server while it refuses everything, and none after an answer.

    The wait begins with the first refused canary, so that the user sees no unexplained standstill.
    """
    sender = make_sender(max_workers=4)
    rehearsal = Rehearsal(sender, FakeServer(refuses_between(1.0, 5.0)))
    waits: list[tuple[float, object]] = []
    receive = rehearsal.server.receive

    def watch(request: Request) -> Reply:
        waits.append((request.sent, sender.status(request.sent, left=1.0).waits_for))
        return receive(request)

    rehearsal.server.receive = watch  # type: ignore[method-assign]
    rehearsal.add(make_work(400, max_items=4))
    rehearsal.run()
    assert lost(rehearsal.outcomes) == {}
    assert {wait for at, wait in waits if 2.0 < at < 4.0} == {"server"}
    assert waits[-1][1] is None
