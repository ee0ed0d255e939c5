"""A gateway that refuses some requests whatever the rate does not slow a call down for long."""

import random
from collections.abc import Mapping

import pytest

from . import trial
from .exchange import Reply, Request
from .grid import cell_of
from .refusals import StatusError
from .server import SimulatedServer


class Gateway(SimulatedServer):
    """One whose backends have used up a quota of their own, some of them."""

    share = 0.0
    hint: Mapping[str, str] = {}  # replaced, and never changed
    dice = random.Random(0)

    def receive(self, request: Request) -> Reply:
        """Refuse some requests, in 20 ms."""
        reply = super().receive(request)
        if self.dice.random() < self.share:
            return Reply(after=0.02, error=StatusError(429, "Too many requests", headers=self.hint))
        return reply


@pytest.mark.parametrize(("share", "seconds"), [(0.1, 30), (0.2, 30), (0.3, 200), (0.5, 400)])
@pytest.mark.parametrize("seed", range(3))
def test_refusals_at_random_cost_seconds(
    monkeypatch: pytest.MonkeyPatch, share: float, seconds: float, seed: int
) -> None:
    """200 requests of 50 ms: slowing down after each refusal would take 40 minutes at 0.3."""
    monkeypatch.setattr(Gateway, "share", share)
    monkeypatch.setattr(Gateway, "dice", random.Random(seed))
    monkeypatch.setattr(trial, "SimulatedServer", Gateway)
    cell = cell_of({"quota": "no quota", "latency": "50 ms", "limits": "10 texts"})
    tried = trial.try_cell(cell, seed, trial.Client(), most_requests=100, ideal=False)
    assert not tried.error
    assert (tried.lost, tried.kept) == (0, 0)
    assert tried.seconds < seconds


@pytest.mark.parametrize("seed", range(3))
def test_hints_are_obeyed_and_no_rate_is_made_of_them(
    monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Each refusal asks for a second, which everybody waits: a minute or two in all."""
    monkeypatch.setattr(Gateway, "share", 0.3)
    monkeypatch.setattr(Gateway, "hint", {"retry-after": "1"})
    monkeypatch.setattr(Gateway, "dice", random.Random(seed))
    monkeypatch.setattr(trial, "SimulatedServer", Gateway)
    cell = cell_of({"quota": "no quota", "latency": "50 ms", "limits": "10 texts"})
    tried = trial.try_cell(cell, seed, trial.Client(), most_requests=100, ideal=False)
    assert (tried.lost, tried.kept, tried.error) == (0, 0, "")
    assert tried.seconds < 200
