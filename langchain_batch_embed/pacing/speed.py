"""How fast one server answers, of several that share the work: pure arithmetic."""

import math
from collections import deque
from statistics import median

__all__ = ["Speed"]

SHARE = 1 / 8
"""Share of its lead that the longest round trip loses with each shorter one."""

TRIPS = 25
"""Round trips of which the median is the usual one: one stalled answer does not change it."""

WINDOW = 10.0
"""Seconds over which answered tokens are counted."""

SHORTEST = 0.5
"""They are taken to have come in at least this many seconds."""


class Speed:
    """Round trips and answered tokens of one server.

    Attributes:
        trip: seconds of a usual round trip; 0 before the first answer.
        longest: seconds of the longest of the last ones, which fades.
    """

    def __init__(self) -> None:
        self.trip = 0.0
        self.longest = 0.0
        self._began = math.inf  # when the first answer's request was sent
        self._trips: deque[float] = deque(maxlen=TRIPS)
        self._answers: deque[tuple[float, int]] = deque()
        self._tokens = 0

    def answered(self, charge: int, seconds: float, now: float) -> None:
        """Note an answer of this many tokens, and its round trip."""
        self._trips.append(seconds)
        self.trip = median(self._trips)
        self.longest = max(seconds, self.longest + (seconds - self.longest) * SHARE)
        self._began = min(self._began, now - seconds)
        self._answers.append((now, charge))
        self._tokens += charge
        self._forget(now)

    def per_second(self, now: float) -> float:
        """Return the tokens that are answered in a second, of late."""
        self._forget(now)
        return self._tokens / max(SHORTEST, min(WINDOW, now - self._began))

    def _forget(self, now: float) -> None:
        while self._answers and self._answers[0][0] < now - WINDOW:
            self._tokens -= self._answers.popleft()[1]
