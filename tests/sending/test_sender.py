"""All calls of one object at one server, in simulated time."""

import itertools
import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_batch_embed.errors import DimensionsError, NotSentError, ResponseError
from langchain_batch_embed.pacing.diagnosis import Kind
from langchain_batch_embed.pacing.hedging import Hedges
from langchain_batch_embed.report import Tally
from langchain_batch_embed.sending import deployment as deployment_module
from langchain_batch_embed.sending.deployment import REFUSED_IN_A_ROW
from langchain_batch_embed.sending.rehearsal import Reply, Request
from langchain_batch_embed.sending.sender import Flight
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
    """Return what refuses all requests that are sent in this time."""
    return lambda request: refusal(403) if start <= request.sent < end else None


def is_canary(request: Request) -> bool:
    """Tell whether a request holds no text of the caller's."""
    return not request.rows.size


@dataclass
class Misfortunes:
    """A server that does whatever its dice say to each request, and gets better in the end.

    Attributes:
        seed: of the dice.
        bad: a request that holds one of these rows is always refused.
        kinds: the errors that it draws from.
        share: of requests that meet one.
        lasts: requests after which there are no more of them.
        answered: rows that were answered.
    """

    seed: int
    bad: frozenset[int]
    kinds: list[str]
    share: float
    lasts: int = 300
    answered: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        """Throw the dice for the first time."""
        self._dice = random.Random(self.seed)

    def receive(self, request: Request) -> Reply:
        """Draw what comes of it."""
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
        """And in bounded time: a vector for each row that was answered, else an error."""
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
        """Refused for the rate, timed out or not reached now and then, every text is done.

        The server has answered before: one that never did is given up after seconds.
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
        """A row that is refused alone is lost, and no other one."""
        server = SimulatedServer(cell, seed=1)
        sender = make_sender(max_workers=64, is_known=False, max_retries=8, hedge=True)
        rehearsal = Rehearsal(sender, server)
        rehearsal.add(make_work(2000, tokens=200))
        rehearsal.run()
        cursed = cell.refused_rows | cell.failing_rows
        assert list(lost(rehearsal.outcomes)) == sorted(row for row in cursed if row < 2000)


class TestCanary:
    """A request of one word finds out whether it is the texts that are refused, or everything."""

    def test_a_server_that_refuses_everything_is_asked_a_few_times(self) -> None:
        """Not once for each text; all carry the refusal, or say that they were not sent."""
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
        """Half of all texts are bad, and each costs only itself."""
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
        """After what was sent before the first answer, and one canary."""
        server = FakeServer(error=lambda _: refusal(status))
        rehearsal = Rehearsal(make_sender(max_workers=4), server)
        rehearsal.add(make_work(100, max_items=1))
        assert rehearsal.run() < 1
        assert len(server.requests) <= 5
        errors = [e.__cause__ or e for e in lost(rehearsal.outcomes).values()]
        assert {getattr(error, "status_code", None) for error in errors} == {status}

    def test_a_firewall_that_dislikes_one_text_does_not_end_the_call(self) -> None:
        """403 for one text, while others are answered."""
        server = FakeServer(error=lambda request: refusal(403) if 7 in request.rows else None)
        rehearsal = Rehearsal(make_sender(), server)
        rehearsal.add(make_work(100, max_items=10))
        rehearsal.run()
        assert list(lost(rehearsal.outcomes)) == [7]

    def test_a_text_that_takes_the_server_down_alone_is_found(self) -> None:
        """Nothing else is sent that could tell, so the canary does."""
        server = FakeServer(error=lambda request: None if is_canary(request) else refusal(500))
        rehearsal = Rehearsal(make_sender(), server)
        rehearsal.add(make_work(1))
        assert rehearsal.run() < 60
        assert list(lost(rehearsal.outcomes)) == [0]


class TestWordsOfTexts:
    """What a server quotes of a text, or seems to, ends nothing and teaches nothing for good."""

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
        """The canary passes, so it is the text; and later requests are as large as before."""
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
        """One request more than were in flight, also where others were answered before."""
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
        """A wrong option that the server names in no way that is known."""
        server = FakeServer(error=lambda _: refusal(status, "extra inputs are not permitted: x"))
        rehearsal = Rehearsal(make_sender(), server)
        rehearsal.add(make_work(5000, max_items=max_items))
        rehearsal.run()
        assert len(lost(rehearsal.outcomes)) == 5000
        assert len(server.requests) <= 100


class TestFinal:
    """What no waiting and no other batch can help ends the call at once."""

    @pytest.mark.parametrize(
        "error",
        [
            SPENT,
            refusal(400, "unknown parameter", param="dimensions"),
            DimensionsError(expected=256, received=1536),
        ],
    )
    def test_it_ends_at_once(self, error: Exception) -> None:
        """No more is sent than was in flight with it."""
        server = FakeServer(error=lambda _: error)
        rehearsal = Rehearsal(make_sender(max_workers=4), server)
        rehearsal.add(make_work(1000, max_items=1))
        assert rehearsal.run() < 1
        assert len(server.requests) <= 4
        assert len(lost(rehearsal.outcomes)) == 1000

    def test_what_was_answered_before_is_kept(self) -> None:
        """The money is spent in the middle of the call."""
        server = FakeServer(error=lambda request: SPENT if request.number >= 50 else None)
        rehearsal = Rehearsal(make_sender(max_workers=4), server)
        rehearsal.add(make_work(100, max_items=1))
        rehearsal.run()
        assert done(rehearsal.outcomes) == list(range(50))


class TestOutage:
    """A server that is away is waited for, with one probe at a time."""

    def away(self, start: float, end: float) -> FakeServer:
        """Return a server that refuses connections from one time to another."""
        return FakeServer(
            error=lambda request: ConnectionRefusedError() if start <= request.sent < end else None,
            seconds=0.5,
        )

    def test_five_minutes_are_waited_out(self) -> None:
        """No text fails, where not one retry is allowed, and few requests are wasted."""
        server = self.away(2, 302)
        rehearsal = Rehearsal(make_sender(max_workers=32, max_retries=0), server)
        rehearsal.add(make_work(1000, max_items=1))
        end = rehearsal.run()
        assert done(rehearsal.outcomes) == list(range(1000))
        assert len(server.requests) <= 1000 + 32 + 302 / 2.5
        assert end <= 302 + 5 + 1000 * 0.5 / 32 + 5

    def test_one_probe_at_a_time(self) -> None:
        """However many requests wait."""
        server = self.away(2, 302)
        rehearsal = Rehearsal(make_sender(max_workers=32), server)
        rehearsal.add(make_work(1000, max_items=1))
        rehearsal.run()
        probes = [request.sent for request in server.requests if 4 <= request.sent < 302]
        assert probes
        assert all(later - sooner >= 0.5 for sooner, later in itertools.pairwise(probes))

    def test_a_probe_that_hangs_is_not_waited_for_as_long_as_a_request(self) -> None:
        """A load balancer that swallows it must not hold up everything for minutes."""
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
        """After `max_outage`, with its own error."""
        server = self.away(2, math.inf)
        rehearsal = Rehearsal(make_sender(max_outage=100.0), server)
        rehearsal.add(make_work(1000, max_items=1))
        assert 90 <= rehearsal.run() <= 120
        causes = {type(e.__cause__ or e) for e in lost(rehearsal.outcomes).values()}
        assert causes == {ConnectionRefusedError}

    def test_an_address_where_nobody_ever_answered_is_given_up_soon(self) -> None:
        """It may be wrong."""
        rehearsal = Rehearsal(make_sender(), self.away(0, math.inf))
        rehearsal.add(make_work(1000))
        assert 15 <= rehearsal.run() <= 30

    @pytest.mark.parametrize("status", [429, 500, 503])
    def test_a_server_that_answers_with_nothing_but_errors_is_given_up(self, status: int) -> None:
        """Nothing is asked for ever, whichever error it is."""
        error = refusal(status)
        sender = make_sender(max_outage=100.0)
        rehearsal = Rehearsal(sender, FakeServer(error=lambda _: error))
        rehearsal.add(make_work(3, max_items=1))
        now = _run_for(rehearsal, 3600)
        assert now < 3600
        assert set(lost(rehearsal.outcomes)) == {0, 1, 2}

    def test_the_next_call_asks_again(self) -> None:
        """A server that was given up may be back."""
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
    """`deadline` is kept to the second, whatever the server does."""

    @pytest.mark.parametrize("error", [refusal(429), refusal(503), ConnectionError(), None])
    def test_it_ends_the_call(self, error: Exception | None) -> None:
        """Also while the server throttles, or is away, or does not answer."""
        server = FakeServer(error=lambda _: error, seconds=0.1 if error else math.inf)
        rehearsal = Rehearsal(make_sender(), server)
        rehearsal.add(make_work(100, max_items=1), deadline=7)
        assert rehearsal.run() <= 7 + 1e-6
        assert len(lost(rehearsal.outcomes)) == 100

    def test_it_is_no_end_for_other_calls(self) -> None:
        """Each has its own."""
        rehearsal = Rehearsal(make_sender(max_workers=1), FakeServer(seconds=1.0))
        rehearsal.add(make_work(100, max_items=1, tokens=5000), deadline=7)
        rehearsal.add(make_work(100, begin=100, max_items=1, tokens=5000))
        rehearsal.run()
        assert set(range(100, 200)) <= set(done(rehearsal.outcomes))
        assert 80 <= len(lost(rehearsal.outcomes)) < 100


class TestHedging:
    """Stragglers are sent a second time, where that is allowed."""

    def server(self) -> FakeServer:
        """Return a server that stalls for a minute at row 99, once."""
        sent: list[int] = []

        def seconds(request: Request) -> float:
            stalls = 99 in request.rows and not sent
            sent.extend(request.rows[request.rows == 99])
            return 50.0 if stalls else 0.5

        return FakeServer(seconds=seconds)

    @pytest.mark.parametrize(("hedge", "most"), [(True, 10), (False, 60)])
    def test_the_answer_that_comes_first_is_taken(self, hedge: bool, most: float) -> None:
        """Both are counted; without hedging the call waits for the one."""
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
        """Noise has made it the only place, at a provider that is known to take any number.

        At any other server it may be a line of one that its copy would only make longer.
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
        """Though there is room for a copy, and nothing else is left to wait for."""
        rehearsal = Rehearsal(make_sender(hedge=True), self.server())
        rehearsal.add(make_work(100, max_items=25))
        assert rehearsal.run() == pytest.approx(50)
        assert rehearsal.tally.hedged == 0

    @given(seed=st.integers(0, 1000), count=st.integers(1, 300))
    def test_no_more_than_a_twentieth_is_sent_twice(self, seed: int, count: int) -> None:
        """Whatever the luck."""
        dice = random.Random(seed)
        server = FakeServer(seconds=lambda _: dice.paretovariate(1))
        rehearsal = Rehearsal(make_sender(hedge=True), server)
        rehearsal.add(make_work(count, max_items=3))
        rehearsal.run()
        assert rehearsal.tally.hedged_tokens <= count * 10 / 20
        assert done(rehearsal.outcomes) == list(range(count))


