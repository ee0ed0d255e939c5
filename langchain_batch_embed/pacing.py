"""Decides when the next request may start: pure arithmetic, it never sleeps.

Three limits bind, each with its own small class:

- `Budget`: requests or tokens a minute, refilling continuously as the providers' limiters do.
  Its rate is told, or learnt from the headers of the answers. Where no header comes, the rate
  is measured: between two refusals the bucket went from empty to empty, so what was let
  through in that time is the rate.
- `Window`: how many requests may be in flight. It starts small, multiplies with the answers,
  is halved when the server is overloaded, and grows again by one a round.
- the pause after a refusal, which holds everybody, once.

`Pacer` puts them together for all calls of one instance. Times are seconds of one monotonic
clock, which is handed in; amounts of tokens are what the provider's limiter charges.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median

from langchain_batch_embed.limits import FIRST_REQUESTS
from langchain_batch_embed.quota import Quota, seconds

__all__ = ["Budget", "Pacer", "Ticket", "Window"]

OPENING = 3
"""As long as no answer has told the quota, each one opens so many more places: four times as many
after each round trip, which is 16, 64, 256."""

BUSY = 0.7
"""Processor seconds a second from which on this process is what everything waits for: one of its
threads at a time runs Python, so it does not get far beyond 1. Measured were 0.8 to 1.0 next door,
and up to 0.6 far away, where many first requests are sent at once."""

IDLE = 0.4
"""Share below which answers are waited for, so that the server is not near."""

FIRST_ANSWERS = 8
"""Answers by which it is found out whether the server is near, and over which shares are averaged.

Later on the making of lists keeps this process as busy, however far the server is."""

NEAR_USEFUL = 3
"""Requests in flight at a server that answers at once: one is sent, one read, one at the server."""

PROBE = 0.002
"""The k-th answer in a row raises a measured rate by k times this share.

So after 10 answers it is 10 % higher, after 20 half as much again: it creeps past the rate at
which it was refused, and soon leaves behind a rate that was measured too low.
"""

CAUTION = 0.9
"""A measured rate is used at this share, because a refused request is charged too."""

EASE = 0.03
"""A refusal under a known rate lowers the share of it that is used by so much.

