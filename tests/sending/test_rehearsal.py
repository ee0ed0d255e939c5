"""Sending in simulated time: hours pass in milliseconds, and no decision is left out."""

import math

import pytest

from langchain_batch_embed.sending.rehearsal import Reply, Request
from tests.sending.calls import FakeServer, Rehearsal, done, lost, make_sender, make_work
from tests.simulated.grid import Cell
from tests.simulated.server import SimulatedServer


def test_the_end_is_when_the_last_answer_comes() -> None:
    """A rehearsal ends at the last answer: 40 requests of an hour, 8 at a time, take 5 hours."""
    rehearsal = Rehearsal(make_sender(timeout=math.inf), FakeServer(seconds=3600.0))
    rehearsal.add(make_work(40, max_items=1))
    assert rehearsal.run() == 5 * 3600
    assert done(rehearsal.outcomes) == list(range(40))


def test_it_begins_at_the_time_that_it_is_told() -> None:
    """A rehearsal begins at the given time, so a second call can go on where the first ended."""
    rehearsal = Rehearsal(make_sender(), FakeServer(seconds=1.0))
    rehearsal.add(make_work(1), now=500)
    assert rehearsal.run(now=500) == 501


def test_requests_come_in_order_with_what_is_in_them() -> None:
    """Requests have rising numbers and times, and the token counts of their rows."""
    server = FakeServer(seconds=lambda request: 0.1 + request.number % 3)
    rehearsal = Rehearsal(make_sender(), server)
    rehearsal.add(make_work(100, max_items=7, tokens=range(1, 101)))
    rehearsal.run()
    assert [request.number for request in server.requests] == list(range(len(server.requests)))
    sent = [request.sent for request in server.requests]
    assert sent == sorted(sent)
    for request in server.requests:
        assert request.tokens == request.charge == sum(row + 1 for row in request.rows)
        assert request.timeout == 60
    assert sorted(server.rows()) == list(range(100))


def test_an_answer_after_the_timeout_is_a_timeout() -> None:
    """The client gives up a request at `sent + timeout` and sends it again."""
    server = FakeServer(seconds=lambda request: 0.5 if request.number else 100.0)
    rehearsal = Rehearsal(make_sender(timeout=10.0), server)
    rehearsal.add(make_work(1))
    assert 10.5 < rehearsal.run() < 12
    assert rehearsal.tally.retries == 1


def test_what_never_comes_is_an_error() -> None:
    """A rehearsal that waits for an answer that never comes raises an error and does not hang."""

    class Silent:
        def receive(self, request: Request) -> Reply:
            del request
            return Reply(after=math.inf)

    rehearsal = Rehearsal(make_sender(timeout=math.inf), Silent())
    rehearsal.add(make_work(1))
    with pytest.raises(RuntimeError, match="never happens"):
        rehearsal.run()


def test_callers_take_all_that_waits_once_the_server_queues() -> None:
    """Outcomes that waited for the caller are all taken before a queueing server gets more.

    Lists of floats wait until a worker is free. If the server is then found to queue, it gets
    nothing more until the caller has taken them.
    """
    sender = make_sender(max_workers=16, is_known=False)
    concurrency = sender.deployments[0].pacer.concurrency

    class Queueing:
        def receive(self, request: Request) -> Reply:
            concurrency.is_saturated = request.number >= 31
            return Reply(after=1.0 + request.number % 2)

    rehearsal = Rehearsal(sender, Queueing())
    rehearsal.add(make_work(64, max_items=1, makes_lists=True))
    rehearsal.run()
    assert done(rehearsal.outcomes) == list(range(64))


def test_the_same_luck_gives_the_same_end() -> None:
    """Two rehearsals with the same seeds are equal, because all randomness is passed in."""
    cell = Cell(tokens_per_minute=1_000_000, limiter_seconds=3.0, says="nothing", latency=0.05)

    def run() -> tuple[float, int]:
        server = SimulatedServer(cell, seed=3)
        rehearsal = Rehearsal(make_sender(is_known=False, max_workers=32, seed=5), server)
        rehearsal.add(make_work(5000, tokens=100))
        return rehearsal.run(), server.counts.requests

    assert run() == run()


def test_errors_are_handled_as_in_earnest() -> None:
    """A rehearsal handles errors as real sending does: the sender finds the one bad text."""
    server = SimulatedServer(Cell(refused_rows=frozenset({17})))
    rehearsal = Rehearsal(make_sender(), server)
    rehearsal.add(make_work(200))
    rehearsal.run()
    assert list(lost(rehearsal.outcomes)) == [17]
    assert done(rehearsal.outcomes) == [row for row in range(200) if row != 17]
