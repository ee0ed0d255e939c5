"""How long to wait for a store that is away or busy. Clock, waiting and chance are handed in."""

import logging
from collections.abc import Callable

from langchain_batch_embed.pacing.backoff import Backoff

__all__ = ["Patience"]

logger = logging.getLogger(__name__)

BACKOFF = Backoff(first=0.25, longest=15.0)
"""Delays before a call is made again. With the longest, writing goes on within 15 s of the store's
return."""


class Patience:
    """Waits for a store, longer after each failure, up to a limit.

    Args:
        longest: seconds without an answer after which the wait ends.
        now: returns the time in seconds.
        pause: waits for some seconds, or until it is cancelled.
        draw: a source of random numbers, uniform in 0 to 1.
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
        self._failures = 0  # of calls, in a row

    def answered(self) -> None:
        """Note that the store has taken something."""
        self._failing_since, self._failures = None, 0

    def is_over(self, error: Exception) -> float | None:
        """Return the seconds for which the store has been away, if that is long enough.

        Args:
            error: of the call that failed now.
        """
        now = self._now()
        if self._failing_since is None:
            self._failing_since = now
            logger.warning(
                "the store is away or busy (%s): trying again for up to %.0f s",
                type(error).__name__,
                self._longest,
            )
        away = now - self._failing_since
        return away if away >= self._longest else None

    def wait(self) -> None:
        """Wait before a store that is away is called again."""
        self.wait_after(self._failures)
        self._failures += 1

    def wait_after(self, failures: int) -> None:
        """Wait as long as after this many failures."""
        self._pause(BACKOFF.delay(failures, self._draw))
