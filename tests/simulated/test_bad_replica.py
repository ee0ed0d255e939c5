"""A replica that answers 400 to everything costs hardly a text, and no small batches.

All others accept the same texts, so its refusals are neither about the texts nor about their sizes.
"""

import random

import pytest

from tests.support import seeds

from . import trial
from .exchange import Reply, Request
from .grid import cell_of
from .refusals import StatusError
from .server import SimulatedServer


class Replicas(SimulatedServer):
    """A server some of whose replicas refuse everything."""

    share = 0.0
    dice = random.Random(0)

    def receive(self, request: Request) -> Reply:
        """Refuse some requests, after 20 ms."""
        reply = super().receive(request)
        if self.dice.random() < self.share:
            return Reply(after=0.02, error=StatusError(400, "No"))
        return reply


@pytest.mark.parametrize(
    ("share", "most_lost", "seconds"), [(0.05, 0, 20), (0.1, 2, 20), (0.25, 12, 25)]
)
@pytest.mark.parametrize("latency", ["5 ms", "50 ms", "0.3 s"])
@pytest.mark.parametrize("seed", seeds(12))
def test_a_replica_that_refuses_everything_costs_hardly_a_text(
    monkeypatch: pytest.MonkeyPatch,
    share: float,
    most_lost: int,
    seconds: float,
    latency: str,
    seed: int,
) -> None:
    """Of 40,000 texts none or a few are lost, and the call takes a few times as long.

    Once a refused text is accepted, each refused text is sent again. Until then the first few are.
    At a share of a quarter, some of these are refused twice before the first answer comes.
    """
    monkeypatch.setattr(Replicas, "share", share)
    monkeypatch.setattr(Replicas, "dice", random.Random(seed))
    monkeypatch.setattr(trial, "SimulatedServer", Replicas)
    cell = cell_of({"quota": "no quota", "latency": latency})
    tried = trial.try_cell(cell, seed, trial.Client(), ideal=False)
    assert tried.texts == 40_000
    assert (tried.kept, tried.error) == (0, "")
    assert tried.lost <= most_lost
    assert tried.seconds < seconds
