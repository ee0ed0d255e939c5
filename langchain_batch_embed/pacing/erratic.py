"""Decides whether a server refuses at random. Pure arithmetic.

Some gateways refuse a share of all requests whatever the rate, because one of their backends is
broken or has used up its quota. A client that slows down is refused just as often, and ends at one
request every 30 s.

What passes shows that no quota is the cause. At a refusal the quota would be used up, so what
passes from then on is what it gains in that time: a lower bound of its rate. If a later request is
refused although the quota has gained several times as much since the one before, that contradicts a
quota. It contradicts a limit on requests in flight as well if far more have been answered together.
"""

import math
from collections import deque
from dataclasses import dataclass

from langchain_batch_embed.pacing.ticket import Ticket

__all__ = ["Erratic"]

CONTRADICTIONS = 2
"""Contradictions before the server is taken to refuse at random. Each wrong conclusion doubles the
number for the next one."""

TOLD = 4
"""The same if the server says how long to wait, as it then probably has a quota."""

WITHIN_PERIOD = 0.5
"""Weight of a contradiction within the period of a quota, which may only be used up until its end.
"""

AMPLE = 3.0
"""A refusal contradicts a quota that had gained this many times the refused request."""

ROOM = 4
"""It contradicts a limit on requests in flight if this many times as many were in flight while
another one passed. Many of these may still have been on their way."""

FORGOTTEN = 48
"""Contradictions are forgotten after this many requests without another one, as the quota may just
have changed, or be shared with others."""

REMEMBERED = 8
"""Rates are measured since each of this many latest refusals."""

MOST_REFUSED = 2 / 3
"""If a larger share than this is refused, the server is not taken to refuse at random: a wrong
conclusion would send it many requests in vain, and a right one gains little."""

REQUESTS = 32
"""Requests over which the share of refusals is averaged once they seem to be random."""

IN_FLIGHT = 4
"""Requests added to that number for each request in flight, as refusals come back in one burst,
before the answers."""

TRIAL = 10
"""Requests, beyond those in flight, that show whether the conclusion was right."""

LET_IN = 3
"""If fewer of them than this pass, there is a quota. At random half of them would."""

CONFIRMED = 64
"""After this many further requests the conclusion is certain enough to tell the user."""


@dataclass(slots=True)
class _Refusal:
    """A refusal, and what has passed since it came.

    Attributes:
        ticket: the refused request.
        came: when the refusal came.
        requests: requests sent since then that have passed.
        tokens: tokens in these.
        last: when the last of these was sent.
        requests_rate: lower bound of the requests a second of a quota that was used up then.
        tokens_rate: lower bound of its tokens a second.
    """

    ticket: Ticket
    came: float
    requests: int = 0
    tokens: int = 0
    last: float = -math.inf
    requests_rate: float = 0.0
    tokens_rate: float = 0.0

    def passed(self, ticket: Ticket, period: float) -> None:
        """Record a request that has passed, and raise the lower bounds.

        They are measured over at least `period` seconds.
        """
        self.requests += 1
        self.tokens += ticket.charge
        self.last = max(self.last, ticket.sent)  # answers do not come in the order of sending
        seconds = max(period, self.last - self.ticket.sent)
        # At the refusal, the quota may still have held almost as much as the refused request.
        self.requests_rate = max(self.requests_rate, (self.requests - 1) / seconds)
        self.tokens_rate = max(self.tokens_rate, (self.tokens - self.ticket.charge) / seconds)


