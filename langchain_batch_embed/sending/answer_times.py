"""How long answers take by the size of their batch: pure arithmetic.

The time of an answer has a part that grows with its batch and one that does not: the way there and
back, and what each request costs the server. Where the second one is long, smaller batches are
answered no sooner, and only more of them have to be sent. Which part is how long is found by the
straight line through the latest answers.
"""

import math

__all__ = ["AnswerTimes"]

DECAY = 1 - 1 / 32
"""What an answer counts for the line, compared with the next one."""

LONGER = 1.5
"""Where even the smallest batch takes too long, one may take this many times as long."""

GROWTH = 16
"""The next batch holds at most this many times the work of the largest that was answered."""

GROWTH_BY_LINE = 4
"""The same where it follows from the slope of the line, which is noisy."""

OUTLIER = 4.0
"""An answer that took longer than this many times what was expected counts as if it took that."""

SHORT = 0.1
"""Less than this many seconds is never expected: a first answer may come out of a cache, or within
one tick of a coarse clock, and those after it are no outliers."""

DOUBT = 2.0
"""The slope is taken to be this many standard errors less steep than it looks: where batches of the
same size take now 1 s and now 5 s, larger ones are tried, and then it shows."""

SPREAD = 0.1
"""With a smaller standard deviation than this share of their mean, sizes tell no slope."""


class _Line:
    """The straight line through points, the latest ones above all.

    No point lies below zero, and neither does the line, nor does it fall.
    """

    def __init__(self) -> None:
        self._count = self._x = self._y = self._xx = self._xy = self._yy = 0.0

    def note(self, x: float, y: float) -> None:
        """Note a point."""
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
        """Whether the points lie far enough apart to tell a slope."""
        return self._variance > (SPREAD * self.middle) ** 2

    @property
    def _variance(self) -> float:
        return self._xx / self._count - self.middle**2

    def fit(self) -> tuple[float, float]:
        """Return the line's height at zero, and its slope; through zero where it cannot tell."""
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
        usual: seconds that an answer takes lately; 0 before the first one.
    """

    def __init__(self) -> None:
        self.usual = 0.0
        self._largest = 0.0
        self._alone = _Line()  # seconds by work
        self._in_line = _Line()  # the same, divided by the requests in flight

    def note(self, work: float, seconds: float, number: int) -> None:
        """Note an answer.

        Args:
            work: of its batch, in tokens.
            seconds: from sending to answer.
            number: requests that were in flight with it, itself among them.
        """
        work = max(1.0, work)
        self.usual += (seconds - self.usual) / (4 if self.usual else 1)
        self._largest = max(self._largest, work)
        self._alone.note(work, seconds)
        self._in_line.note(work, seconds / max(1, number))

    def work_within(self, seconds: float, number: int | None = None) -> float:
        """Return the most work, in tokens, that is likely to be answered in this time.

        Where even the smallest batch takes longer, it is what takes little longer than that.

        Args:
            seconds: what an answer may take.
            number: requests that will be in flight, where they stand in a line at the server, so
                that each takes a time in proportion to it; `None`: it makes no difference.

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
        # Less than half at once only after a time-out: long answers may be those of a line.
        return min(max(work, line.middle / 2), growth * self._largest)
