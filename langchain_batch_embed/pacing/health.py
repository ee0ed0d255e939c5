"""A circuit breaker: whether the server answers at all. Pure arithmetic.

A single failed request may be bad luck, or the fault of its texts. Several failures in a row
without an answer mean that the server is away. While it is, one probe at a time is sent and
everything else waits. The first answer ends the outage for all workers.
"""

import math
from collections.abc import Callable

from langchain_batch_embed.pacing.backoff import Backoff

__all__ = ["IDLE", "Health"]

DOWN_AFTER = 3
"""Failures in a row, of requests sent after the last answer, before the server counts as away."""

PROBES = Backoff(first=0.5, longest=5.0)
"""Delays between probes. With the longest one, work resumes within 5 s of the server's return."""

IDLE = 60.0
"""After this many seconds without a request, the last failure says nothing about the next one. A
program that asks every few seconds learns at once that the server is still away."""

FIRST_CONTACT = 20.0
"""Seconds after which to give up a server that was never reached, or that sent only web pages: its
address may be wrong, and the user should not wait minutes to learn that."""


class Health:
    """The server's state, shared by all calls.

    Args:
        patience: seconds without any answer after which to give the server up.
        draw: a source of random numbers, uniform in 0 to 1.

    Attributes:
        patience: see above.
        answered_at: when the last answer came; `-inf` before the first.
        answered_sent: when the latest request was sent that was answered; `-inf` before the first
            answer. A server that is shutting down answers the requests that it has, and refuses
            all others.
        failures: failed requests since the last answer.
        is_down: whether the server counts as away.
        was_reached: whether there was ever a connection to a server of embeddings, so that the
            address is right.
    """

    def __init__(self, patience: float, draw: Callable[[], float]) -> None:
        self.patience = patience
        self._draw = draw
        self.answered_at = self.answered_sent = -math.inf
        self.failures = 0
        self.is_down = self.was_reached = False
        self._failing_since = math.inf
        self._failed_at = -math.inf
        self._probes = 0
        self._next_probe = -math.inf
        self._down_since = math.inf

    @property
    def has_answered(self) -> bool:
        """Whether the server ever gave an answer."""
        return self.answered_at > -math.inf

    def answered(self, sent: float, now: float) -> None:
        """Record an answer, which ends an outage."""
        self.answered_at = now
        self.answered_sent = max(self.answered_sent, sent)
        self.failures = self._probes = 0
        self.is_down = False
        self._failing_since = self._down_since = math.inf

    def resume(self, now: float) -> None:
        """Begin a call after a time without any, which counts as an outage only if it was short."""
        if self._failing_since < math.inf and now - self._failed_at > IDLE:
            self._failing_since = now

    def failed(self, sent: float, now: float) -> None:
        """Record a request that the server could not answer."""
        if sent < self.answered_at:
            return  # a later request was answered, so this failure is out of date
        if not self.failures:
            self._failing_since = sent
        self._failed_at = now
        self.failures += 1
        if self.is_down and sent >= self._down_since:
            self._probes += 1
            self._next_probe = now + PROBES.delay(self._probes, self._draw)
        elif not self.is_down and self.failures >= DOWN_AFTER:
            self.is_down, self._down_since = True, now
            self._next_probe = now + PROBES.delay(0, self._draw)

    def is_probe(self, sent: float) -> bool:
        """Return whether a request is a probe, sent while the server counts as away."""
        return sent >= self._down_since

    def delay(self, now: float) -> float:
        """Return the seconds until the next probe may start, if none is in flight."""
        return max(0.0, self._next_probe - now) if self.is_down else 0.0

    def away_for(self, now: float) -> float:
        """Return the seconds for which the server has been failing; 0 if it has not."""
        return max(0.0, now - self._failing_since)

    def gives_up(self, now: float, *, unreachable: bool) -> bool:
        """Return whether the server has been away for too long.

        Args:
            now: the time.
            unreachable: whether the last failure brought no HTTP answer at all, or a web page.
        """
        if not self.is_down:
            return False
        return self.away_for(now) >= self.patience_for(unreachable=unreachable)

    def patience_for(self, *, unreachable: bool) -> float:
        """Return the seconds without an answer after which to give the server up."""
        if unreachable and not (self.has_answered or self.was_reached):
            return min(FIRST_CONTACT, self.patience)
        return self.patience
