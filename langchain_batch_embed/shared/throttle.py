"""The pause after a refusal, for all processes that share a quota: pure arithmetic."""

from collections.abc import Callable

from langchain_batch_embed.pacing.throttle import LOOK_AGAIN, Throttle
from langchain_batch_embed.shared.terms import Terms

__all__ = ["SharedThrottle"]


class SharedThrottle(Throttle):
    """A `Throttle` that also holds for the refusals of others.

    Args:
        draw: a source of random numbers, uniform in 0 to 1.
        terms: what the last exchange said.
    """

    def __init__(self, draw: Callable[[], float], terms: Terms) -> None:
        super().__init__(draw)
        self._terms = terms

    def refused(self, sent: float, now: float, after: float | None) -> bool:
        """Note a refusal, for the others too; return whether it begins a pause of its own."""
        self._terms.refused_sent = max(sent, self._terms.refused_sent or sent)
        return super().refused(sent, now, after)

    def answered(self, sent: float) -> None:
        """Note an answer."""
        self._terms.passed += 1
        super().answered(sent)

    def delay(self, now: float) -> float:
        """Return the seconds until everybody's pause is over; 0: there is none."""
        return max(self.own_delay(now), self._terms.pause_until - now)

    def own_delay(self, now: float) -> float:
        """Return the seconds until the pause is over that this process has asked for."""
        return super().delay(now)

    def delay_of_probe(self, now: float) -> float:
        """Return the seconds until one request may look whether a long pause still holds."""
        terms = self._terms
        shared = min(terms.pause_until, terms.paused_at + LOOK_AGAIN) - now
        return max(super().delay_of_probe(now), shared, 0.0)
