"""Decides when the next request may start. Pure arithmetic: it never sleeps.

All calls of one object share the state of the server:

- two `TokenBucket`s, for requests and for tokens a minute;
- the `Throttle`, one pause of all workers after a refusal;
- the `Concurrency`, how many requests may be in flight;
- the `Health`: while the server is away, one probe at a time.

`Refusals` decides what a refusal without a known quota means, and `BatchSizes` how the quota shapes
batches.

Times are seconds of one monotonic clock, which is handed in. Amounts of tokens are what the
provider's limiter charges.
"""

import math
import random
from collections.abc import Callable, Mapping

from langchain_batch_embed.limits import FIRST_REQUESTS
from langchain_batch_embed.pacing.batch_sizes import BatchSizes
from langchain_batch_embed.pacing.concurrency import Concurrency
from langchain_batch_embed.pacing.diagnosis import Kind, Quota
from langchain_batch_embed.pacing.erratic import Erratic
from langchain_batch_embed.pacing.health import Health
from langchain_batch_embed.pacing.meters import Meters
from langchain_batch_embed.pacing.overload import Overload
from langchain_batch_embed.pacing.quota import read_headers
from langchain_batch_embed.pacing.refusals import Refusals
from langchain_batch_embed.pacing.spell import LONG_OUTAGE, Spell
from langchain_batch_embed.pacing.throttle import BACKOFF, LOOK_AGAIN, Throttle
from langchain_batch_embed.pacing.ticket import Ticket
from langchain_batch_embed.pacing.token_bucket import LONGEST, TokenBucket
from langchain_batch_embed.pacing.which_quota import LENIENT, WhichQuota

__all__ = ["MAX_OUTAGE", "Pacer"]

MAX_OUTAGE = 600.0
"""Default of the seconds without any answer after which a call gives up."""

OVERTAKEN = 8
"""A batch that decides which quota it is stops giving way after this many other batches."""