class Erratic:
    """Compares refusals with what passed before.

    Args:
        period: seconds of a fixed period in which a quota may be counted. At the end of one and the
            beginning of the next it lets through twice as much at once.

    Attributes:
        is_random: whether the server refuses at random, so that waiting does not help.
        has_refused: whether it ever refused a request; before that, `passed` need not be called.
    """

    def __init__(self, period: float = 0.0) -> None:
        self._period = period
        self.is_random = self.has_refused = False
        self._patience = 1  # doubled after each wrong conclusion
        self._refusals: deque[_Refusal] = deque(maxlen=REMEMBERED)
        self._requests_rate = self._tokens_rate = 0.0  # lower bounds, a second
        self._largest = 0  # most tokens of a request that has passed
        self._together = 1  # most requests in flight both when one was sent and when it passed
        self._contradictions = 0.0
        self._all_passed = self._all_refused = 0  # requests since the first contradiction
        self._passed_since = 0  # requests that passed since the last contradiction
        self._share = self._most = 0.0  # of refusals, since they seem to be random
        self._refused = self._passed = 0  # since then

    @property
    def is_confirmed(self) -> bool:
        """Whether that conclusion has held for a while."""
        return self.is_random and self._refused + self._passed >= CONFIRMED

    def passed(self, ticket: Ticket, in_flight: int) -> None:
        """Record an accepted request, and how many are in flight, itself not included."""
        self._share -= self._share / (REQUESTS + IN_FLIGHT * in_flight)
        self._passed += 1
        self._all_passed += 1
        self._passed_since += 1
        self._largest = max(self._largest, ticket.charge)
        self._together = max(self._together, min(ticket.number, in_flight + 1))
        for refusal in self._refusals:
            if ticket.sent > refusal.came:
                refusal.passed(ticket, self._period)
        if self._passed_since > FORGOTTEN * self._patience:
            self._contradictions = 0.0

    def refused(
        self, ticket: Ticket, now: float, in_flight: int, *, at_most: int, is_told: bool = False
    ) -> bool:
        """Record a refusal; return whether it is another contradiction.

        It contradicts both a quota and a limit on requests in flight, and something has passed
        since the contradiction before.

        Args:
            ticket: the refused request.
            now: the time.
            in_flight: requests in flight, itself not included.
            at_most: the most requests that can have been in flight together with it, itself
                included.
            is_told: whether the server says how long to wait.
        """
        self._share += (1 - self._share) / (REQUESTS + IN_FLIGHT * in_flight)
        self.has_refused = True
        self._refused += 1
        self._all_refused += 1
        if self.is_random:
            self._check(in_flight)
            return False
        contradicts = self._passed_since > 0 and self._contradicts(ticket, at_most)
        if contradicts:
            if not self._contradictions:
                self._all_passed = self._all_refused = 0
            self._contradictions += 1.0 if ticket.quiet >= self._period else WITHIN_PERIOD
            self._passed_since = 0
            if self._contradictions >= self._patience * (TOLD if is_told else CONTRADICTIONS):
                self._conclude()
        if not self._refusals or ticket.sent > self._refusals[-1].came:
            self._refusals.append(_Refusal(ticket, now))
        return contradicts

    def _contradicts(self, ticket: Ticket, at_most: int) -> bool:
        for refusal in self._refusals:
            self._requests_rate = max(self._requests_rate, refusal.requests_rate)
            self._tokens_rate = max(self._tokens_rate, refusal.tokens_rate)
        return (
            (at_most == 1 or ROOM * at_most <= self._together)
            and ticket.charge <= self._largest  # else it may exceed the whole bucket
            and self._requests_rate * ticket.quiet >= AMPLE
            and self._tokens_rate * ticket.quiet >= AMPLE * ticket.charge
        )

    def _conclude(self) -> None:
        share = (self._all_refused + 1) / (self._all_refused + self._all_passed + 2)
        if share > MOST_REFUSED:
            self._contradictions = 0.0
            return
        self.is_random = True
        self._refused = self._passed = 0
        self._share, self._most = share, (1 + share) / 2

    def _check(self, in_flight: int) -> None:
        """Undo the conclusion if sending faster has raised the share of refusals."""
        is_trial_over = self._refused + self._passed >= TRIAL + in_flight
        has_no_room = is_trial_over and self._passed < LET_IN
        if has_no_room or self._share > self._most:
            self.is_random = False
            self._patience *= 2
            self._contradictions = 0.0
            self._requests_rate = self._tokens_rate = 0.0
            self._refusals.clear()
            self._largest, self._together = 0, 1
