"""How long the rest of a call takes: pure arithmetic.

The larger of two times counts: until the quota has let the rest through, which the pacer knows from
the first answer's headers on, and until it is answered as fast as the last answers came.
"""

from collections import deque

from langchain_batch_embed.pacing.status import Status

__all__ = ["TimeLeft"]

SHORTEST = 3.0
"""Seconds over which the pace is measured, at least; half of the time so far where that is more."""

LONGEST = 30.0
"""And at most: a call of hours is told what holds now."""

APART = 0.2
"""Seconds between two measurements, at least."""


class TimeLeft:
    """Estimates the seconds that are left, from what was left at earlier moments."""

    def __init__(self) -> None:
        self._active = 0.0  # seconds in which only answers were waited for
        self._last: float | None = None
        self._past: deque[tuple[float, float]] = deque()  # active seconds, tokens left

    def seconds(self, now: float, left: float, status: Status) -> float | None:
        """Return the seconds that are left; `None`: nothing is known yet, or the server is away.

        Args:
            now: the time.
            left: tokens that have no answer yet, as the limiter charges them.
            status: of the server.
        """
        pace = self._pace(
            now, left, is_held_back=status.is_held_back or status.waits_for == "server"
        )
        if left <= 0:
            return 0.0
        if status.waits_for == "server":
            return None
        times = [] if status.quota_seconds is None else [status.quota_seconds]
        if pace is not None:
            times.append(status.pause + left / pace)
        return max(times, default=None)

    def _pace(self, now: float, left: float, *, is_held_back: bool) -> float | None:
        """Return the tokens that are answered in a second; `None`: not known."""
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
        answered, elapsed = left_then - left, self._active - began
        return answered / elapsed if answered > 0 and elapsed > 0 else None
