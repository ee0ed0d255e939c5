"""A proxy's limit on simultaneous requests is found, and so is a server at which they queue."""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import pytest

from langchain_batch_embed.sending.rehearsal import Reply, Request
from tests.sending.calls import Rehearsal, lost, make_sender, make_work
from tests.support import seeds

from .refusals import StatusError

BATCHES = 100
ITEMS = 20


@dataclass
class Door:
    """A server behind a limit on simultaneous requests.

    Attributes:
        most: most requests at a time.
        seconds: time that it works on a request.
        way: median seconds there and back.
        status: status of a refusal; `None` if it closes the connection.
        dice: source of random numbers.
    """

    most: int
    seconds: float
    way: float
    status: int | None
    dice: random.Random
    requests: int = field(default=0, init=False)
    refused: int = field(default=0, init=False)
    _inside: list[float] = field(default_factory=list, init=False)

    def receive(self, request: Request) -> Reply:
        """Let a request in or refuse it; calls must be in order of `sent`."""
        self.requests += 1
        way = self.way * math.exp(0.5 * self.dice.gauss(0, 1))
        arrival = request.sent + way / 2
        self._inside = [end for end in self._inside if end > arrival]
        if len(self._inside) >= self.most:
            self.refused += 1
            return Reply(after=way, error=self._refusal())
        worked = self.seconds * math.exp(0.1 * self.dice.gauss(0, 1))
        self._inside.append(arrival + worked)
        return Reply(after=way + worked)

    def _refusal(self) -> Exception:
        if self.status is None:
            return ConnectionResetError("connection reset by peer")
        return StatusError(self.status, "<html><hr>nginx</html>")


SPEEDS = [(0.02, 0.002), (0.1, 0.002), (0.5, 0.002), (0.1, 0.02), (0.1, 0.05)]
"""The seconds of `Door` for a request, and on the way there and back."""


def assert_found_out(
    door: Callable[[random.Random], Door], *, first: int, slower: float, refused: float
) -> None:
    """Send 2,000 texts with several seeds; assert that none is lost, and bounds for the rest.

    Args:
        door: makes the server.
        first: requests sent before any answer.
        slower: the most seconds for each second of the ideal time, beside 2.5 s.
        refused: the largest share of requests that may be refused.
    """
    for seed in seeds(8):
        sender = make_sender(max_workers=128, is_known=False, first_requests=first, seed=seed)
        server = door(random.Random(seed))
        rehearsal = Rehearsal(sender, server)
        rehearsal.add(make_work(BATCHES * ITEMS, tokens=3, max_items=ITEMS))
        took = rehearsal.run()
        ideal = BATCHES / server.most * (server.seconds + server.way)
        shown = f"seed {seed}: {took:.1f} s, {server.refused} of {server.requests} refused"
        assert lost(rehearsal.outcomes) == {}, shown
        assert took <= slower * ideal + 2.5, shown
        assert server.refused <= refused * server.requests, shown


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("most", [1, 4, 10])
@pytest.mark.parametrize(("seconds", "way"), SPEEDS)
def test_few_at_a_time_are_found_out(most: int, seconds: float, way: float, status: int) -> None:
    """A limit on simultaneous requests costs little time, with at most 36 % refused."""
    door = partial(Door, most, seconds, way, status)
    assert_found_out(door, first=32, slower=1.3, refused=0.36)


@pytest.mark.parametrize("status", [409, 500, 502, None])
@pytest.mark.parametrize("most", [1, 2, 4, 10])
@pytest.mark.parametrize(("seconds", "way"), SPEEDS)
def test_so_are_they_whatever_the_refusal_says(
    most: int, seconds: float, way: float, status: int | None
) -> None:
    """A refusal that does not say that there are too many is understood from when it comes.

    Otherwise each batch is cut again and again as if its texts were bad, and thousands of requests
    are sent.
    """
    door = partial(Door, most, seconds, way, status)
    assert_found_out(door, first=8, slower=1.5, refused=0.6)


@pytest.mark.parametrize("status", [400, 403, 422])
@pytest.mark.parametrize("most", [1, 2, 4, 10])
@pytest.mark.parametrize(("seconds", "way"), SPEEDS)
def test_a_refusal_that_blames_the_texts_is_seen_through(
    most: int, seconds: float, way: float, status: int
) -> None:
    """A server that refuses requests as bad while it is busy loses few texts.

    HuggingFace's tokenizers do so ("Already borrowed"). The first texts may be refused four times
    before any of them is accepted; without sending them again, nine of ten texts are lost.
    """
    for seed in seeds(4):
        sender = make_sender(max_workers=128, is_known=False, first_requests=8, seed=seed)
        server = Door(most, seconds, way, status, random.Random(seed))
        rehearsal = Rehearsal(sender, server)
        rehearsal.add(make_work(BATCHES * ITEMS, tokens=3, max_items=ITEMS))
        took = rehearsal.run()
        shown = (
            f"seed {seed}: {took:.1f} s, {server.requests}, {len(lost(rehearsal.outcomes))} lost"
        )
        assert len(lost(rehearsal.outcomes)) <= 8, shown
        assert server.requests <= 3_000, shown


@dataclass
class Line:
    """A server that answers one request after another, at a cost that does not depend on texts.

    Attributes:
        seconds: time between two answers.
        way: seconds there and back.
        delays_first: whether the first request takes that time too. nginx's `limit_req` passes it
            on at once.
    """

    seconds: float
    way: float
    delays_first: bool
    requests: int = field(default=0, init=False)
    _free_at: float = field(default=0.0, init=False)

    def receive(self, request: Request) -> Reply:
        """Queue a request; calls must be in order of `sent`."""
        begin = max(self._free_at, request.sent)
        self._free_at = begin + self.seconds
        self.requests += 1
        waited = begin - request.sent + (self.seconds if self.delays_first else 0.0)
        return Reply(after=self.way + waited)


@pytest.mark.parametrize("delays_first", [True, False])
@pytest.mark.parametrize("seconds", [0.2, 0.5, 2.0])
def test_where_requests_queue_they_are_large(seconds: float, delays_first: bool) -> None:
    """Batches grow at once where the first eight answers come one by one.

    With batches as small as the first ones, 4,000 texts would take 1,000 requests. The slow start
    would send 90.
    """
    sender = make_sender(max_workers=128, is_known=False, first_requests=8)
    server = Line(seconds, 0.05, delays_first)
    rehearsal = Rehearsal(sender, server)
    rehearsal.add(make_work(4000, tokens=150, max_items=2048))
    took = rehearsal.run()
    shown = f"{took:.1f} s, {server.requests} requests"
    assert lost(rehearsal.outcomes) == {}, shown
    assert server.requests <= 45, shown
    assert took <= 45 * seconds + 1, shown
