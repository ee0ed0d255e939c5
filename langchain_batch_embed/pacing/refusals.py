"""What refusals mean when the server does not announce its quota. Decided once a pause.

A refusal may be chance: some gateways refuse a few requests whatever the rate, and some refuse many
(`Erratic`). It may be about the number of requests in flight. Or it is about a quota; then both
rates are measured, and `WhichQuota` decides which of them is real. The requests that were accepted
before and after the refusal distinguish these cases. Pure: time is handed in.
"""

import math
from collections.abc import Mapping

from langchain_batch_embed.pacing.concurrency import Concurrency
from langchain_batch_embed.pacing.erratic import Erratic
from langchain_batch_embed.pacing.meters import Meters
from langchain_batch_embed.pacing.ticket import Ticket
from langchain_batch_embed.pacing.which_quota import WhichQuota

__all__ = ["Refusals"]

PERIOD = 1.0
"""Quotas are assumed to be counted in fixed periods of at least this many seconds."""

RECENT = 24
"""Requests over which the share of refusals is averaged."""

STRAY = 0.3
"""Refusals may be chance below this share: some gateways refuse a few whatever the rate."""

ROUNDS = 2
"""After this many rounds without a refusal, a refusal of one more request at a time is about the
number in flight."""

NUMBERS = 8
"""Requests over which the usual number in flight is averaged."""

CROWDS = 3
"""Tries with fewer requests in flight before a refusal counts as one for a quota of requests."""

BURST = 3
"""This many refusals in one pause are not chance if they are half of what was sent."""


