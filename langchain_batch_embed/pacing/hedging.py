"""When to send a late request a second time. Pure arithmetic."""

import bisect
import math

__all__ = ["Hedges"]

AFTER = 1.5
"""A request is a straggler once it takes this many times the median."""

SHARE = 0.05
"""Largest share of a call's tokens that may be sent, and paid for, a second time."""


class Hedges:
    """The budget for stragglers of a call, or of all runs of a prefetch together."""

    def __init__(self) -> None:
        self._left = 0.0  # tokens
        self._durations: list[float] = []  # seconds of answered requests, sorted

    def allow(self, charge: float) -> None:
        """Add a share of this many tokens to the budget."""
        self._left += SHARE * charge

    def answered(self, seconds: float) -> None:
        """Record how long a request took."""
        bisect.insort(self._durations, seconds)

    def patience(self, in_flight: float) -> float:
        """Return the seconds after which a request is a straggler.

        `inf` before any answer, and while the budget does not cover all requests in flight: it is
        kept for the very last ones.

        Args:
            in_flight: tokens of all requests in flight that were sent only once.
        """
        if not self._durations or not self.affords(in_flight):
            return math.inf
        return AFTER * self._durations[len(self._durations) // 2]

    def affords(self, charge: float) -> bool:
        """Return whether the budget covers this many tokens."""
        return charge <= self._left

    def spend(self, charge: float) -> None:
        """Take this many tokens from the budget."""
        self._left -= charge
