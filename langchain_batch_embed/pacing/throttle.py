"""How long everybody waits after a refusal for the rate: pure arithmetic."""

import math
from collections.abc import Callable

from langchain_batch_embed.pacing.backoff import Backoff

__all__ = ["LOOK_AGAIN", "Throttle"]

BACKOFF = Backoff(first=0.5, longest=10.0)
"""Where the server does not say how long. With the longest, a quota counted in fixed minutes is
found open again after 10 s at the most."""

MOMENT = 0.05
"""Seconds after a refusal of one request too many at a time."""

LOOK_AGAIN = 60.0
"""A pause longer than this many seconds is interrupted each minute by one request: what a server
asked for an hour ago need not be true any more."""


class Throttle:
    """The pause after a refusal, which holds everybody.

    Refusals of requests that were in flight together count as one.

    Args:
        draw: a source of random numbers, uniform in 0 to 1.

    Attributes:
        in_a_row: pauses since the last answer to a request that was sent after one of them.
        paused: seconds of the last pause.
        since: when the first refusal since the last answer came; `inf`: there was none.
    """

    def __init__(self, draw: Callable[[], float]) -> None:
        self._draw = draw
        self.in_a_row = 0
        self.since = math.inf
        self.paused = 0.0
        self._until = -math.inf
        self._refused_at = -math.inf  # when the current pause began

    def refused(self, sent: float, now: float, after: float | None) -> bool:
        """Note a refusal; return whether it begins a pause of its own.

        Args:
            sent: when the refused request was sent.
            now: the time.
            after: the seconds that the server asks for; `None`: it does not say.
        """
        begins = sent > self._refused_at
        self.since = min(self.since, now)
        if begins:
            self._refused_at = now
            self.in_a_row += 1
            backoff = BACKOFF.delay(self.in_a_row - 1, self._draw)
            # A hint is as good as it is once. From the second time on it has been wrong.
            delay = backoff if after is None else after
            self.paused = delay if self.in_a_row == 1 else max(delay, backoff)
            self._until = now + self.paused
        elif after is not None:
            self._until = max(self._until, now + after)
        return begins

    def hold(self, now: float, seconds: float) -> None:
        """Make everybody wait for this many seconds."""
        self._until = max(self._until, now + seconds)

    def cancel(self) -> None:
        """End the pause: the refusal was not about the rate."""
        self._until = -math.inf
        self.in_a_row = 0

    def shorten(self, now: float) -> None:
        """Wait only for a moment: answers make room, and not time."""
        self._until = min(self._until, now + MOMENT)

    def answered(self, sent: float) -> None:
        """Note an answer: the pause was long enough if the request was sent after it."""
        self.since = math.inf
        if sent > self._refused_at:
            self.in_a_row = 0

    def delay(self, now: float) -> float:
        """Return the seconds until the pause is over; 0: there is none."""
        return max(0.0, self._until - now)

    def delay_of_probe(self, now: float) -> float:
        """Return the seconds until one request may look whether a long pause still holds."""
        return max(0.0, min(self._until, self._refused_at + LOOK_AGAIN) - now)
