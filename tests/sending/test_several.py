"""Several deployments as one: work goes where there is room, and no single one loses a text."""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from langchain_batch_embed.errors import NotSentError
from langchain_batch_embed.pacing.hedging import Hedges
from langchain_batch_embed.pacing.speed import WINDOW, Speed
from langchain_batch_embed.pacing.throttle import LOOK_AGAIN
from langchain_batch_embed.report import Tally
from langchain_batch_embed.sending.choice import GRACE
from langchain_batch_embed.sending.copies import Copy, straggler, stuck
from langchain_batch_embed.sending.deployment import REFUSED_IN_A_ROW, diagnosed
from langchain_batch_embed.sending.flight import Flight
from langchain_batch_embed.sending.rehearsal import Reply, Request, Server
from langchain_batch_embed.sending.routing import Routing
from langchain_batch_embed.sending.sender import Sender
from langchain_batch_embed.sending.work import Trial
from tests.sending.calls import FakeServer, refusal
from tests.sending.several import Hanging, make_senders, run, server, work_of
from tests.simulated.grid import Outage

QUOTA = 5_000_000
DENIED = refusal(401, "Incorrect API key provided", code="invalid_api_key")
SPENT = refusal(429, "You exceeded your current quota", code="insufficient_quota")


@dataclass
class From:
    """A server that another server replaces at some moment.

    Attributes:
        first: answers until that moment.
        then: answers from that moment on.
        since: the moment, in seconds.
    """

    first: Server
    then: Server
    since: float

    def receive(self, request: Request) -> Reply:
        """Return the reply of the server that is active when the request is sent."""
        return (self.first if request.sent < self.since else self.then).receive(request)


def fails(error: BaseException, since: float = 0.0) -> Server:
    """Return a server that fails everything from `since` on."""
    failing = FakeServer(error=lambda _: error)  # type: ignore[return-value, arg-type]
    return From(FakeServer(), failing, since) if since else failing


