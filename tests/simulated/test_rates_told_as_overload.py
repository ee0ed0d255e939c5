"""A proxy such as nginx enforces a rate by 503: no text is lost, and few requests are refused."""

import itertools
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
        breaks_at: statuses for texts that break the server, by row.
    """

    def __init__(self, rate: float, burst: int, status: int) -> None:
        self._rate, self._burst, self._status = rate, burst, status
        self._excess, self._last = -1.0, 0.0
        self.accepted = self.refused = 0
        self.breaks_at: dict[int, int] = {}

    def receive(self, request: Request) -> Reply:
        """Answer a request; calls must be in order of `sent`."""
        elapsed = request.sent - self._last
        excess = max(0.0, self._excess - elapsed * self._rate + 1)
        if excess > self._burst:
            self.refused += 1
            return Reply(after=0.005, error=StatusError(self._status, "<html><hr>nginx</html>"))
        self._excess, self._last = excess, request.sent
        self.accepted += 1
        for row in request.rows:
            if status := self.breaks_at.get(int(row)):
                return Reply(after=LATENCY, error=StatusError(status, "broken"))
        return Reply(after=LATENCY)


def _send_nothing(texts: list[str], *, timeout: float) -> Answer:
    raise NotImplementedError


def _keep_nothing(rows: Rows, answer: Answer) -> None:
    """Accept the answers, which do not occur in a rehearsal."""


def _rehearse(
    server: LeakyBucket, *, count: int, workers: int, seed: int
) -> tuple[float, set[int]]:
    """Send texts to a server; return the seconds and the rows without an answer."""
    draw = random.Random(seed).random
    work = Work(
        rows=np.arange(count),
        sizes=Sizes(
            tokens=np.full(count, 64), charges=np.full(count, 76), octets=np.full(count, 300)
        ),
        max_items=2048,
        max_tokens=300_000,
        texts=["text"] * count,
        sends=(_send_nothing,),  # type: ignore[arg-type]
        keep=_keep_nothing,
    )
    pacer = Pacer(max_workers=workers, draw=draw)
    sender = Sender([Deployment(pacer, max_retries=8, timeout=120, draw=draw)], hedge=True)
    queue = sender.queue(work, Tally(), Hedges())
    sender.add(queue, 0.0)
    outcomes = list[Outcome]()
    seconds = rehearse(sender, [queue], server, take=outcomes.append)
    outcomes += queue.outcomes
    lost = (each.rows for each in outcomes if isinstance(each, Lost))
    return seconds, {int(row) for rows in lost for row in rows}


@pytest.mark.parametrize("status", [429, 503, 529])
@pytest.mark.parametrize(
    ("rate", "burst"),
    [(10, 5), (10, 0), (2, 0), (1, 0), (0.5, 3), (0.2, 0), (0.2, 5), (0.1, 0), (1, 20)],
)
@pytest.mark.parametrize("workers", [1, 4, 16, 128])
def test_a_rate_of_requests_is_found_out(
    rate: float, burst: int, workers: int, status: int
) -> None:
    """At a limited rate 5,000 texts take at most 80 accepted requests, none lost."""
    for seed in seeds(7):
        server = LeakyBucket(rate, burst, status)
        seconds, lost = _rehearse(server, count=COUNT, workers=workers, seed=seed)
        shown = f"seed {seed}: {seconds:.1f} s, {server.accepted} let in, {server.refused} not"
        assert not lost, shown
        assert server.accepted <= 80, shown
        assert server.refused <= 100, shown
        assert seconds <= 4 * server.accepted / rate + 20, shown


@pytest.mark.parametrize(
    ("rate", "burst", "poison"),
    [
        *itertools.product([2, 1, 0.2], [0], [500, 503]),
        *itertools.product([2, 0.1], [5], [500, 503]),
        (0.4, 20, 500),
    ],
)
@pytest.mark.parametrize("workers", [4, 32])
def test_texts_that_break_the_server_are_found_at_a_limited_rate(
    rate: float, burst: int, workers: int, poison: int
) -> None:
    """At a rate told as 503, exactly the texts fail that break the server, even with a 503.

    If they break it with a 500, it refuses at most twice as many requests as it accepts.
    """
    for seed in seeds(4):
        server = LeakyBucket(rate, burst, 503)
        server.breaks_at = dict.fromkeys(random.Random(seed).sample(range(300), 5), poison)
        _, lost = _rehearse(server, count=300, workers=workers, seed=seed)
        shown = f"seed {seed}: {server.accepted} let in, {server.refused} not"
        assert lost == set(server.breaks_at), shown
        assert poison == 503 or server.refused <= 2 * server.accepted, shown
