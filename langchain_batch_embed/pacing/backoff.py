"""Exponential backoff with jitter."""

from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Backoff"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """Exponential backoff with jitter: between half and all of `first * 2**attempt`.

    The random half keeps many clients apart; see "Exponential Backoff And Jitter" in the AWS
    architecture blog. The fixed half keeps one client from coming back at once.

    Attributes:
        first: the bound of the first delay, in seconds.
        longest: no bound grows above this, in seconds.
    """

    first: float = 0.5
    longest: float = 30.0

    def delay(self, attempt: int, draw: Callable[[], float]) -> float:
        """Return the seconds before retry number `attempt`, counted from 0."""
        bound: float = min(self.longest, self.first * 2 ** min(attempt, 30))
        return bound * (0.5 + 0.5 * draw())
