"""The pause after a rate-limit refusal, for all processes that share a quota.

Pure arithmetic: no clock, thread or I/O.
"""

from collections.abc import Callable

from langchain_batch_embed.pacing.throttle import LOOK_AGAIN, Throttle
from langchain_batch_embed.shared.terms import Terms

__all__ = ["SharedThrottle"]


class SharedThrottle(Throttle):
    """A `Throttle` that also pauses after refusals of other processes.

    Args:
        draw: a source of random numbers, uniform in 0 to 1.
        terms: the state that this process shares with the ledger.
    """

    def __init__(self, draw: Callable[[], float], terms: Terms) -> None:
        super().__init__(draw)
        self._terms = terms

    def refused(self, sent: float, now: float, after: float | None, *, charge: int = 1) -> bool:
        """Record a refusal, also for the ledger; return whether it begins a new pause.

        See `Throttle.refused` for the arguments.
        """
        self._terms.refused_sent = max(sent, self._terms.refused_sent or sent)
        return super().refused(sent, now, after, charge=charge)

    def answered(self, sent: float) -> None:
        """Record an answer, also for the ledger."""
        self._terms.passed += 1
        super().answered(sent)

    def delay(self, now: float) -> float:
        """Return the seconds until the pause of all processes is over; 0 if there is none."""
        return max(self.own_delay(now), self._terms.pause_until - now)

    def own_delay(self, now: float) -> float:
        """Return the seconds until the pause that this process has requested is over."""
        return super().delay(now)

    def delay_of_probe(self, now: float) -> float:
        """Return the seconds until one request may test whether a long pause is still needed."""
        terms = self._terms
        shared = min(terms.pause_until, terms.paused_at + LOOK_AGAIN) - now
        return max(super().delay_of_probe(now), shared, 0.0)
