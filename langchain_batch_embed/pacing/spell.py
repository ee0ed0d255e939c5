"""A spell of failures, and how many requests to send together after it. Pure arithmetic.

Refusals for overload lower the number of requests in flight step by step. If the server was really
away, as while it restarts, the lowered number says nothing about what the server can take, and
finding the right one again takes many round trips.
"""

import math

__all__ = ["LONG_OUTAGE", "Spell"]

ROOM = 2
"""The server had room for a request if it answered this many times as many together before. At 4,
fewer spells of 503 at a distant server are recognized."""

LONG_OUTAGE = 2.0
"""After this many seconds without an answer the server was away. A shorter spell may be overload,
or a limit on the rate."""


class Spell:
    """Remembers the number in flight from before a spell of failures."""

    def __init__(self) -> None:
        self._before: float | None = None  # the number, or `None` outside a spell
        self._since = self._failed_at = -math.inf  # first and last failure
        self._together = 0  # most requests that the server worked on together
        self._had_room = False  # whether it refused a request although it had room

    def failed(self, number: float, now: float) -> None:
        """Record a failure, and the number of requests that may be in flight."""
        if self._before is None:
            self._before, self._since = number, now
        self._failed_at = now

    def timed_out(self) -> None:
        """Record that a request timed out: the server is not away, but overloaded."""
        self._end()

    def refused(self, at_most: int) -> None:
        """Record a refusal for overload.

        Args:
            at_most: the most requests that can have been in flight together with this one, itself
                included.
        """
        self._had_room |= ROOM * at_most <= self._together

    def answered(self, sent: float, *, together: int, was_away: bool) -> float | None:
        """Record an answer; return the number to return to, or `None`.

        An answer to a request sent before the first failure came says nothing about the spell:
        requests overtake one another, and the server may just have begun to fail.

        Args:
            sent: when its request was sent.
            together: requests in flight both when it was sent and when it was answered, itself
                included: the smaller of the two numbers.
            was_away: whether the server gave no answer at all for a while.
        """
        self._together = max(self._together, together)
        number = self._before
        if sent < self._since:
            return number if was_away else None
        # A server that answers between refusals is not away. It limits the number, or the rate.
        is_over = sent >= self._failed_at and self._failed_at - self._since >= LONG_OUTAGE
        was_away |= is_over and self._had_room
        self._end()
        return number if was_away else None

    def _end(self) -> None:
        self._before, self._had_room = None, False
