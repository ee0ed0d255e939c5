"""How long the rest of a call takes: pure arithmetic.

The larger of two times counts: until the quota has let the rest through, which the pacer knows from
the first answer's headers on, and until it is answered as fast as the last answers came. Where only
refusals tell of the quota, the pacer tries out what gets through, so its rate of the moment is
wrong by as much. There the pace since the first of them counts the more, the longer that has been.
"""

from collections import deque

from langchain_batch_embed.pacing.status import Status

__all__ = ["Pace", "TimeLeft"]

SHORTEST = 3.0
"""Seconds over which a pace is measured, at least; half of the time so far where that is more."""

LONGEST = 30.0
"""And at most: a call of hours is told what holds now."""

APART = 0.2
"""Seconds between two measurements, at least."""


class Pace:
    """Measures how much gets done in a second, from what was left at earlier moments."""

    def __init__(self) -> None:
        self._active = 0.0  # seconds in which work could go on
        self._last: float | None = None
        self._past: deque[tuple[float, float]] = deque()  # active seconds, and what was left

    def measure(self, now: float, left: float, *, is_held_back: bool = False) -> float | None:
        """Return how much gets done in a second; `None`: not known.

        Args:
            now: the time.
            left: what is left.
            is_held_back: nothing can go on until something is waited for. Such times do not count.
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
        self._learnt: tuple[float, float] | None = None  # when a rate was first learnt, and left

    def seconds(self, now: float, left: float, status: Status) -> float | None:
        """Return the seconds that are left; `None`: nothing is known yet, or the server is away.

        Args:
            now: the time.
            left: tokens that have no answer yet, as the limiter charges them.
            status: of the server.
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
        """Return the seconds by a rate that is tried out, with how it went until now."""
        if self._learnt is None:
            self._learnt = now, left
        began, left_then = self._learnt
        elapsed, done = now - began, left_then - left
        if elapsed <= 0 or done <= 0 or seconds <= 0:
            return seconds
        # The mean of both rates.
        weight = elapsed / (elapsed + seconds)
        return 1 / (weight * done / elapsed / left + (1 - weight) / seconds)
