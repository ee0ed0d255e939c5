"""A gateway that refuses some requests at any rate does not slow down a call for long.

One of its backends is broken, so it answers 503, or has used up its quota, so it answers 429.
"""

import heapq
import random
from collections.abc import Mapping

import pytest

from tests.sending.calls import Rehearsal, lost, make_sender, make_work
from tests.support import seeds

from . import trial
from .exchange import Reply, Request
from .grid import cell_of
from .refusals import StatusError
from .server import SimulatedServer


class Gateway(SimulatedServer):
    """A gateway some of whose backends refuse everything."""

    share = 0.0
    status = 429
    hint: Mapping[str, str] = {}  # replaced, and never changed
    dice = random.Random(0)

    def receive(self, request: Request) -> Reply:
        """Refuse some requests, after 20 ms."""
        reply = super().receive(request)
        if self.dice.random() < self.share:
            return Reply(after=0.02, error=StatusError(self.status, "No", headers=self.hint))
        return reply


@pytest.mark.parametrize(
    ("status", "share", "seconds"),
    [
        (429, 0.1, 30),
        (429, 0.2, 60),
        (429, 0.3, 60),
        (429, 0.5, 300),
        (503, 0.1, 30),
        (503, 0.2, 40),
        (503, 0.3, 40),
        (503, 0.5, 65),
    ],
)
@pytest.mark.parametrize("latency", ["50 ms", "0.3 s"])
@pytest.mark.parametrize("seed", seeds(3))
def test_refusals_at_random_cost_seconds(
    monkeypatch: pytest.MonkeyPatch,
    share: float,
    seconds: float,
    latency: str,
    status: int,
    seed: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Random refusals cost seconds, at a share of a half minutes: 200 requests go out in parallel.

    Slowing down after each one would end at one request at a time, or one in 10 s.
    """
    monkeypatch.setattr(Gateway, "status", status)
    monkeypatch.setattr(Gateway, "share", share)
    monkeypatch.setattr(Gateway, "dice", random.Random(seed))
    monkeypatch.setattr(trial, "SimulatedServer", Gateway)
    cell = cell_of({"quota": "no quota", "latency": latency, "limits": "10 texts"})
    tried = trial.try_cell(cell, seed, trial.Client(), most_requests=100, ideal=False)
    assert not tried.error
    assert (tried.lost, tried.kept) == (0, 0)
    assert tried.seconds < seconds
    told = [line for line in caplog.messages if "refuses some requests however few" in line]
    assert len(told) <= 2
    if share >= 0.3:  # else the call may end before it is clear
        assert told
        assert str(status) in told[0]


@pytest.mark.parametrize("seed", seeds(3))
def test_hints_are_obeyed_and_no_rate_is_made_of_them(
    monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """The server's hints are followed, and random refusals are not taken for a rate.

    Each refusal asks for a second, during which all workers wait: a minute or two in all.
    """
    monkeypatch.setattr(Gateway, "share", 0.3)
    monkeypatch.setattr(Gateway, "hint", {"retry-after": "1"})
    monkeypatch.setattr(Gateway, "dice", random.Random(seed))
    monkeypatch.setattr(trial, "SimulatedServer", Gateway)
    cell = cell_of({"quota": "no quota", "latency": "50 ms", "limits": "10 texts"})
    tried = trial.try_cell(cell, seed, trial.Client(), most_requests=100, ideal=False)
    assert (tried.lost, tried.kept, tried.error) == (0, 0, "")
    assert tried.seconds < 200


class LimitedTwice:
    """A server with 8 places and a quota of requests, which says 503 for both.

    Attributes:
        refused: the number of refused requests.
    """

    def __init__(self, seed: int) -> None:
        self.refused = 0
        self._dice = random.Random(seed)
        self._free_at: list[float] = []  # a heap: when each taken place is free again
        self._level, self._last = 100.0, 0.0  # it holds 100 requests, and gains two a second

    def receive(self, request: Request) -> Reply:
        """Answer in about 0.3 s, or refuse after 10 to 90 ms."""
        while self._free_at and self._free_at[0] <= request.sent:
            heapq.heappop(self._free_at)
        self._level = min(100.0, self._level + 2.0 * (request.sent - self._last))
        self._last = request.sent
        if len(self._free_at) >= 8 or self._level < 1:
            self.refused += 1
            return Reply(after=0.01 + 0.08 * self._dice.random(), error=StatusError(503, "No"))
        self._level -= 1
        after = 0.3 * self._dice.lognormvariate(0.0, 0.6)
        heapq.heappush(self._free_at, request.sent + after)
        return Reply(after=after)


@pytest.mark.parametrize("seed", seeds(8))
def test_a_quota_told_as_overload_is_not_taken_for_chance_for_long(seed: int) -> None:
    """A limit and a quota that are both told as 503 cost no text, and few requests are refused.

    A refusal that was once taken for chance must never count as an answer, or nothing would show
    that the conclusion was wrong.
    """
    server = LimitedTwice(seed)
    sender = make_sender(max_workers=64, is_known=False, first_requests=8, seed=seed)
    rehearsal = Rehearsal(sender, server)
    rehearsal.add(make_work(1800, tokens=120, max_items=9))
    assert rehearsal.run() < 90
    assert not lost(rehearsal.outcomes)
    assert server.refused < 250
