"""Estimates how long the rest of a call will take. Pure arithmetic.

The estimate is the larger of two times. One is the time until the quota has let the rest through,
which the pacer knows once the first answer's headers have arrived. The other is the time until the
rest is answered at the pace of the latest answers.

A hidden quota, which shows itself only by refusals, has to be found by trial. The pacer's current
rate may then be well off. In this case the pace since the quota was first estimated counts too, and
it gets more weight the longer it has been measured.
"""

from collections import deque

from langchain_batch_embed.pacing.status import Status

__all__ = ["Pace", "TimeLeft"]

SHORTEST = 3.0
"""Minimum seconds over which a pace is measured; half of the time so far if that is longer."""

LONGEST = 30.0
"""Maximum seconds over which a pace is measured, so that a call of hours uses its current pace."""

APART = 0.2
"""Minimum seconds between two measurements."""


class Pace:
    """Measures how much work gets done per second, from the work left at earlier moments."""

    def __init__(self) -> None:
        self._active = 0.0  # seconds in which work could proceed
        self._last: float | None = None
        self._past: deque[tuple[float, float]] = deque()  # active seconds, and work left

    def measure(self, now: float, left: float, *, is_held_back: bool = False) -> float | None:
        """Record the work left, and return the work done per second; `None` if not known.

        Args:
            now: the time.
            left: the work left.
            is_held_back: work cannot proceed now; such time does not count.
        """
        if self._last is not None and not is_held_back:
            self._active += now - self._last
        self._last = now
        past = self._past
        if not past or self._active >= past[-1][0] + APART:
            past.append((self._active, left))
        window = min(LONGEST, max(SHORTEST, self._active / 2))
        while len(past) > 1 and past[1][0] <= self._active - window:
            past.popleft()
        began, left_then = past[0]
        done, elapsed = left_then - left, self._active - began
        return done / elapsed if done > 0 and elapsed > 0 else None


class TimeLeft:
    """Estimates the seconds until everything is embedded."""

    def __init__(self) -> None:
        self._answers = Pace()
        # When a rate was first learnt, and the tokens left then.
        self._learnt: tuple[float, float] | None = None

    def seconds(self, now: float, left: float, status: Status) -> float | None:
        """Return the seconds left; `None` if they are not known yet or the server is away.

        Args:
            now: the time.
            left: tokens that have no answer yet, as the limiter charges them.
            status: the server's status.
        """
        is_away = status.waits_for == "server"
        pace = self._answers.measure(now, left, is_held_back=status.is_held_back or is_away)
        if left <= 0:
            return 0.0
        if is_away:
            return None
        times = [] if status.quota_seconds is None else [status.quota_seconds]
        if pace is not None or status.pause:
            rest = 0.0 if pace is None else left / pace
            times.append(status.pause + status.start + rest)
        seconds = max(times, default=None)
        if seconds is None or not status.is_learnt:
            return seconds
        return self._corrected(seconds, now, left)

    def _corrected(self, seconds: float, now: float, left: float) -> float:
        """Return an estimate by a learnt rate, corrected by the pace since the rate was learnt."""
        if self._learnt is None:
            self._learnt = now, left
        began, left_then = self._learnt
        elapsed, done = now - began, left_then - left
        if elapsed <= 0 or done <= 0 or seconds <= 0:
            return seconds
        # The weighted mean of both rates.
        weight = elapsed / (elapsed + seconds)
        return 1 / (weight * done / elapsed / left + (1 - weight) / seconds)