class Refusals:
    """The rate-limit refusals of one server.

    Args:
        meters: the buckets of both quotas, and the pause after refusals.
        which: which quota the server enforces, as far as known.
        in_flight: the requests in flight, kept up to date by the pacer.
    """

    def __init__(self, meters: Meters, which: WhichQuota, in_flight: Mapping[int, Ticket]) -> None:
        self._tokens = meters.tokens
        self._requests = meters.requests
        self._throttle = meters.throttle
        self._which = which
        self._in_flight = in_flight
        self._erratic = Erratic(PERIOD)
        self._share = 0.0  # of refusals among recent requests
        self._began = -math.inf  # when the current pause began
        self._refused = 0  # requests refused in the current pause
        self._accepted = 0  # requests sent before the pause and accepted since
        self._usual_number = 1.0  # usual number in flight when requests are accepted
        self._crowds = 0  # tries with fewer requests in flight
        self._crowded_until = -math.inf  # requests sent until then were too many at a time
        self._passed_in_a_row = 0  # requests accepted since the last refusal
        self._is_first = True  # no refusal has reduced the number in flight yet
        self._is_measured = False  # the current pause has been evaluated
        self._is_hinted = False  # the last refusal said how long to wait

    @property
    def are_random(self) -> bool:
        """Whether a share of all requests has long been refused, however few are sent."""
        return self._erratic.is_confirmed

    def passed(self, ticket: Ticket, now: float) -> None:
        """Record a request that the limiter accepted."""
        self._share -= self._share / RECENT
        if self._erratic.has_refused:
            self._erratic.passed(ticket, len(self._in_flight))
        self._accepted += ticket.sent <= self._began
        self._passed_in_a_row += ticket.sent > self._began
        self._usual_number += (ticket.number - self._usual_number) / NUMBERS
        if self._tokens.is_measured and self._requests.is_measured:
            self._which.measured_since(self._tokens.rate, self._requests.rate)
        rate = self._which.passed(ticket.charge, sent=ticket.sent, now=now)
        if rate is not None and not self._is_hinted:  # else the server says how long to wait
            self._requests.guess(rate, now)

    def refused(
        self,
        ticket: Ticket,
        now: float,
        *,
        begins: bool,
        is_explained: bool,
        after: float | None,
        concurrency: Concurrency,
        started_tokens: float,
        at_most: int,
    ) -> None:
        """Record a refusal, and conclude what it is about unless a known quota explains it.

        Args:
            ticket: the refused request, no longer in flight.
            now: the time.
            begins: whether the refusal begins a pause.
            is_explained: whether a known quota explains the refusal.
            after: the seconds that the server asks for; `None` if it does not say.
            concurrency: the estimate of how many requests may be in flight.
            started_tokens: tokens of all requests so far.
            at_most: the most requests that can have been in flight together with it, itself
                included.
        """
        is_hinted = after is not None
        self._share += (1 - self._share) / RECENT
        contradicts = not is_explained and self._erratic.refused(
            ticket, now, len(self._in_flight), at_most=at_most, is_told=is_hinted
        )
        if begins:
            self._began, self._refused, self._accepted = now, 0, 0
            self._is_measured = False
        self._refused += 1
        if not is_explained:
            self._is_hinted = is_hinted
            self._which.paused(self._throttle.in_a_row, after)
            if self._erratic.is_random:
                self.forget_rates()
                if not is_hinted:
                    self._throttle.shorten(now)
            elif not contradicts:
                self._conclude(ticket, now, concurrency, started_tokens)
        self._passed_in_a_row = 0

    def forget_rates(self) -> None:
        """Forget measured rates and what they count: the refusals were about something else."""
        self._which.forget()
        for bucket in (self._tokens, self._requests):
            bucket.forget()

    def _conclude(
        self, ticket: Ticket, now: float, concurrency: Concurrency, started_tokens: float
    ) -> None:
        """Decide whether it is chance, the number in flight, one large batch, or a rate."""
        accepted = max(1, len(self._in_flight))
        if (
            self._refused == 1
            and not self._is_hinted
            and self._is_one_too_many(ticket, concurrency)
        ):
            # Fewer at a time passed for a while, so it is a limit of requests in flight.
            self._crowded_until = now
            self._is_measured = True
        if ticket.sent <= self._crowded_until:
            self._settle_crowd(ticket, now, concurrency)
            return
        in_a_row = self._throttle.in_a_row
        is_lone = not self._in_flight and in_a_row > 1
        if self._refused == 1 and not is_lone:
            self._ease(now, concurrency)
        if not self._is_chance() and not self._is_measured:
            self._is_measured = True
            excludes_tokens = self._which.excludes_tokens(started_tokens)
            may_be_crowd = self._crowds < CROWDS and not self._is_hinted
            if excludes_tokens and self._in_flight and may_be_crowd:
                # A quota of requests, or a limit of requests in flight: the next answer decides.
                self._crowds, self._crowded_until = self._crowds + 1, now
                self._settle_crowd(ticket, now, concurrency)
                return
            if excludes_tokens:
                self._which.exclude_tokens(ticket.charge)
            if self._which.refused(
                ticket.charge, sent=ticket.sent, in_a_row=in_a_row, is_lone=is_lone
            ):
                self._throttle.shorten(now)  # parts of the batch may go at once
                self._tokens.correct(now)  # measured while requests seemed to count
                return
            self._measure(ticket, now, concurrency, is_lone=is_lone)
        if self._is_measured and in_a_row == 1:
            concurrency.accepts(accepted)

    def _ease(self, now: float, concurrency: Concurrency) -> None:
        """Slow down a little after a refusal that may be chance, and a lot after the first one."""
        for bucket in (self._tokens, self._requests):
            bucket.ease(now)
        if self._is_first:
            self._is_first = False
            concurrency.hesitate(now)

    def _is_one_too_many(self, ticket: Ticket, concurrency: Concurrency) -> bool:
        """Return whether more than usual were in flight, after a while without refusals."""
        return (
            concurrency.threshold < concurrency.most
            and not (concurrency.is_slow_start or self._which.is_certain)
            and not self._which.is_trying_small
            and ticket.number > self._usual_number + 0.5
            and self._passed_in_a_row >= ROUNDS * self._usual_number
        )

    def _is_chance(self) -> bool:
        """Return whether the refusals of this pause may be chance."""
        return (
            self._share < STRAY
            and self._throttle.in_a_row < 2  # noqa: PLR2004
            and (self._refused < BURST or self._refused < self._accepted)
        )

    def _measure(
        self, ticket: Ticket, now: float, concurrency: Concurrency, *, is_lone: bool
    ) -> None:
        """Measure the rates of both quotas, one of which is used up."""
        if not is_lone:  # else the pause was too short and shows nothing about the rate
            paused = 0.0 if self._is_hinted else self._throttle.paused
            self._tokens.refused(ticket.charge, now, paused=paused)
            self._requests.refused(1, now, paused=paused)
            self._which.measured(self._tokens.rate, self._requests.rate, now)
        concurrency.throttled(now)

    def _settle_crowd(self, ticket: Ticket, now: float, concurrency: Concurrency) -> None:
        """Go on with as many requests in flight as the server accepted, without a pause."""
        in_flight = [other.sent for other in self._in_flight.values()]
        concurrency.refused(ticket.sent, now, in_flight=in_flight)
        self._throttle.cancel()
