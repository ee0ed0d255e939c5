"""When a request is sent a second time because its answer is late: pure arithmetic."""

import bisect
import math

__all__ = ["Hedges"]

AFTER = 3.0
"""A request is a straggler when it takes so many times the median: one in ten at OpenAI."""

LAST_AFTER = 1.5
"""And already then when no more are in flight than may all be sent a second time."""

SHARE = 0.05
"""Share of a call's tokens that may be sent, and paid for, a second time."""


class Hedges:
    """What a call, or all runs of a prefetch together, may spend on stragglers, and when."""

    def __init__(self) -> None:
        self._left = 0.0  # tokens
        self._durations: list[float] = []  # of answered requests, sorted, in seconds

    def allow(self, charge: float) -> None:
        """Allow a share of so many tokens to be sent a second time."""
        self._left += SHARE * charge

    def answered(self, seconds: float) -> None:
        """Note how long a request took."""
        bisect.insort(self._durations, seconds)

    def patience(self, in_flight: float) -> float:
        """Return the seconds after which a request is a straggler; `inf` before any answer.

        Args:
            in_flight: tokens of all requests in flight.
        """
        if not self._durations:
            return math.inf
        median = self._durations[len(self._durations) // 2]
        return (LAST_AFTER if self.affords(in_flight) else AFTER) * median

    def affords(self, charge: float) -> bool:
        """Tell whether so many tokens may be sent a second time."""
        return charge <= self._left

    def spend(self, charge: float) -> None:
        """Take them off what is left."""
        self._left -= charge
