"""Estimates how many requests and seconds some work will take by a rehearsal in simulated time.

The real `Sender` sends to a simulated server, a few lines of arithmetic. Hours of simulated time
take milliseconds.
"""

import heapq
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from langchain_batch_embed.limits import AZURE, FIRST_REQUESTS, OPENAI
from langchain_batch_embed.pacing.hedging import Hedges
from langchain_batch_embed.pacing.pacer import Pacer
from langchain_batch_embed.pacing.token_bucket import TokenBucket
from langchain_batch_embed.report import Tally
from langchain_batch_embed.sending.deployment import Deployment
from langchain_batch_embed.sending.rehearsal import Reply, Request, rehearse
from langchain_batch_embed.sending.sender import Sender
from langchain_batch_embed.sending.work import Work

__all__ = [
    "NETWORK_SECONDS",
    "OPENAIS_MODELS",
    "REQUEST_SECONDS",
    "RUNS",
    "SPREAD",
    "TOKEN_SECONDS",
    "AccountQuota",
    "QuotaServer",
    "known_quota",
    "rehearse_quota",
    "set_by_user",
]

RUNS = 15
"""Number of rehearsals with different random numbers; the median counts. An answer takes 0.1 s to
several seconds, so single rehearsals differ by a fifth where no quota binds."""

OPENAIS_MODELS = frozenset({OPENAI.provider, AZURE.provider})
"""Providers whose latency and tokenizer are known well enough to predict seconds."""

COLD_SECONDS = 0.3
"""Extra seconds that a request takes on a new connection."""

NETWORK_SECONDS = (0.04, 0.15)
"""Least and most seconds that a request is on its way. This and the next three are fitted to public
recordings of OpenAI's endpoint. The few requests that stall for many times as long are left out, as
they delay no others."""

REQUEST_SECONDS = 0.08
"""The server's seconds for a request."""

TOKEN_SECONDS = 7e-6
"""Its seconds for each token."""

