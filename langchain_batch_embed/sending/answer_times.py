"""Predicts how long an answer takes from the size of its batch. Pure arithmetic.

The time of an answer has a fixed part, for the network and the overhead of a request, and a part
that grows with the batch. Where the fixed part dominates, smaller batches are answered no sooner,
and only make more requests. Both parts are found by a straight line through the latest answers.
"""

import math

__all__ = ["AnswerTimes"]

DECAY = 1 - 1 / 32
"""Weight of an answer in the line, relative to the next one."""

LONGER = 1.5
"""If even the smallest batch takes too long, a batch may take this many times as long as that."""

GROWTH = 16
"""The next batch holds at most this many times the work of the largest answered one."""

GROWTH_BY_LINE = 4
"""The same where the size follows from the slope of the line, which is noisy."""

OUTLIER = 4.0
"""An answer counts with at most this many times its expected time."""

SHORT = 0.1
"""Shortest expected time, in seconds. A first answer may come out of a cache, or within one tick of
a coarse clock, and later ones are no outliers beside it."""

DOUBT = 2.0
"""The slope is assumed to be this many standard errors less steep than measured. If batches of one
size take 1 s or 5 s at random, larger ones are tried, and then the true slope shows."""

SPREAD = 0.1
"""Sizes whose standard deviation is below this share of their mean give no slope."""


class _Line:
    """A straight line through points, in which the latest ones weigh most.

    Points are never below zero, so the line is not either, and it never falls.
    """

    def __init__(self) -> None:
        self._count = self._x = self._y = self._xx = self._xy = self._yy = 0.0

    def note(self, x: float, y: float) -> None:
        """Add a point."""
        if self._count:
            base, slope = self.fit()
            y = min(y, OUTLIER * max(SHORT, base + slope * x))
        self._count = DECAY * self._count + 1
        self._x = DECAY * self._x + x
        self._y = DECAY * self._y + y
        self._xx = DECAY * self._xx + x * x
        self._xy = DECAY * self._xy + x * y
        self._yy = DECAY * self._yy + y * y

    @property
    def middle(self) -> float:
        """The mean of x."""
        return self._x / self._count

    @property
    def is_sloped(self) -> bool:
        """Whether the points lie far enough apart to give a slope."""
        return self._variance > (SPREAD * self.middle) ** 2

    @property
    def _variance(self) -> float:
        return self._xx / self._count - self.middle**2

    def fit(self) -> tuple[float, float]:
        """Return the line's height at zero and its slope; a line through zero if unclear."""
        x, y = self.middle, self._y / self._count
        steepest = y / x
        if not self.is_sloped:
            return 0.0, steepest
        slope = (self._xy / self._count - x * y) / self._variance
        left = max(0.0, self._yy / self._count - y * y - slope**2 * self._variance)
        error = math.sqrt(left / self._variance / self._count)
        slope = min(steepest, max(0.0, slope - DOUBT * error))
        return y - slope * x, slope


class AnswerTimes:
    """The times of the answers of one server.

    Attributes:
        usual: seconds that an answer takes at present; 0 before the first one.
    """

    def __init__(self) -> None:
        self.usual = 0.0
        self._largest = 0.0
        self._alone = _Line()  # seconds by work
        self._in_line = _Line()  # the same, divided by the requests in flight

    def note(self, work: float, seconds: float, number: int) -> None:
        """Record an answer.

        Args:
            work: the work of its batch, in tokens.
            seconds: from sending to answer.
            number: requests in flight when it was sent, itself included.
        """
        work = max(1.0, work)
        self.usual += (seconds - self.usual) / (4 if self.usual else 1)
        self._largest = max(self._largest, work)
        self._alone.note(work, seconds)
        self._in_line.note(work, seconds / max(1, number))

    def work_within(self, seconds: float, number: int | None = None) -> float:
        """Return the most work, in tokens, that is likely to be answered in this time.

        If even the smallest batch takes longer, return the work that takes little longer than it.

        Args:
            seconds: time that an answer may take.
            number: requests that will be in flight if they queue at the server, so that times grow
                in proportion to their number; `None` if they do not queue.

        Returns:
            `inf` before the first answer.
        """
        if not self._largest:
            return math.inf
        line = self._alone if number is None else self._in_line
        base, slope = line.fit()
        each = seconds / (number or 1)
        work = math.inf if slope <= 0 else max(each - base, (LONGER - 1) * base) / slope
        growth = GROWTH_BY_LINE if line.is_sloped else GROWTH
        # Never less than half at once before a time-out: slow answers may come from a queue.
        return min(max(work, line.middle / 2), growth * self._largest)
