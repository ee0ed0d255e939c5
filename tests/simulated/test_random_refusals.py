"""A gateway that refuses some requests at any rate does not slow down a call for long.

One of its backends is broken, so it answers 503, or has used up its quota, so it answers 429.
"""

import random
from collections.abc import Mapping

import pytest

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


@pytest.mark.parametrize(("share", "seconds"), [(0.1, 30), (0.2, 60), (0.3, 60), (0.5, 300)])
@pytest.mark.parametrize("latency", ["50 ms", "0.3 s"])
@pytest.mark.parametrize("status", [429, 503])
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
    """Random refusals cost seconds or minutes, far less than slowing down after each one.

    For 200 requests of 50 ms that would take 40 minutes at a share of 0.3.
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
