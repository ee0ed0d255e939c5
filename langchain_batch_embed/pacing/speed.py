"""How fast one of several servers answers. Pure arithmetic."""

import math
from collections import deque
from statistics import median

__all__ = ["Speed"]

SHARE = 1 / 8
"""Share by which each shorter round trip moves the longest one towards itself."""

TRIPS = 25
"""Round trips over which the median is taken, which one stalled answer does not change."""

WINDOW = 10.0
"""Seconds over which answered tokens are counted."""

SHORTEST = 0.5
"""Least number of seconds by which answered tokens are divided."""


class Speed:
    """Round trips and answered tokens of one server.

    Attributes:
        trip: seconds of a usual round trip; 0 before the first answer.
        longest: seconds of the longest recent round trip, which fades with each shorter one.
    """

    def __init__(self) -> None:
        self.trip = 0.0
        self.longest = 0.0
        self._began = math.inf  # when the first answer's request was sent
        self._trips: deque[float] = deque(maxlen=TRIPS)
        self._answers: deque[tuple[float, int]] = deque()
        self._tokens = 0

    def answered(self, charge: int, seconds: float, now: float) -> None:
        """Record an answer of this many tokens, and its round trip."""
        self._trips.append(seconds)
        self.trip = median(self._trips)
        self.longest = max(seconds, self.longest + (seconds - self.longest) * SHARE)
        self._began = min(self._began, now - seconds)
        self._answers.append((now, charge))
        self._tokens += charge
        self._forget(now)

    def per_second(self, now: float) -> float:
        """Return the tokens answered per second recently."""
        self._forget(now)
        return self._tokens / max(SHORTEST, min(WINDOW, now - self._began))

    def _forget(self, now: float) -> None:
        while self._answers and self._answers[0][0] < now - WINDOW:
            self._tokens -= self._answers.popleft()[1]
