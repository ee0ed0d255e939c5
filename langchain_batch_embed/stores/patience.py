"""Decides how long to wait for a store that is away or busy.

The clock, the waiting and the random numbers are passed in.
"""

import logging
from collections.abc import Callable

from langchain_batch_embed.pacing.backoff import Backoff

__all__ = ["Patience"]

logger = logging.getLogger(__name__)

BACKOFF = Backoff(first=0.25, longest=15.0)
"""Delays before a call is repeated. Even with the longest one, writing resumes within 15 s of the
store's return."""

QUIET = 60.0
"""Seconds between two warnings: a store that fails now and then would fill the log."""


class Patience:
    """Waits for a store, longer after each failure, up to a limit.

    Args:
        longest: seconds without an answer after which to give up.
        now: returns the time in seconds.
        pause: waits for a number of seconds, or until the ingest is cancelled.
        draw: a source of random numbers, uniform between 0 and 1.
    """

    def __init__(
        self,
        longest: float,
        *,
        now: Callable[[], float],
        pause: Callable[[float], object],
        draw: Callable[[], float],
    ) -> None:
        self._longest = longest
        self._now = now
        self._pause = pause
        self._draw = draw
        self._failing_since: float | None = None
        self._failures = 0  # failed calls in a row
        self._warned: float | None = None

    def answered(self) -> None:
        """Record that the store accepted a call."""
        self._failing_since, self._failures = None, 0

    def is_over(self, error: Exception) -> float | None:
        """Return how many seconds the store has been away if the limit is reached, else `None`.

        Args:
            error: the error of the call that has just failed.
        """
        now = self._now()
        if self._failing_since is None:
            self._failing_since = now
            self._warn(type(error).__name__, now)
        away = now - self._failing_since
        return away if away >= self._longest else None

    def _warn(self, name: str, now: float) -> None:
        is_soon = self._warned is not None and now - self._warned < QUIET
        if not is_soon:
            self._warned = now
        logger.log(
            logging.INFO if is_soon else logging.WARNING,
            "the store is away or busy (%s): trying again for up to %.0f s",
            name,
            self._longest,
        )

    def wait(self) -> None:
        """Wait before the next call to a store that is away."""
        self.wait_after(self._failures)
        self._failures += 1

    def wait_after(self, failures: int) -> None:
        """Wait for the delay that follows this many failures."""
        self._pause(BACKOFF.delay(failures, self._draw))