class TestBookkeeping:
    """What is counted, undone and told."""

    def test_a_request_that_could_not_be_submitted_leaves_no_trace(self) -> None:
        """Its batch is sent later, as if nothing had happened."""
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
        """The delay is infinite."""
        assert make_sender().next(0) == math.inf

    def test_calls_with_outcomes_are_news(self) -> None:
        """Each once."""
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
        """A mistake in what is made of an error must not leave the call waiting."""

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
        """The other calls in the request have their vectors."""
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
    """Run, but end the calls after some time; return when they had ended by themselves."""
    for queue in rehearsal.queues:
        queue.end, queue.deadline = seconds, seconds
    return rehearsal.run()


def test_a_gateway_that_has_waited_is_not_overloaded() -> None:
    """A 504 at once says that the server is away; one after 30 s, that it takes too long."""
    at = make_sender().deployments[0]
    ticket = at.pacer.start(1, now=0.0)
    kinds = [at.diagnose(ticket, [], [], refusal(504), now).kind for now in (0.1, 30.0)]
    assert kinds == [Kind.OVERLOADED, Kind.TIMED_OUT]


def test_batches_that_wait_are_cut_once_the_limit_is_known() -> None:
    """All fail for their size, and one of them is cut in parts: the others are not sent again."""
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
    """From the first refused canary on until an answer: the user sees a wait, and no standstill."""
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
