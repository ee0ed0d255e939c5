"""The pause of all workers after a rate-limit refusal. Pure arithmetic."""

import math
from collections.abc import Callable

from langchain_batch_embed.pacing.backoff import Backoff
from langchain_batch_embed.pacing.health import IDLE
from langchain_batch_embed.pacing.which_quota import LEAST_QUOTA

__all__ = ["LOOK_AGAIN", "Throttle"]

BACKOFF = Backoff(first=0.5, longest=10.0)
"""The pause where the server does not say how long. With the longest one, a quota counted in fixed
minutes is found open again after at most 10 s."""

STARVED = 75.0
"""If nothing was answered for this many seconds, pauses grow beyond the longest backoff. A quota
counted in fixed minutes would have opened again. A server that charges refused requests as well may
never accept one, as every retry takes what the bucket has gained since the one before."""

PATIENT = Backoff(first=20.0, longest=60.0)
"""The pause where nothing is accepted. It lasts at most as long as the refused request takes at
`LEAST_QUOTA` tokens a minute, about the smallest quota that is of any use."""

MOMENT = 0.05
"""Seconds of pause after a refusal for too many requests at a time."""

LOOK_AGAIN = 60.0
"""A pause longer than this many seconds is interrupted by one request each minute: what the server
asked for an hour ago may no longer hold."""


class Throttle:
    """The pause of all workers after a refusal.

    Refusals of requests that were in flight together count as one.

    Args:
        draw: a source of random numbers, uniform in 0 to 1.

    Attributes:
        in_a_row: pauses since a request that was sent after one of them was answered.
        paused: seconds of the last pause.
        since: when the first refusal since the last answer came; `inf` if there was none.
    """

    def __init__(self, draw: Callable[[], float]) -> None:
        self._draw = draw
        self.in_a_row = 0
        self.since = math.inf
        self.paused = 0.0
        self._until = -math.inf
        self._refused_at = -math.inf  # when the current pause began
        self._patient_pauses = 0  # since the last answer

    def refused(self, sent: float, now: float, after: float | None, *, charge: int = 1) -> bool:
        """Record a refusal; return whether it begins a pause of its own.

        Args:
            sent: when the refused request was sent.
            now: the time.
            after: the seconds that the server asks for; `None` if it does not say.
            charge: tokens that the request is charged. Above `LEAST_QUOTA` it can still be cut.
        """
        begins = sent > self._refused_at
        self.since = min(self.since, now)
        if begins:
            self._refused_at = now
            self.in_a_row += 1
            backoff = BACKOFF.delay(self.in_a_row - 1, self._draw)
            if now - self.since > STARVED and charge <= LEAST_QUOTA:
                patient = PATIENT.delay(self._patient_pauses, self._draw)
                backoff = max(backoff, min(patient, 60 * charge / LEAST_QUOTA))
                self._patient_pauses += 1
            # Trust the server once. A second refusal shows that its hint was too short.
            delay = backoff if after is None else after
            self.paused = delay if self.in_a_row == 1 else max(delay, backoff)
            self._until = now + self.paused
        elif after is not None:
            self._until = max(self._until, now + after)
        return begins

    def resume(self, now: float) -> None:
        """Begin a call after a time without any, which counts only if it was short."""
        if self.since < math.inf and now - self._refused_at > IDLE:
            self.since = now

    def hold(self, now: float, seconds: float) -> None:
        """Make all workers wait for at least this many seconds."""
        self._until = max(self._until, now + seconds)

    def cancel(self) -> None:
        """End the pause: the refusal was not about the rate."""
        self._until = -math.inf
        self.in_a_row = 0

    def shorten(self, now: float) -> None:
        """Wait only for a moment: answers make room, not time."""
        self._until = min(self._until, now + MOMENT)

    def answered(self, sent: float) -> None:
        """Record an answer: if its request was sent after the pause, the pause was long enough."""
        self.since = math.inf
        self._patient_pauses = 0
        if sent > self._refused_at:
            self.in_a_row = 0

    def delay(self, now: float) -> float:
        """Return the seconds until the pause is over; 0 if there is none."""
        return max(0.0, self._until - now)

    def delay_of_probe(self, now: float) -> float:
        """Return the seconds until one request may test whether a long pause still holds."""
        return max(0.0, min(self._until, self._refused_at + LOOK_AGAIN) - now)