class TestQuotas:
    """The quotas of all deployments add up, even if some of them fail."""

    @pytest.mark.parametrize("end", ["reset", "hang"])
    def test_the_sum_of_the_quotas_is_used(self, end: str) -> None:
        """The call takes at most 1.15 times the ideal time with three unequal deployments.

        One stops after a second, one is ten times slower, and one answers bare 429s.
        """
        dead: Server = Hanging(server(0, tokens_per_minute=QUOTA), 1.0)
        if end == "reset":
            outage = Outage(start=1.0, length=math.inf)
            dead = server(0, tokens_per_minute=QUOTA, outages=(outage,))
        slow = server(10, tokens_per_minute=QUOTA, latency=3.0)
        bare = server(20, tokens_per_minute=QUOTA, says="nothing")
        tokens = 40_000_000
        ran = run(make_senders(3), [dead, slow, bare], work_of(tokens // 1000, 1000))
        done = ran.several.answered[0]  # by the one that stops
        ideal = (tokens - done - 2 * QUOTA) / (2 * QUOTA / 60)
        assert ran.lost == {}
        assert ran.seconds <= 1.15 * ideal
        assert min(part.texts for part in ran.parts[1:]) >= 0.4 * tokens // 1000

    @pytest.mark.parametrize("seed", range(4))
    def test_it_is_used_in_a_minute_too(self, seed: int) -> None:
        """A call of about a minute takes at most 1.25 times the ideal, whichever deployment is bad.

        One of three is dead, one slow and one throttled. The factor of 1.25 in each run allows for
        chance.
        """
        dead: Server = server(seed, tokens_per_minute=QUOTA, outages=(Outage(start=1, length=1e9),))
        if seed % 2:
            dead = Hanging(server(seed, tokens_per_minute=QUOTA), 1.0)
        slow = server(10 + seed, tokens_per_minute=QUOTA, latency=1.5 if seed % 3 else 3.0)
        says = "nothing" if seed < 2 else "hint"
        bare = server(20 + seed, tokens_per_minute=QUOTA, says=says)
        places = random.Random(seed).sample(range(3), 3)
        servers = [(dead, slow, bare)[place] for place in places]
        tokens = 20_400_000
        ran = run(make_senders(3, seed=seed), servers, work_of(tokens // 1000, 1000))
        done = ran.several.answered[places.index(0)]
        ideal = (tokens - done - 2 * QUOTA) / (2 * QUOTA / 60)
        assert ran.lost == {}
        assert ran.seconds <= 1.25 * ideal

    def test_two_that_are_well_take_half_the_time_of_one(self) -> None:
        """Two healthy deployments take half the time of one, within 10 %."""
        tokens, seconds = 15_000_000, []
        for count in (1, 2):
            servers = [server(seed, tokens_per_minute=QUOTA) for seed in range(count)]
            seconds.append(run(make_senders(count), servers, work_of(5000, 3000)).seconds)
        ideals = [(tokens / count - QUOTA) / (QUOTA / 60) for count in (1, 2)]
        assert seconds[0] <= 1.05 * ideals[0]
        assert seconds[1] <= 1.1 * ideals[1]

    def test_a_slow_one_is_not_waited_for(self) -> None:
        """A fast deployment does all the work that it can finish before a slow one would answer."""
        fast = FakeServer(seconds=0.1)
        slow = FakeServer(seconds=lambda request: 30.0 if len(request.rows) else 0.5)
        ran = run(make_senders(2, max_workers=2), [fast, slow], work_of(2000, 100))
        assert ran.seconds < 5
        assert ran.lost == {}

    @pytest.mark.parametrize(("left", "is_late"), [(1_000, True), (1_000_000, False)])
    def test_a_slow_one_is_late_at_the_end(self, left: int, is_late: bool) -> None:
        """A deployment is late if one of its answers takes longer than all the rest elsewhere."""
        sender = make_senders(2)
        fast, slow = sender.deployments
        for each, trip in ((fast, 0.1), (slow, 10.0)):
            each.is_canary_due, each.is_proven = False, True
            for second in range(11):
                each.speed.answered(1_000, trip, float(second))
        ordered = sender._choice.order(left, 11.0)
        assert ordered == [fast, slow]
        assert (fast.is_late, slow.is_late) == (False, is_late)


class TestFailures:
    """Work that fails at one deployment goes to the others."""

    @pytest.mark.parametrize("since", [0.0, 2.0])
    @pytest.mark.parametrize("error", [DENIED, SPENT, refusal(400, "no"), refusal(404, "no model")])
    def test_one_that_refuses_everything_ends_no_call(self, error: Exception, since: float) -> None:
        """A deployment that refuses everything, at first or later, is left out of the call.

        The others go on, and no text is lost.
        """
        first, second = (server(seed, tokens_per_minute=QUOTA) for seed in range(2))
        sender = make_senders(2)
        ran = run(sender, [From(first, fails(error), since), second], work_of(4000, 3000))
        assert ran.lost == {}
        assert sender.deployments[0].left_out is not None
        assert ran.parts[0].failed <= 2 * REFUSED_IN_A_ROW + 48  # with those in flight

    def test_one_that_was_left_out_is_asked_again(self) -> None:
        """A deployment that was left out gets one request a minute until it answers."""
        denying = FakeServer(error=lambda request: DENIED if request.sent < 100 else None)
        slowly = server(1, tokens_per_minute=QUOTA)
        ran = run(make_senders(2), [denying, slowly], work_of(10_000, 2000))
        first = [request.sent for request in denying.requests[:3]]
        assert first == pytest.approx([0, LOOK_AGAIN, 2 * LOOK_AGAIN], abs=5)
        assert len(denying.requests) > 3
        assert ran.lost == {}

    def test_what_one_fails_is_sent_to_another_at_once(self) -> None:
        """A batch that fails at one deployment is sent to another at once, without waiting."""
        sender = make_senders(2)
        servers = [FakeServer(), FakeServer()]
        run(sender, servers, work_of(10, 10))
        queue = sender.queue(work_of(1, 10), Tally(), Hedges(), since=5.0)
        sender.add(queue, 5.0)
        (first,) = starts(sender, 5.0)
        sender.failed(first, refusal(500, "oops"), 5.1)
        (second,) = starts(sender, 5.1)
        assert second.parts[0][1] is first.parts[0][1]
        assert second.at is not first.at
        sender.failed(second, refusal(500, "oops"), 5.2)
        assert starts(sender, 5.2) == []  # both have failed it, so it waits

    def test_all_that_refuse_end_the_call(self) -> None:
        """If all deployments refuse, the call ends at once with the error of one of them.

        The next call sends requests to them again.
        """
        sender, servers = make_senders(2), [fails(DENIED), fails(SPENT)]
        ran = run(sender, servers, work_of(100, 10))
        assert ran.seconds < 1
        assert {error.__cause__ for error in ran.lost.values()} <= {DENIED, SPENT}
        assert len(ran.lost) == 100
        again = run(sender, [FakeServer(), FakeServer()], work_of(100, 10), now=10.0)
        assert again.lost == {}

    def test_all_that_are_away_end_the_call_when_patience_is_over(self) -> None:
        """If all are away, the call ends when the last one has been away for `max_outage`."""
        gone = ConnectionRefusedError("refused")
        early = From(server(0, tokens_per_minute=QUOTA), fails(gone), 1.0)
        late = From(server(1, tokens_per_minute=QUOTA), fails(gone), 30.0)
        sender = make_senders(2, max_outage=60.0)
        ran = run(sender, [early, late], work_of(10_000, 2000))
        assert 85 < ran.seconds < 110
        assert any(isinstance(error, NotSentError) for error in ran.lost.values())

    @pytest.mark.parametrize("status", [400, 500])
    def test_a_bad_text_costs_only_itself(self, status: int) -> None:
        """A bad text fails alone after one try at each deployment."""
        bad = frozenset({777})

        def refuse(request: Request) -> Exception | None:
            return refusal(status, "No") if bad & set(request.rows.tolist()) else None

        servers = [FakeServer(error=refuse) for _ in range(3)]
        ran = run(make_senders(3), servers, work_of(2000, 100))
        assert set(ran.lost) == bad
        assert sum(777 in each.rows() for each in servers) == 3
        assert sum(len(each.requests) for each in servers) <= 100  # 58 without the bad text

    def test_a_text_that_one_refuses_is_tried_at_the_others(self) -> None:
        """A text that one deployment refuses is tried at the others.

        A content filter of one region is no reason to have no vector.
        """

        def refuse(request: Request) -> Exception | None:
            return refusal(400, "No") if 777 in request.rows else None

        ran = run(make_senders(2), [FakeServer(error=refuse), FakeServer()], work_of(2000, 100))
        assert ran.lost == {}

    def test_each_has_limits_of_its_own(self) -> None:
        """Each deployment has its own size limits, and the others still get larger batches."""
        small, large = server(0, max_texts=10), server(1)
        sender = make_senders(2)
        ran = run(sender, [small, large], work_of(20_000, 50))
        assert ran.lost == {}
        assert sender.deployments[0].limits.items == 10
        assert sender.deployments[1].limits.items == math.inf
        sizes = [len(request.rows) for request in ran.several.requests[1]]
        assert max(sizes) > 10

    @pytest.mark.parametrize("seed", range(15))
    def test_nothing_is_lost_while_one_is_well(self, seed: int) -> None:
        """No text is lost while one deployment is well, whatever the others do and when."""
        draw = random.Random(seed)
        ways: list[Callable[[float], Server]] = [
            lambda since: fails(DENIED, since),
            lambda since: fails(SPENT, since),
            lambda since: fails(refusal(400, "no"), since),
            lambda since: fails(refusal(500, "oops"), since),
            lambda since: fails(refusal(503, "busy"), since),
            lambda since: fails(refusal(429, "slow down"), since),
            lambda since: fails(ConnectionResetError("reset"), since),
            lambda since: Hanging(FakeServer(), since),
            lambda since: server(seed, max_bytes=60_000, latency=0.1 + since),
        ]
        well = server(seed, tokens_per_minute=QUOTA, says=draw.choice(["all", "hint", "nothing"]))
        servers = [draw.choice(ways)(draw.choice([0, 0.5, 2])) for _ in range(draw.randint(1, 3))]
        servers.insert(draw.randint(0, len(servers)), well)
        ran = run(
            make_senders(len(servers), seed=seed),
            servers,
            work_of(draw.choice([1, 7, 500, 3000]), draw.choice([20, 500])),
        )
        assert ran.lost == {}
        assert ran.seconds < 130  # the time-out of a request is 120 s


class TestHedging:
    """A request in flight at a deployment that has stopped is sent to another one as well."""

    def test_what_hangs_is_answered_elsewhere(self) -> None:
        """Requests that hang are answered elsewhere long before their time-out.

        This holds whatever share of the tokens they are.
        """
        ran = run(make_senders(2), [Hanging(FakeServer(), 0.3), FakeServer()], work_of(3000, 100))
        assert ran.lost == {}
        assert ran.seconds < 10
        assert sum(part.hedged for part in ran.parts) == ran.tally.hedged > 0

    def test_a_single_text_is_too(self) -> None:
        """A query at a server that hangs is answered elsewhere within 5 s, not after 2 minutes."""
        sender = make_senders(2)
        assert run(sender, [FakeServer(), FakeServer()], work_of(1, 10)).seconds < 1
        first = next(at for at in (0, 1) if sender.deployments[at].pacer.let_through > 10)
        servers: list[Server] = [FakeServer(), FakeServer()]
        servers[first] = Hanging(FakeServer(), 5.0)
        ran = run(sender, servers, work_of(1, 10), now=10.0)
        assert ran.lost == {}
        assert ran.seconds < 5

    def test_one_that_says_nothing_more_is_sent_no_texts(self) -> None:
        """A deployment that has stopped answering gets probes only.

        The time-outs of its earlier requests make no room for texts.
        """
        silent = Hanging(server(0, tokens_per_minute=QUOTA), 3.0)
        sender = make_senders(2, timeout=20.0)
        ran = run(sender, [silent, server(1, tokens_per_minute=QUOTA)], work_of(15_000, 1000))
        assert ran.lost == {}
        assert sender.deployments[0].is_silent
        late = [request for request in ran.several.requests[0] if request.sent > 3 + 20]
        assert 1 <= len(late) < 12
        assert all(len(request.rows) == 0 for request in late)

    def test_one_that_speaks_again_goes_on(self) -> None:
        """A deployment that answers a probe after a silence receives texts again."""
        first, well, then = (server(seed, tokens_per_minute=QUOTA) for seed in range(3))
        paused = From(first, From(Hanging(first, 0.0), then, 30.0), 1.0)
        ran = run(make_senders(2, timeout=20.0), [paused, well], work_of(15_000, 1000))
        assert ran.lost == {}
        texts = [each.sent for each in ran.several.requests[0] if len(each.rows)]
        assert not [sent for sent in texts if 20 < sent < 30]
        assert [sent for sent in texts if sent > 30]

    def test_where_a_copy_was_refused_the_first_is_still_where_it_was(self) -> None:
        """After its copy was refused, a batch still counts as stuck at the first deployment.

        It does not count as stuck at the deployment that refused the copy.
        """
        sender = make_senders(2)
        queue = sender.queue(work_of(10, 10), Tally(), Hedges())
        hangs, refuses = sender.deployments
        batch = queue.peek(hangs, 0.0)
        assert batch is not None
        queue.take(batch, hangs, 0.0)
        queue.take(batch, refuses, 1.0)
        assert stuck(queue, {0}, first=True) is None
        error = refusal(429, "slow down")
        queue.failed(batch, refuses, diagnosed(error, ()), error, 1.1)
        assert stuck(queue, {0}, first=True) is batch
        assert stuck(queue, {1}, first=True) is None

    def test_a_copy_goes_to_a_faster_one_or_nowhere(self) -> None:
        """A copy of a late request goes to a faster deployment or nowhere.

        It may go to the fast one a second time; a second request to a slow one would be late as
        well. Once the fast one is silent, the slow one is the fastest of those that answer.
        """
        sender = make_senders(2)
        for each, trip in zip(sender.deployments, (0.1, 10.0), strict=True):
            each.is_canary_due, each.is_proven = False, True
            each.speed.answered(1_000, trip, 10.0)
        fast, slow = sender.deployments
        for number in (0, 1):
            at, _ = sender._choice.for_copy(10, 10.0, left=1e9, but=[number])
            assert at is fast
        fast.pacer.concurrency.is_saturated, fast.pacer.concurrency.estimate = True, 1.0
        fast.pacer.start(10, 10.0)  # a copy there would wait in line
        assert sender._choice.for_copy(10, 10.0, left=1e9, but=[1]) == (None, math.inf)
        fast.is_silent = True
        assert sender._choice.for_copy(10, 10.0, left=1e9, but=[1])[0] is slow

    @pytest.mark.parametrize("count", [1, 2])
    def test_a_refused_copy_costs_nothing(self, count: int) -> None:
        """A refused copy gives its cost back to the budget for late requests."""
        sender = make_senders(count)
        queue = sender.queue(work_of(10, 10), Tally(), hedges := Hedges())
        hedges.allow(10_000)
        batch = queue.peek(sender.deployments[0], 0.0)
        assert batch is not None
        queue.take(batch, sender.deployments[0], 0.0)
        copy = sender._copied(Copy(queue, batch, sender.deployments[-1], is_hedge=True), 1.0)
        assert not hedges.affords(500)
        sender.failed(copy, refusal(429, "slow down"), 1.1)
        assert hedges.affords(500)

    def test_a_copy_that_could_not_be_submitted_leaves_no_trace(self) -> None:
        """A copy or a canary that could not be submitted is in no count, and costs no budget."""
        sender = make_senders(2)
        queue = sender.queue(work_of(10, 10), Tally(), hedges := Hedges())
        hedges.allow(10_000)
        sender.add(queue, 0.0)
        canary = sender.next(0.0)
        assert isinstance(canary, Flight)
        assert (queue.tally.requests, queue.tally.shares[0].requests) == (1, 1)
        sender.undo(canary)
        batch = queue.peek(sender.deployments[0], 0.0)
        assert batch is not None
        queue.take(batch, sender.deployments[0], 0.0)
        sender.undo(sender._copied(Copy(queue, batch, sender.deployments[1], is_hedge=True), 1.0))
        assert hedges.affords(500)
        tally = queue.tally
        assert (tally.requests, tally.hedged, tally.hedged_tokens) == (0, 0, 0)
        assert [(share.requests, share.hedged) for share in tally.shares] == [(0, 0), (0, 0)]

    def test_a_throttled_copy_counts_as_throttled(self) -> None:
        """A copy that is refused for the rate is counted while its original is in flight."""
        sender = make_senders(2)
        queue = sender.queue(work_of(10, 10), Tally(), Hedges())
        batch = queue.peek(sender.deployments[0], 0.0)
        assert batch is not None
        queue.take(batch, sender.deployments[0], 0.0)
        copy = sender._copied(Copy(queue, batch, sender.deployments[1]), 1.0)
        sender.failed(copy, refusal(429, "slow down"), 1.1)
        assert queue.tally.throttled == 1

    def test_what_is_not_awaited_is_not_copied(self) -> None:
        """A request that waits for the user's rate limiter is neither late nor silent."""
        sender = make_senders(2)
        for each in sender.deployments:
            each.is_canary_due, each.is_proven = False, True
            each.speed.answered(1_000, 0.1, 0.0)
        queue = sender.queue(work_of(10, 10), Tally(), hedges := Hedges())
        hedges.allow(100_000)
        for _ in range(20):
            hedges.answered(0.1)
        sender.add(queue, 0.0)
        sender._choice.is_open = True
        flight = sender.next(0.0)
        assert isinstance(flight, Flight)
        number = flight.at.number
        sender.hold(flight)
        assert stuck(queue, {number}, first=True) is None
        assert straggler(queue, 1e6) == math.inf
        assert sender._choice.stops_in(number, 1e6) > 0
        sender.restart(flight, 1e6)
        assert stuck(queue, {number}, first=True) is not None
        assert straggler(queue, 2e6) is flight.parts[0][1]
        assert sender._choice.stops_in(number, 2e6) == 0

    def test_a_late_owner_of_a_trial_holds_up_nobody(self) -> None:
        """A batch that tests a limit of a late deployment may be sent to another one."""
        sender = make_senders(2)
        fast, slow = sender.deployments
        queue = sender.queue(work_of(10, 10), Tally(), Hedges())
        batch = queue.peek(slow, 0.0)
        assert batch is not None
        batch.trial = slow.limits._trials["x"] = Trial("x", "items")
        routing = Routing(sender.deployments)
        assert [routing.route(batch, at) for at in (fast, slow)] == ["later", "here"]
        slow.is_late = True
        assert [routing.route(batch, at) for at in (fast, slow)] == ["here", "later"]

    def test_without_hedging_nothing_is_sent_twice(self) -> None:
        """Without hedging, requests that hang are sent again only after their time-out."""
        sender = make_senders(2, hedge=False, timeout=20.0)
        ran = run(sender, [Hanging(FakeServer(), 0.3), FakeServer()], work_of(3000, 100))
        assert ran.tally.hedged == 0
        assert ran.lost == {}
        assert 20 < ran.seconds < 60


def starts(sender: Sender, now: float) -> list[Flight]:
    """Return all requests that may start now."""
    flights = []
    while isinstance(flight := sender.next(now), Flight):
        flights.append(flight)
    return flights


class TestProbes:
    """No text is sent before the vectors of a probe text have been compared."""

    def test_each_is_sent_a_probe_first(self) -> None:
        """Each deployment gets a probe, and texts once it and the first one have answered."""
        sender = make_senders(3)
        work = work_of(3000, 1000)
        queue = sender.queue(work, Tally(), Hedges())
        sender.add(queue, 0.0)
        probes = starts(sender, 0.0)
        assert [(flight.at.number, len(flight.parts)) for flight in probes] == [
            (0, 0),
            (1, 0),
            (2, 0),
        ]
        sender.answered(probes[1], 0.1, headers={})
        assert starts(sender, 0.1) == []  # the first one may answer at any moment
        sender.answered(probes[0], 0.2, headers={})
        assert {flight.at.number for flight in starts(sender, 0.2)} == {0, 1}

    def test_the_end_of_a_call_waits_for_the_others_for_a_second(self) -> None:
        """The end of a call waits up to a second for the probes of the other deployments.

        Vectors of another space are noticed then, and a server that hangs costs no more time than
        that.
        """
        hangs = Hanging(FakeServer(), 0.0)
        assert run(make_senders(2), [FakeServer(), FakeServer()], work_of(1, 10)).seconds < 0.5
        late = run(make_senders(2), [FakeServer(), hangs], work_of(1, 10))
        assert GRACE < late.seconds < GRACE + 0.5
        late = run(make_senders(2), [hangs, FakeServer()], work_of(1, 10))
        assert GRACE < late.seconds < GRACE + 0.5

    def test_another_space_ends_the_call_and_the_next_one(self) -> None:
        """A deployment whose vectors are of another space ends the call, and the next one too.

        The package cannot know which of the two is right.
        """
        sender = make_senders(2)
        for now in (0.0, 10.0):
            work = work_of(3000, 1000)
            queue = sender.queue(work, Tally(), Hedges())
            sender.add(queue, now)
            probes = starts(sender, now)
            assert [len(flight.parts) for flight in probes] == [0, 0]
            sender.answered(probes[0], now + 0.1, headers={})
            in_flight = starts(sender, now + 0.1)
            sender.answered(probes[1], now + 0.2, headers={}, errors={0: ValueError("another")})
            assert starts(sender, now + 0.3) == []
            for flight in in_flight:
                sender.answered(flight, now + 0.3, headers={})
            assert queue.open == 0
            sender.remove(queue)

    def test_one_alone_is_sent_none(self) -> None:
        """A single deployment receives no probe."""
        only = FakeServer()
        run(make_senders(1), [only], work_of(10, 10))
        assert [len(request.rows) for request in only.requests] == [10]


class TestSpeed:
    """How fast a server answers."""

    def test_tokens_of_late_count(self) -> None:
        """The speed counts the tokens answered within the window and forgets older ones."""
        speed = Speed()
        for second in range(20):
            speed.answered(100, 0.5, float(second))
        assert speed.per_second(19.0) == pytest.approx(100, rel=0.2)
        assert speed.per_second(19.0 + 2 * WINDOW) == 0

    def test_the_usual_round_trip_is_the_median_of_the_last(self) -> None:
        """The usual round trip is a median of recent ones, so one stalled answer changes nothing.

        The longest round trip fades with time.
        """
        speed = Speed()
        for _ in range(60):
            speed.answered(1, 8.0, 8.0)
        for _ in range(60):
            speed.answered(1, 1.0, 9.0)
        assert speed.trip == 1.0
        speed.answered(1, 80.0, 80.0)
        assert speed.trip == 1.0
        assert speed.longest == 80.0
        for _ in range(60):
            speed.answered(1, 1.0, 90.0)
        assert speed.longest == pytest.approx(1.0, abs=0.1)