Requests do not arrive as evenly as they are sent, so a quota of 60 a minute that is applied as
one a second refuses some of those that are sent each second exactly.
"""

RECOVER = 0.004
"""An answer raises that share again by so much."""

LEAST_SHARE = 0.8
"""It never falls below this."""

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


class Budget:
    """A bucket that refills continuously; `None` for a rate means no limit is known.

    Attributes:
        rate: amount refilled a second.
        capacity: amount that it can hold.
        level: amount in it; less than nothing after a request larger than the bucket.
        told: the rate was set by the user, and is never raised.
        measured: the rate was neither told nor read in a header but measured.
    """

    def __init__(self, per_minute: float | None = None) -> None:
        self.told = per_minute is not None
        self.measured = False
        self.rate = None if per_minute is None else per_minute / 60
        self.capacity = math.inf if per_minute is None else float(per_minute)
        self.level = self.capacity
        self._heard = False  # whether an answer ever said what remains
        self._share = 1.0  # of a known rate that is used
        self._updated = 0.0
        self._refused_at: float | None = None
        self._passed = 0.0  # amount let through since then
        self._in_a_row = 0  # requests let through since then

    @property
    def known(self) -> bool:
        """Whether the rate was told or read, and not measured."""
        return self.rate is not None and not self.measured

    def wait(self, amount: float, now: float) -> float:
        """Return the seconds until so much can be taken; 0: at once.

        An amount above the capacity waits for a full bucket.
        """
        self._refill(now)
        missing = min(amount, self.capacity) - self.level
        # A hair's breadth: what is missing by rounding alone would be waited for for ever.
        if self.rate is None or missing <= 1e-9 * amount:
            return 0.0
        return missing / (self.rate * self._share)

    def take(self, amount: float, now: float) -> None:
        """Take so much out, also where that leaves less than nothing."""
        self._refill(now)
        self.level -= amount

    def passed(self, amount: float) -> None:
        """Note that the server let so much through, for measuring."""
        self._passed += amount
        self._in_a_row += 1
        self._share = min(1.0, self._share + RECOVER)
        if self.measured and self.rate is not None:
            self.rate *= 1 + PROBE * self._in_a_row
            self.capacity = self.rate

    def learn(
        self,
        *,
        limit: float,
        remaining: float | None,
        reset: float | None,
        unseen: float,
        sent: float,
        now: float,
    ) -> None:
        """Take over what an answer said.

        Args:
            limit: the amount a minute.
            remaining: what the bucket held when the server looked, if it was said.
            reset: seconds until the bucket is full again, if it was said.
            unseen: what was taken here by others that may have arrived after the server looked:
                all that had not ended when the request was sent.
            sent: when the request was sent.
            now: the time.
        """
        if limit <= 0:
            return
        if self.told and self.rate is not None:
            limit = min(limit, self.rate * 60)
        first, self._heard = not self._heard, True
        self.rate, self.measured = limit / 60, False
        if remaining is None:
            self.capacity = limit
            self._refill(now)
            return
        if reset is not None:
            # Rounded in the header: a bucket is never smaller than what is in it.
            self.capacity = min(limit, max(remaining + reset * self.rate, remaining))
        elif first:
            self.capacity = limit
        self._refill(now)
        # The server looked somewhen between sending and now, so it has refilled for at most
        # that long; and requests overtake one another, so `unseen` may or may not be in it.
        lowest = remaining - unseen
        highest = remaining + (now - sent) * self.rate
        self.level = lowest if first else min(max(self.level, lowest), highest)
        self.level = min(self.level, self.capacity)

    def refused(self, now: float) -> None:
        """Note a refusal: the bucket is empty, and its rate is measured if it is not known."""
        self._refill(now)
        if self.known:
            self._share = max(LEAST_SHARE, self._share - EASE)
        elif self._passed and self._refused_at is not None and now > self._refused_at:
            rate = CAUTION * self._passed / (now - self._refused_at)
            # One measurement may be off, so it may not do more than halve the rate.
            self.rate = rate if self.rate is None else max(rate, self.rate / 2)
            self.capacity, self.measured = self.rate, True
        if self.measured or (self.told and not self._heard):
            # A told quota says nothing of how much of it can be saved up.
            self.level = min(self.level, 0.0)
        if self._passed or self._refused_at is None:
            self._refused_at, self._passed, self._in_a_row = now, 0.0, 0

    def _refill(self, now: float) -> None:
        if self.rate is not None:
            elapsed = max(0.0, now - self._updated)
            self.level = min(self.capacity, self.level + elapsed * self.rate * self._share)
        self._updated = max(self._updated, now)


class Window:
    """How many requests may be in flight, between 1 and `most`.

    Attributes:
        most: the ceiling.
        size: how many the server bears, as far as is known.
        useful: how many it takes to keep this process busy. Where answers come at once, those
            beyond only wait for it, so that fewer, larger requests are better.
    """

    def __init__(self, most: int, *, first: int = FIRST_REQUESTS) -> None:
        self.most = most
        self.size = float(min(first, most))
        self.useful = most
        self._opens = True
        self._cut = -math.inf  # when it was halved last
        self._first_shares: list[float] = []  # of a processor core that we used
        self._busy = 0.0  # the same, averaged over the last answers

    def limit(self) -> int:
        """Return how many may be in flight now."""
        return int(min(self.size, self.useful))

    @property
    def is_near(self) -> bool:
        """Whether the server answers at once."""
        return self.useful < self.most

    def opening(self) -> int:
        """Return how many requests are sent to find out about the quota; 0: it is known."""
        return int(self.size) if self._opens else 0

    def open(self) -> None:
        """Go to the full size at once: the quota is known, so there is nothing to find out."""
        if self._opens:
            self.size, self._opens = float(self.most), False

    def succeeded(self) -> None:
        """Grow: by `OPENING` an answer at first, later by one for each window of answers."""
        self.size = min(self.most, self.size + (OPENING if self._opens else 1 / self.size))

    def overloaded(self, sent: float, now: float) -> None:
        """Halve, once for all requests that were in flight together."""
        if sent > self._cut:
            self.size, self._opens, self._cut = max(1.0, self.size / 2), False, now

    def worked(self, share: float) -> None:
        """Note the share of a processor core that we used while an answered request was in flight.

        From the first answers it is told whether the server is near: then we were busy with
        sending and reading all the time, and never waited.
        """
        if len(self._first_shares) < FIRST_ANSWERS:
            self._first_shares.append(share)
            self._busy = median(self._first_shares)  # one answer may say little of the others
            if len(self._first_shares) == FIRST_ANSWERS and self._busy > BUSY:
                self.useful = min(NEAR_USEFUL, self.most)
            return
        self._busy += (share - self._busy) / FIRST_ANSWERS
        if self._busy < IDLE:
            self.useful = self.most


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
        self._started: float | None = None
        self._passed_tokens = 0.0
        self._passed_requests = 0.0
        self._started_tokens = 0.0  # of all requests so far
        self._started_requests = 0.0
        self._ended_tokens = 0.0  # of those that have ended
        self._ended_requests = 0.0

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
        self._started = now if self._started is None else self._started
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
        self, ticket: Ticket, headers: Mapping[str, str], now: float, *, worked: float = 0.0
    ) -> None:
        """Count a request as answered, and learn from the answer's headers.

        Args:
            ticket: the request.
            headers: of its answer.
            now: the time.
            worked: processor seconds that this process has used.
        """
        if now > ticket.sent:
            self.window.worked((worked - ticket.worked) / (now - ticket.sent))
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
        return passed <= quota.limit * (1 + (now - (self._started or now)) / 60)

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