class Pacer:
    """Starts requests within the quota, for all calls of one object.

    Args:
        max_workers: the most requests in flight.
        first_requests: how many are sent before anything is known about the server.
        is_known: whether the provider is known to take any number of requests at once.
        requests_per_minute: the user's quota; `None` to learn it.
        tokens_per_minute: the user's quota; `None` to learn it.
        meters: the meters of a quota that is shared with other processes; `None` for new ones.
        max_outage: seconds without any answer after which to give the server up.
        draw: a source of random numbers, uniform in 0 to 1.
    """

    def __init__(
        self,
        *,
        max_workers: int,
        first_requests: int = FIRST_REQUESTS,
        is_known: bool = False,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        meters: Meters | None = None,
        max_outage: float = MAX_OUTAGE,
        draw: Callable[[], float] = random.random,
    ) -> None:
        if meters is None:
            meters = Meters(
                requests=TokenBucket(requests_per_minute),
                tokens=TokenBucket(tokens_per_minute),
                throttle=Throttle(draw),
            )
        self.requests = meters.requests
        self.tokens = meters.tokens
        self.concurrency = Concurrency(max_workers, first=first_requests, is_known=is_known)
        self.health = Health(max_outage, draw)
        self.throttle = meters.throttle
        self.in_flight: dict[int, Ticket] = {}
        self.has_started = False
        self._started_tokens = 0.0  # of all requests so far
        self._started_requests = 0.0
        self._ended_tokens = 0.0  # of those that have ended
        self._ended_requests = 0.0
        self._opened_at = math.inf
        self._last_start = -math.inf
        self._overtakers = 0  # since the last batch that decides which quota it is
        self._which = WhichQuota()
        self.batch_sizes = BatchSizes(meters, self._which)
        self._refusals = Refusals(meters, self._which, self.in_flight)
        self._spell = Spell()
        self._overload = Overload()
        self._erratic = Erratic()  # of refusals for overload
        self._has_throttled = False  # whether any other refusal was about a rate
        self._passed = {"tokens": 0.0, "requests": 0.0}

    def delay(self, charge: int, now: float, *, is_copy: bool = False) -> float:
        """Return the seconds until a request of this many tokens may start.

        0 if it may start now, `inf` if a request has to end first.

        Args:
            charge: tokens that the limiter will charge.
            now: the time.
            is_copy: whether it is the copy of a late request. At a provider that takes any number,
                a copy needs no free place: the late request may hold the only one.
        """
        if self.health.is_down:
            if any(self.health.is_probe(ticket.sent) for ticket in self.in_flight.values()):
                return math.inf
        elif self._is_full_for_copies() if is_copy else self._is_full():
            return math.inf
        pause = self.throttle.delay(now)
        if pause > LOOK_AGAIN / 2 and not self.in_flight:
            pause = self.throttle.delay_of_probe(now)
        quota = self._quota_delay(charge, now)
        return max(pause, self.health.delay(now), quota)

    def start(self, charge: int, now: float, *, work: int = 0) -> Ticket:
        """Record that a request starts; `delay` must have returned 0."""
        ticket = Ticket(
            charge=charge,
            work=work or charge,
            sent=now,
            ended_tokens=self._ended_tokens,
            ended_requests=self._ended_requests,
            number=len(self.in_flight) + 1,
            quiet=now - self._last_start,
        )
        self.has_started = True
        self._last_start = now
        is_turn = self._which.kind != "requests" or self._which.is_decisive(charge)
        self._overtakers = 0 if is_turn else self._overtakers + 1
        self._opened_at = min(self._opened_at, now)
        self.in_flight[id(ticket)] = ticket
        self.tokens.take(charge, now)
        self.requests.take(1, now)
        self._started_tokens += charge
        self._started_requests += 1
        return ticket

    def undo(self, ticket: Ticket) -> None:
        """Forget a request that could not be submitted."""
        self._end(ticket)
        self.tokens.give_back(ticket.charge)
        self.requests.give_back(1)

    def dropped(self, ticket: Ticket) -> None:
        """Forget a request whose answer nobody waits for any more."""
        self._end(ticket)

    def answered(self, ticket: Ticket, headers: Mapping[str, str], now: float) -> bool:
        """Record an answer and learn from it; return whether it ends an outage."""
        in_flight = len(self.in_flight)
        self.passed(ticket, now)
        if self._learn(ticket, headers, now):
            self.concurrency.open()
        self.concurrency.answered(sent=ticket.sent, now=now, work=ticket.work, in_flight=in_flight)
        was_away = self.is_away(now)
        if self.health.is_down:
            for bucket in (self.tokens, self.requests):
                bucket.interrupt(self.health.away_for(now))
        self.health.answered(ticket.sent, now)
        together = min(ticket.number, in_flight)
        number = self._spell.answered(ticket.sent, together=together, was_away=was_away)
        if number is not None:
            self.concurrency.recover(number, now)
        return was_away

    def is_away(self, now: float) -> bool:
        """Return whether the server is away, and not just overloaded for a moment."""
        health = self.health
        return health.is_down and (health.away_for(now) >= LONG_OUTAGE or not health.has_answered)

    def passed(self, ticket: Ticket, now: float) -> None:
        """Record that the limiter accepted a request, whatever the server made of it."""
        self._end(ticket)
        self.throttle.answered(ticket.sent)
        self._refusals.passed(ticket, now)
        if self._erratic.has_refused:
            self._erratic.passed(ticket, len(self.in_flight))
        self._passed["tokens"] += ticket.charge
        self._passed["requests"] += 1
        self.tokens.passed(ticket.charge, sent=ticket.sent, now=now)
        self.requests.passed(1, sent=ticket.sent, now=now)

    def throttled(
        self,
        ticket: Ticket,
        now: float,
        *,
        after: float | None,
        headers: Mapping[str, str],
        quota: Quota | None = None,
    ) -> bool:
        """Record a rate-limit refusal: all workers pause, once.

        Args:
            ticket: the request.
            now: the time.
            after: the seconds that the server asks for; `None` if it does not say.
            headers: the headers of the refusal.
            quota: the quota that the text of the refusal names.

        Returns:
            Whether the refusal begins a pause of its own. Refusals of requests that were in flight
            together count as one.
        """
        self._end(ticket)
        self._has_throttled |= not ticket.is_refused
        begins = self.throttle.refused(ticket.sent, now, after, charge=ticket.charge)
        told = self._learn(ticket, headers, now, refused=True)
        if told:
            self.concurrency.open()
        if quota is not None and not told and self._is_believable(quota, now):
            told = True
            self._bucket(quota.kind).name(quota.limit, now, holds=_holds(quota, ticket, after))
        is_explained = told or self.tokens.is_known or self.requests.is_known
        self._refusals.refused(
            ticket,
            now,
            begins=begins,
            is_explained=is_explained,
            after=after,
            concurrency=self.concurrency,
            started_tokens=self._started_tokens,
            at_most=self._together(ticket),
        )
        for bucket in (self.tokens, self.requests):
            bucket.limit_debt(now)
        if not is_explained:
            return begins
        if not told and after is None:
            # Without a hint it is not about the known quota: a limit of requests in flight.
            in_flight = [other.sent for other in self.in_flight.values()]
            self.concurrency.refused(ticket.sent, now, in_flight=in_flight)
            self.throttle.shorten(now)
        elif begins:
            # The known quota explains the refusal, so the other one is not measured.
            for bucket, amount in ((self.tokens, ticket.charge), (self.requests, 1)):
                if bucket.is_known:
                    bucket.refused(amount, now)
        return begins

    def failed(
        self,
        ticket: Ticket,
        now: float,
        *,
        timed_out: bool = False,
        overloaded: bool = False,
        reached: bool = False,
    ) -> None:
        """Record a request that the server could not answer.

        Args:
            ticket: the request.
            now: the time.
            timed_out: whether no complete answer came in time.
            overloaded: whether the server said that it is overloaded.
            reached: whether there was a connection before the failure.
        """
        self._end(ticket)
        self._spell.failed(self.concurrency.estimate, now)
        is_probe = self.health.is_down and self.health.is_probe(ticket.sent)
        self.health.was_reached |= reached
        self.health.failed(ticket.sent, now)
        if timed_out and is_probe:
            return  # it was alone, so it shows nothing about the number in flight
        if timed_out:
            self._spell.timed_out()
            self.concurrency.timed_out(ticket.sent, now)
        elif overloaded:
            in_flight = [other.sent for other in self.in_flight.values()]
            self._spell.refused(self._together(ticket))
            self.concurrency.refused(ticket.sent, now, in_flight=in_flight)

    def overloaded(self, ticket: Ticket, now: float, *, after: float | None, refusals: int) -> Kind:
        """Record a refusal for overload, such as a 503; return what it means.

        - `Kind.FAILED`: it is chance, as one of several backends is broken. If that is new, forget
          what earlier ones have taught.
        - `Kind.THROTTLED`: it is a rate limit, as nginx's 503 is.
        - `Kind.OVERLOADED`: too many requests are in flight.

        Args:
            ticket: the request.
            now: the time.
            after: the seconds that the server asks for; `None` if it does not say.
            refusals: refusals of the same batch that were taken for a rate limit before.
        """
        ticket.is_refused = True
        others = [other for other in self.in_flight.values() if other is not ticket]
        was_random = self._erratic.is_random
        contradicts = self._erratic.refused(
            ticket, now, len(others), at_most=self._together(ticket), is_told=after is not None
        )
        if self._erratic.is_random and not was_random:
            self.concurrency.restore(now)
            if not self._has_throttled:
                self.throttle.cancel()
                self.forget_rates()
        if self._erratic.is_random or contradicts:
            return Kind.FAILED
        is_alone = all(other.sent > ticket.sent for other in others)
        if is_alone and self.health.has_answered and ticket.sent >= self.health.answered_at:
            self._overload.refused(self._passed["requests"])
        is_rate = self._overload.is_rate(pauses=self.throttle.in_a_row, refusals=refusals)
        return Kind.THROTTLED if is_rate else Kind.OVERLOADED

    @property
    def refuses_at_random(self) -> bool:
        """Whether the server has long refused a share of all requests, however few are sent."""
        return self._erratic.is_confirmed or self._refusals.are_random

    @property
    def is_overload_random(self) -> bool:
        """Whether refusals for overload are taken for chance."""
        return self._erratic.is_random

    def forget_overload(self, now: float) -> None:
        """Undo what refusals for overload have taught: they were about the size of a batch."""
        self.concurrency.restore(now)
        self.throttle.cancel()
        self.forget_rates()

    def forget_rates(self) -> None:
        """Forget measured rates and what they count: the refusals were about something else."""
        self._refusals.forget_rates()

    def measure_anew(self, now: float) -> None:
        """Measure rates from now on: the last refusals were about the size of a batch."""
        for bucket in (self.tokens, self.requests):
            bucket.measure_anew(now)

    def gives_up(self, now: float, *, unreachable: bool) -> bool:
        """Return whether the server has been away, or has refused everything, for too long."""
        throttled_for = now - self.throttle.since
        return throttled_for >= self.health.patience or self.health.gives_up(
            now, unreachable=unreachable
        )

    @property
    def let_through(self) -> float:
        """The tokens of all requests that the limiter has accepted."""
        return self._passed["tokens"]

    def usual_charge(self) -> float:
        """Return the tokens that a request was charged on average."""
        return self._started_tokens / max(1.0, self._started_requests)

    def has_room(self) -> bool:
        """Return whether a copy does no harm: no quota binds, and no long queue has formed."""
        return not (
            self.has_line() or self.health.is_down or self.health.failures or self.throttle.in_a_row
        )

    def has_line(self) -> bool:
        """Return whether requests queue at the server, so that a copy would queue too."""
        concurrency = self.concurrency
        is_long = 2 * len(self.in_flight) > concurrency.limit()
        return concurrency.is_saturated and is_long and not concurrency.is_known

    def _quota_delay(self, charge: int, now: float) -> float:
        tokens, requests = self.tokens.delay(charge, now), self.requests.delay(1, now)
        if not (self.tokens.is_measured and self.requests.is_measured):
            return max(tokens, requests)
        # Of two measured quotas only one is real.
        quota = requests if self._which.kind == "requests" else tokens
        left = self._last_start + LENIENT / (self.requests.rate or 1.0) - now
        lenient = left if left > 1e-9 else 0.0  # noqa: PLR2004  # rounding
        if self._which.kind is None:
            quota = min(tokens, max(requests, lenient))
        elif self._which.is_decisive(charge) and self._overtakers < OVERTAKEN:
            quota = max(quota, lenient)
        # After waiting this long, send the request anyway.
        longest = LONGEST if self.in_flight or not self.throttle.in_a_row else BACKOFF.longest
        return min(quota, max(0.0, self._last_start + longest - now))

    def _is_full(self) -> bool:
        concurrency, in_flight = self.concurrency, self.in_flight
        if concurrency.estimate >= concurrency.threshold:
            return len(in_flight) >= concurrency.limit()
        # Requests sent before the refusal have been accepted already.
        recent = sum(ticket.sent >= concurrency.began for ticket in in_flight.values())
        return recent >= concurrency.limit() or len(in_flight) >= concurrency.threshold

    def _is_full_for_copies(self) -> bool:
        if self.concurrency.is_known:
            return len(self.in_flight) >= self.concurrency.most
        return self._is_full()

    def _is_believable(self, quota: Quota, now: float) -> bool:
        """Return whether no more was accepted so far than the quota named in a refusal allows."""
        return self._passed[quota.kind] <= quota.limit * (1 + (now - self._opened_at) / 60)

    def amounts_in_flight(self) -> Mapping[str, float]:
        """Return what the requests in flight are charged, by kind of quota."""
        tokens = sum(ticket.charge for ticket in self.in_flight.values())
        return {"tokens": tokens, "requests": len(self.in_flight)}

    def _bucket(self, kind: str) -> TokenBucket:
        return self.tokens if kind == "tokens" else self.requests

    def _together(self, ticket: Ticket) -> int:
        """Return the most requests that can have been in flight together with one, it included."""
        return int(self._started_requests - ticket.ended_requests)

    def _unseen(self, ticket: Ticket, kind: str) -> float:
        if kind == "tokens":
            return self._started_tokens - ticket.ended_tokens - ticket.charge
        return self._started_requests - ticket.ended_requests - 1

    def _end(self, ticket: Ticket) -> None:
        if self.in_flight.pop(id(ticket), None) is not None:
            self._ended_tokens += ticket.charge
            self._ended_requests += 1

    def _learn(
        self, ticket: Ticket, headers: Mapping[str, str], now: float, *, refused: bool = False
    ) -> bool:
        """Learn from the rate-limit headers; return whether there were any."""
        if not headers:
            return False
        told = read_headers(headers)
        for quota in told:
            self._bucket(quota.kind).learn(
                limit=quota.limit,
                remaining=quota.remaining,
                reset=quota.reset,
                unseen=0 if refused else self._unseen(ticket, quota.kind),
                sent=ticket.sent,
                now=now,
            )
        return bool(told)


def _holds(quota: Quota, ticket: Ticket, after: float | None) -> float:
    """Return the least size of the bucket behind a refusal; `inf` if the refusal does not say.

    The bucket holds what is used. If it refills continuously, it also holds the request once the
    delay is over.
    """
    if quota.used is None or after is None:
        return math.inf
    requested = ticket.charge if quota.kind == "tokens" else 1
    return max(quota.used, quota.used + requested - after * quota.limit / 60)
