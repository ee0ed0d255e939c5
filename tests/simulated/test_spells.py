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


class Draining:
    """A server with one worker that refuses new requests for a while, and still has a queue.

    So answers to earlier requests come in between, as from a server that is shutting down.
    """

    def __init__(self, status: int, seed: int) -> None:
        self._status = status
        self._dice = random.Random(seed)
        self._free = 0.0

    def receive(self, request: Request) -> Reply:
        """Queue a request, or refuse it."""
        if 5 <= request.sent < 65:
            return Reply(after=0.05, error=refusal(self._status))
        self._free = (
            max(self._free, request.sent) + self._dice.uniform(0.5, 1.5) * request.tokens / 1500
        )
        return Reply(after=self._free - request.sent)


@pytest.mark.parametrize("status", [500, 502, 503])
@pytest.mark.parametrize("workers", [8, 16, 32])
def test_answers_to_earlier_requests_do_not_put_the_blame_on_a_text(
    workers: int, status: int
) -> None:
    """No text is lost at a server that refuses new requests while it answers those that it has."""
    for seed in seeds(8):
        sender = make_sender(max_workers=workers, seed=seed)
        rehearsal = Rehearsal(sender, Draining(status, seed))
        rehearsal.add(make_work(2000, tokens=120, max_items=40))
        took = rehearsal.run()
        assert lost(rehearsal.outcomes) == {}, f"seed {seed}"
        assert took < 300, f"seed {seed}: {took:.0f} s"  # 167 to 235 s
