"""A limit on a request's size is found, however larger ones fail, and nothing is lost."""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from langchain_batch_embed.sending.rehearsal import Reply, Request
from tests.sending.calls import Rehearsal, lost, make_sender, make_work
from tests.support import seeds

from .refusals import StatusError

COUNT = 2000
TIMEOUT = 120.0
GATEWAY = 30.0
"""Seconds that a gateway waits before it answers with 504."""


def _status(status: int, message: str) -> Callable[[], Exception]:
    return lambda: StatusError(status, message)


_ERRORS: dict[str, Callable[[], Exception]] = {
    "broken connection": ConnectionResetError,
    "400": _status(400, "Bad Request"),
    "413": _status(413, "Request Entity Too Large"),
    "429": _status(429, "Too Many Requests"),
    "500": _status(500, "Internal Server Error"),
    "503": _status(503, "Service Unavailable"),
    "504": _status(504, "Gateway Time-out"),
}

_MOST_SECONDS = {
    "broken connection": 10.0,
    "400": 10.0,
    "413": 10.0,
    "429": 800.0,  # each time it may be a quota of a minute
    "500": 10.0,
    "503": 600.0,  # each time it may be a rate of requests
    "504": 12 * GATEWAY,
    "silence": 8 * TIMEOUT,
}
"""Most seconds for 2,000 texts."""


@dataclass
class Limited:
    """A server that fails each request that is too large for it.

    Attributes:
        kind: how it fails them; with `"silence"` it never answers.
        measure: what is limited, `"items"` or `"tokens"`.
        most: most items or tokens in a request.
        latency: latency of other answers, in seconds.
        dice: source of random numbers.
    """

    kind: str
    measure: str
    most: int
    latency: float
    dice: random.Random
    requests: int = field(default=0, init=False)

    def receive(self, request: Request) -> Reply:
        """Answer a request, or fail it."""
        self.requests += 1
        after = self.latency * math.exp(0.2 * self.dice.gauss(0, 1))
        size = len(request.rows) if self.measure == "items" else request.tokens
        if size <= self.most:
            return Reply(after=after)
        if self.kind == "silence":
            return Reply(after=math.inf)
        return Reply(after=GATEWAY if self.kind == "504" else after, error=_ERRORS[self.kind]())


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(kind, marks=[pytest.mark.slow] if kind in {"429", "503"} else [])
        for kind in _MOST_SECONDS
    ],
)
@pytest.mark.parametrize(
    ("latency", "most", "measure"),
    [
        pytest.param(0.01, 1, "items", marks=pytest.mark.slow),  # 2,000 requests, as at 0.2 s
        (0.01, 3, "items"),
        (0.01, 10, "items"),
        (0.01, 2000, "tokens"),
        (0.2, 1, "items"),
        (0.2, 3, "items"),
        (0.2, 10, "items"),
        (0.2, 2000, "tokens"),
    ],
)
def test_a_limit_that_nobody_names_is_found(
    kind: str, latency: float, most: int, measure: str
) -> None:
    """A call at a server with an unnamed size limit ends in time and loses no text.

    It wastes few requests.
    """
    for seed in seeds(2):
        dice = random.Random(seed)
        tokens = [dice.randrange(60, 200) for _ in range(COUNT)]
        sender = make_sender(
            max_workers=128, is_known=False, first_requests=32, timeout=TIMEOUT, seed=seed
        )
        server = Limited(kind, measure, most, latency, dice)
        rehearsal = Rehearsal(sender, server)
        rehearsal.add(make_work(COUNT, tokens=tokens, max_tokens=300_000))
        seconds = rehearsal.run()
        needed = (COUNT if measure == "items" else sum(tokens)) / most
        shown = f"seed {seed}: {seconds:.0f} s, {server.requests} requests"
        assert lost(rehearsal.outcomes) == {}, shown
        assert seconds <= _MOST_SECONDS[kind], shown
        assert server.requests <= 1.5 * needed + 500, shown
