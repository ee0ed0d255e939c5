"""Decides when the next request may start: pure arithmetic, it never sleeps.

Three limits bind:

- the `Budget` of requests and that of tokens a minute;
- the `Window`, how many requests may be in flight;
- the pause after a refusal, which holds everybody, once.

`Pacer` puts them together for all calls of one instance. Times are seconds of one monotonic
clock, which is handed in; amounts of tokens are what the provider's limiter charges.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from langchain_batch_embed.budget import Budget
from langchain_batch_embed.limits import FIRST_REQUESTS
from langchain_batch_embed.quota import Quota, seconds
from langchain_batch_embed.window import Window

__all__ = ["Pacer", "Ticket"]

RECENT = 24
"""Requests over which the share of refused ones is averaged."""

STRAY = 0.3
"""Share of refusals that can be the weather: some gateways refuse a few whatever the rate."""


@dataclass(slots=True, kw_only=True)
class Ticket:
    """A request that was let through.

    Attributes:
        charge: the tokens that the limiter charges for it.
        sent: when it was let through, in seconds of the pacer's clock.
        worked: processor seconds that this process had used by then.
        ended_tokens: tokens of the requests that had ended before it started.
        ended_requests: how many these were.
    """

    charge: int
    sent: float
    worked: float
    ended_tokens: float
    ended_requests: float


class Pacer:
    """Lets requests through within the quota, for all calls of one instance."""

    def __init__(
        self,
        *,
        max_workers: int,
        first_requests: int = FIRST_REQUESTS,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
    ) -> None:
        self.requests = Budget(requests_per_minute)
        self.tokens = Budget(tokens_per_minute)
        self.window = Window(max_workers, first=first_requests)
        self.in_flight = 0
        self._paused_until = -math.inf
        self._refused_at = -math.inf
        self._refusals = 0.0  # share of refused ones among recent requests
        self._started = math.inf  # when the first request was
        self._passed_tokens = 0.0
        self._passed_requests = 0.0
        self._started_tokens = 0.0  # of all requests so far
        self._started_requests = 0.0
        self._ended_tokens = 0.0  # of those that have ended
        self._ended_requests = 0.0

    @property
    def has_started(self) -> bool:
        """Whether any request was ever started."""
        return self._started < math.inf

    def wait(self, charge: int, now: float) -> float:
        """Return the seconds until a request of so many tokens may start.

        0: now; `inf`: not before a request has ended.
        """
        if self.in_flight >= self.window.limit():
            return math.inf
        return max(
            0.0,
            self._paused_until - now,
            self.tokens.wait(charge, now),
            self.requests.wait(1, now),
        )

    def start(self, charge: int, now: float, *, worked: float = 0.0) -> Ticket:
        """Count a request as started; `wait` must have said 0.

        Args:
            charge: the tokens that the limiter charges for it.
            now: the time.
            worked: processor seconds that this process has used.
        """
        self.in_flight += 1
        self._started = min(self._started, now)
        self.tokens.take(charge, now)
        self.requests.take(1, now)
        self._started_tokens += charge
        self._started_requests += 1
        return Ticket(
            charge=charge,
            sent=now,
            worked=worked,
            ended_tokens=self._ended_tokens,
            ended_requests=self._ended_requests,
        )

    def succeeded(
        self,
        ticket: Ticket,
        headers: Mapping[str, str],
        now: float,
        *,
        worked: float = 0.0,
        own: float = 0.0,
    ) -> None:
        """Count a request as answered, and learn from the answer's headers.

        Args:
            ticket: the request.
            headers: of its answer.
            now: the time.
            worked: processor seconds that this process has used.
            own: processor seconds that the request's thread used for it.
        """
        if (duration := now - ticket.sent) > 0:
            self.window.nearness.answered(
                process=(worked - ticket.worked) / duration,
                requests=own / duration * self.in_flight,
                sent=ticket.sent,
                now=now,
            )
        self._end(ticket)
        self._refusals -= self._refusals / RECENT
        self._passed_tokens += ticket.charge
        self._passed_requests += 1
        self.tokens.passed(ticket.charge)
        self.requests.passed(1)
        if self._learn(ticket, headers, now):
            self.window.open()
        self.window.succeeded()

    def refused(
        self,
        ticket: Ticket,
        now: float,
        *,
        after: float,
        headers: Mapping[str, str],
        quota: Quota | None = None,
    ) -> None:
        """Count a request as refused for the rate: everybody waits, once.

        Refusals of requests that were in flight together count as one.
        """
        self._end(ticket)
        self._paused_until = max(self._paused_until, now + after)
        self._refusals += (1 - self._refusals) / RECENT
        # The bucket is as good as empty: what arrived later was refused too, so none is unseen.
        learnt = self._learn(ticket, headers, now, refused=True)
        if learnt:
            self.window.open()
        elif self._refusals < STRAY:
            return
        elif quota is not None and self._believable(quota, now):
            learnt = True
            self._budget(quota.kind).learn(
                limit=quota.limit,
                remaining=quota.limit - quota.used,
                reset=None,
                unseen=0,
                sent=ticket.sent,
                now=now,
            )
        if ticket.sent > self._refused_at:
            self._refused_at = now
            for budget in (self.tokens, self.requests):
                # A quota that is known explains the refusal; the other one is not guessed at.
                if budget.known or not learnt:
                    budget.refused(now)
            if not learnt:
                self.window.overloaded(ticket.sent, now)

    def failed(self, ticket: Ticket, now: float, *, overloaded: bool) -> None:
        """Count a request as ended without an answer, or with an error."""
        self._end(ticket)
        if overloaded:
            self.window.overloaded(ticket.sent, now)

    def largest(self) -> float:
        """Return the most tokens that one request may be charged: the whole bucket."""
        return self.tokens.capacity if not self.tokens.measured else math.inf

    def _believable(self, quota: Quota, now: float) -> bool:
        """Tell whether no more was let through than a quota named in a refusal allows."""
        passed = self._passed_tokens if quota.kind == "tokens" else self._passed_requests
        return passed <= quota.limit * (1 + (now - self._started) / 60)

    def _budget(self, kind: str) -> Budget:
        return self.tokens if kind == "tokens" else self.requests

    def _unseen(self, ticket: Ticket, kind: str) -> float:
        if kind == "tokens":
            return self._started_tokens - ticket.ended_tokens - ticket.charge
        return self._started_requests - ticket.ended_requests - 1

    def _end(self, ticket: Ticket) -> None:
        self.in_flight -= 1
        self._ended_tokens += ticket.charge
        self._ended_requests += 1

    def _learn(
        self, ticket: Ticket, headers: Mapping[str, str], now: float, *, refused: bool = False
    ) -> bool:
        """Take over the rate-limit headers; return whether there were any."""
        learnt = False
        for kind in ("tokens", "requests"):
            limit = _number(headers.get(f"x-ratelimit-limit-{kind}"))
            if limit is None:
                continue
            learnt = True
            self._budget(kind).learn(
                limit=limit,
                remaining=_number(headers.get(f"x-ratelimit-remaining-{kind}")),
                reset=seconds(headers.get(f"x-ratelimit-reset-{kind}", "")),
                unseen=0 if refused else self._unseen(ticket, kind),
                sent=ticket.sent,
                now=now,
            )
        return learnt


def _number(text: str | None) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return None
