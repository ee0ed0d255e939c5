"""A server that refuses everything for some seconds is soon used in full again."""

import math
import random

import pytest

from langchain_batch_embed.sending.rehearsal import Reply, Request
from tests.sending.calls import Rehearsal, lost, make_sender, make_work, refusal
from tests.support import seeds

LATENCY = 2.0
AWAY = (8.0, 13.0)


class Restarting:
    """A server that answers new requests with 503 for a while, and earlier ones as usual."""

    def __init__(self, seed: int) -> None:
        self._dice = random.Random(seed)

    def receive(self, request: Request) -> Reply:
        """Answer a request, or refuse it."""
        if AWAY[0] <= request.sent < AWAY[1]:
            return Reply(after=0.4, error=refusal(503))
        return Reply(after=LATENCY * math.exp(0.5 * self._dice.gauss(0, 1)))


@pytest.mark.parametrize(("workers", "seconds"), [(16, 56.0), (64, 33.0)])
def test_refusals_for_some_seconds_do_not_slow_the_rest(workers: int, seconds: float) -> None:
    """After 5 s of 503 as many requests as before are sent together.

    Looking for that number again, step by step, takes 62 to 71 s with 16 workers, and 42 to 57 s
    with 64.
    """
    for seed in seeds(4):
        sender = make_sender(max_workers=workers, is_known=False, first_requests=8, seed=seed)
        rehearsal = Rehearsal(sender, Restarting(seed))
        rehearsal.add(make_work(10_000, tokens=120, max_items=40))
        took = rehearsal.run()
        assert lost(rehearsal.outcomes) == {}, f"seed {seed}"
        assert took <= seconds, f"seed {seed}: {took:.0f} s"
        assert sender.deployments[0].pacer.concurrency.limit() == workers, f"seed {seed}"
