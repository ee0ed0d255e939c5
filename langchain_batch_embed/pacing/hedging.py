"""When a request is sent a second time because its answer is late: pure arithmetic."""

import bisect
import math

__all__ = ["Hedges"]

AFTER = 1.5
"""A request is a straggler when it takes this many times the median."""

SHARE = 0.05
"""Share of a call's tokens that may be sent, and paid for, a second time."""


class Hedges:
    """What a call, or all runs of a prefetch together, may spend on stragglers, and when."""

    def __init__(self) -> None:
        self._left = 0.0  # tokens
        self._durations: list[float] = []  # of answered requests, sorted, in seconds

    def allow(self, charge: float) -> None:
        """Allow a share of this many tokens to be sent a second time."""
        self._left += SHARE * charge

    def answered(self, seconds: float) -> None:
        """Note how long a request took."""
        bisect.insort(self._durations, seconds)

    def patience(self, in_flight: float) -> float:
        """Return the seconds after which a request is a straggler.

        `inf` before any answer, and as long as not all that are in flight can be afforded: what is
        left is spent on those that are the latest of all.

        Args:
            in_flight: tokens of all requests in flight that were sent once.
        """
        if not self._durations or not self.affords(in_flight):
            return math.inf
        return AFTER * self._durations[len(self._durations) // 2]

    def affords(self, charge: float) -> bool:
        """Tell whether this many tokens may be sent a second time."""
        return charge <= self._left

    def spend(self, charge: float) -> None:
        """Take them off what is left."""
        self._left -= charge
