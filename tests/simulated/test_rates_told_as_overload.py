"""A proxy such as nginx enforces a rate by 503: no text is lost, and few requests are refused."""

import random

import numpy as np
import pytest

from langchain_batch_embed.pacing.hedging import Hedges
from langchain_batch_embed.pacing.pacer import Pacer
from langchain_batch_embed.providers import Answer
from langchain_batch_embed.report import Tally
from langchain_batch_embed.sending.deployment import Deployment
from langchain_batch_embed.sending.rehearsal import Reply, Request, rehearse
from langchain_batch_embed.sending.sender import Sender
from langchain_batch_embed.sending.work import Lost, Outcome, Rows, Work
from langchain_batch_embed.texts.packing import Sizes
from tests.support import seeds

from .refusals import StatusError

COUNT = 5000
LATENCY = 0.3


class LeakyBucket:
    """A server that lets requests in as nginx's `limit_req` does with `nodelay`.

    Args:
        rate: requests a second.
        burst: requests beyond one that may come at once.
        status: status of a refusal.

    Attributes:
        accepted: number of requests let in.
        refused: number of requests refused.
    """

    def __init__(self, rate: float, burst: int, status: int) -> None:
        self._rate, self._burst, self._status = rate, burst, status
        self._excess, self._last = -1.0, 0.0
        self.accepted = self.refused = 0

    def receive(self, request: Request) -> Reply:
        """Answer a request; calls must be in order of `sent`."""
        elapsed = request.sent - self._last
        excess = max(0.0, self._excess - elapsed * self._rate + 1)
        if excess > self._burst:
            self.refused += 1
            return Reply(after=0.005, error=StatusError(self._status, "<html><hr>nginx</html>"))
        self._excess, self._last = excess, request.sent
        self.accepted += 1
        return Reply(after=LATENCY)


def _send_nothing(texts: list[str], *, timeout: float) -> Answer:
    raise NotImplementedError


def _keep_nothing(rows: Rows, answer: Answer) -> None:
    """Accept the answers, which do not occur in a rehearsal."""


@pytest.mark.parametrize("status", [429, 503, 529])
@pytest.mark.parametrize(
    ("rate", "burst"),
    [(10, 5), (10, 0), (2, 0), (1, 0), (0.5, 3), (0.2, 0), (0.2, 5), (0.1, 0), (1, 20)],
)
@pytest.mark.parametrize("workers", [1, 4, 16, 128])
def test_a_rate_of_requests_is_found_out(
    rate: float, burst: int, workers: int, status: int
) -> None:
    """At a limited rate 5,000 texts take at most 110 accepted requests, none lost."""
    for seed in seeds(7):
        draw = random.Random(seed).random
        texts = ["text"] * COUNT
        work = Work(
            rows=np.arange(COUNT),
            sizes=Sizes(
                tokens=np.full(COUNT, 64), charges=np.full(COUNT, 76), octets=np.full(COUNT, 300)
            ),
            max_items=2048,
            max_tokens=300_000,
            texts=texts,
            sends=(_send_nothing,),  # type: ignore[arg-type]
            keep=_keep_nothing,
        )
        pacer = Pacer(max_workers=workers, draw=draw)
        sender = Sender([Deployment(pacer, max_retries=8, timeout=120, draw=draw)], hedge=True)
        queue = sender.queue(work, Tally(), Hedges())
        sender.add(queue, 0.0)
        server, outcomes = LeakyBucket(rate, burst, status), list[Outcome]()
        seconds = rehearse(sender, [queue], server, take=outcomes.append)
        outcomes += queue.outcomes
        lost = sum(len(each.rows) for each in outcomes if isinstance(each, Lost))
        shown = f"seed {seed}: {seconds:.1f} s, {server.accepted} let in, {server.refused} not"
        assert lost == 0, shown
        assert server.accepted <= 110, shown
        assert server.refused <= 100, shown
        assert seconds <= 4 * server.accepted / rate + 20, shown