SPREAD = 0.85
"""The standard deviation of the logarithm of the server's seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountQuota:
    """The quota of an account.

    Attributes:
        requests_per_minute: requests; `None` if there is no limit.
        tokens_per_minute: tokens as the limiter charges them, a quarter of the UTF-8 bytes; `None`
            if there is no limit.
    """

    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None

    def __str__(self) -> str:
        """Return the quota in words."""
        limits = {"requests": self.requests_per_minute, "tokens": self.tokens_per_minute}
        parts = [f"{limit:,.0f} {kind}" for kind, limit in limits.items() if limit is not None]
        return f"{' and '.join(parts)} a minute" if parts else "no quota"


def rehearse_quota(
    work: Work,
    *,
    quota: AccountQuota,
    max_workers: int,
    first_requests: int = FIRST_REQUESTS,
    user_quota: AccountQuota | None = None,
    runs: int = RUNS,
) -> tuple[int, float]:
    """Send work in simulated time; return the number of requests and the seconds.

    Both come from the rehearsal with the median duration. The same arguments give the same result.

    Args:
        work: what to send.
        quota: the server's quota, which its headers announce.
        max_workers: maximum number of requests in flight.
        first_requests: requests sent before the quota is known.
        user_quota: the quota that the user's options set.
        runs: number of rehearsals, each with different random numbers.
    """
    user_quota = user_quota or AccountQuota()
    outcomes = []
    for seed in range(runs):
        draw = random.Random(seed).random  # noqa: S311  # random, not secret
        pacer = Pacer(
            max_workers=max_workers,
            first_requests=first_requests,
            is_known=True,
            requests_per_minute=user_quota.requests_per_minute,
            tokens_per_minute=user_quota.tokens_per_minute,
            draw=draw,
        )
        deployment = Deployment(
            pacer, max_retries=8, timeout=math.inf, is_rehearsal=True, draw=draw
        )
        sender = Sender([deployment])
        queue = sender.queue(work, Tally(), Hedges())
        sender.add(queue, 0.0)
        server = QuotaServer(quota, seed)
        seconds = rehearse(sender, [queue], server)
        outcomes.append((seconds, server.answered))
    seconds, requests = sorted(outcomes)[runs // 2]
    return requests, seconds


class QuotaError(Exception):
    """A 429 from the simulated server."""

    status_code = 429

    def __init__(self, message: str, headers: Mapping[str, str]) -> None:
        super().__init__(message)
        self.headers = headers
        self.response = self


class QuotaServer:
    """Simulates OpenAI's server: a quota, which its headers announce, and a latency.

    Args:
        quota: the account's quota.
        seed: seeds the random latencies.

    Attributes:
        answered: the number of requests answered so far.
    """

    def __init__(self, quota: AccountQuota, seed: int) -> None:
        self._requests = TokenBucket(quota.requests_per_minute)
        self._tokens = TokenBucket(quota.tokens_per_minute)
        self._dice = np.random.default_rng(seed)
        self._free: list[float] = []  # when each connection is free again
        self.answered = 0

    def receive(self, request: Request) -> Reply:
        """Answer a request, or refuse it."""
        now, charge = request.sent, request.charge
        after = float(self._dice.uniform(*NETWORK_SECONDS))
        if self._free and self._free[0] <= now:
            heapq.heappop(self._free)
        else:  # all connections are busy
            after += COLD_SECONDS
        wait = max(self._tokens.delay(charge, now), self._requests.delay(1, now))
        error: Exception | None = None
        if charge > self._tokens.capacity:
            limit = self._tokens.capacity
            error = QuotaError(
                f"Request too large on tokens per min (TPM): Limit {limit:.0f}, "
                f"Requested {charge}.",
                self._headers(),
            )
        elif wait:
            error = QuotaError("", {**self._headers(), "retry-after": f"{wait:.3f}"})
        else:
            self._tokens.take(charge, now)
            self._requests.take(1, now)
            usual = REQUEST_SECONDS + TOKEN_SECONDS * charge
            after += usual * float(self._dice.lognormal(0, SPREAD))
            self.answered += 1
        heapq.heappush(self._free, now + after)
        return Reply(after=after, headers=self._headers(), error=error)

    def _headers(self) -> dict[str, str]:
        headers = {}
        for kind, bucket in (("requests", self._requests), ("tokens", self._tokens)):
            if bucket.rate is not None:
                reset = (bucket.capacity - bucket.level) / bucket.rate
                headers[f"x-ratelimit-limit-{kind}"] = str(bucket.capacity)
                headers[f"x-ratelimit-remaining-{kind}"] = str(max(0.0, bucket.level))
                headers[f"x-ratelimit-reset-{kind}"] = f"{reset:.3f}s"
        return headers


def known_quota(pacers: Sequence[Pacer]) -> AccountQuota:
    """Return the total quota of all servers, set by the user or announced by earlier answers.

    A limit is unknown (`None`) until it is known for every server.
    """
    return AccountQuota(
        requests_per_minute=_sum([_known_rate(pacer.requests) for pacer in pacers]),
        tokens_per_minute=_sum([_known_rate(pacer.tokens) for pacer in pacers]),
    )


def set_by_user(pacers: Sequence[Pacer]) -> AccountQuota:
    """Return the total quota of all servers that the user set."""
    return AccountQuota(
        requests_per_minute=_sum([_set_rate(pacer.requests) for pacer in pacers]),
        tokens_per_minute=_sum([_set_rate(pacer.tokens) for pacer in pacers]),
    )


def _known_rate(bucket: TokenBucket) -> float | None:
    return bucket.rate if bucket.is_known else None


def _set_rate(bucket: TokenBucket) -> float | None:
    return bucket.rate if bucket.is_set else None


def _sum(rates: Sequence[float | None]) -> float | None:
    """Return the sum of per-second rates, per minute; `None` if any of them is unknown."""
    known = [rate for rate in rates if rate is not None]
    return 60 * sum(known) if len(known) == len(rates) else None
