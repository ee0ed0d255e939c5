"""Decides whether a 503 is a rate limit. Pure arithmetic.

A proxy such as nginx (`limit_req`) answers 503 to requests that come too soon. Unlike a server that
is away, it answers in between; and unlike an overloaded server, it refuses requests that are alone.
"""

import math

__all__ = ["Overload"]

FEW = 2
"""Most answers between two refusals of a rate limit."""

AWAY = 4
"""After this many pauses of 0.5 to 4 s without an answer, a 503 is not a rate limit."""

BATCH = 3
"""Most refusals of one batch that count as a rate limit. After that one of its texts may be what
breaks the server."""

LONGER = 2.0
"""Where earlier waits took longer, or more refusals, these bounds are this many times as high."""

SLOWEST = 60.0
"""Longest wait, in seconds, that raises them. A limit of less than one request a minute is of no
use, so whatever takes longer was an outage."""


class Overload:
    """Refusals for overload by one server."""

    def __init__(self) -> None:
        self._refusals = 0  # of requests that were alone, each after few answers
        self._answers = 0.0  # before the last of them
        self._began = math.inf  # the first refusal since the last answer
        self._tries = 0  # refusals since then
        self._longest = 0.0  # seconds from a first refusal until a request was accepted
        self._most = 0  # refusals in such a time

    def refused(self, now: float, *, answers: float, answered_sent: float) -> None:
        """Record the refusal of a request with no other request in flight.

        Args:
            now: the time.
            answers: how many answers the server has given so far.
            answered_sent: when the last request was sent that was answered.
        """
        since, self._answers = answers - self._answers, answers
        if since > FEW:
            self._refusals, self._longest, self._most = 0, 0.0, 0
        elif since:
            waited = answered_sent - self._began
            if waited <= SLOWEST:
                self._longest = max(self._longest, waited)
                self._most = max(self._most, self._tries)
        if since:
            self._refusals += 1
            self._began, self._tries = now, 0
        self._tries += 1

    def is_rate(self, now: float, *, pauses: int, refusals: int) -> bool:
        """Return whether the last refusal was a rate limit.

        Args:
            now: the time.
            pauses: rate-limit pauses since the last answer.
            refusals: refusals of the same batch that were taken for a rate limit before.
        """
        is_short = pauses < AWAY or now - self._began < LONGER * self._longest
        return self._refusals > 1 and is_short and refusals < max(BATCH, LONGER * self._most)
