"""Checks with small batches whether a hidden quota really counts tokens.

If the server counts tokens, more small batches pass than the measured quota of requests would
accept, and the check costs nothing. If no more pass, or one is refused, the server may count
requests after all. Pure: time is handed in.
"""

__all__ = ["SmallBatches"]

DOUBT = 8
"""Answers before the first trial of small batches. Each further trial takes four times as many."""

SMALLER = 5.0
"""A small batch holds the tokens of recent or usual requests divided by this."""

LEAST_SMALL = 128
"""Fewest tokens in a small batch, so that queries in between do not make batches ever smaller."""

SMALL = 8
"""Small batches in one trial."""

MORE = 1.5
"""The server counts tokens if this many times as many small batches pass as the measured quota of
requests would accept."""


class SmallBatches:
    """When to try small batches, and what they show."""

    def __init__(self) -> None:
        self._patience = DOUBT  # answers before the next trial
        self._answers = 0  # to batches of the usual size since the last trial
        self._size = 0.0  # average tokens of these requests
        self._counted_from = 0.0  # when the first of these requests was sent
        self._left = 0  # small batches of this trial that have yet to pass
        self._tried_from = 0.0  # when this trial began

    @property
    def are_tried(self) -> bool:
        """Whether the next batches are to be small."""
        return self._left > 0

    def begin(self) -> None:
        """Start counting answers: the server was just found to count tokens."""
        self._answers = self._left = 0

    def most(self, usual: float) -> float:
        """Return the most tokens in a small batch, given the tokens of a usual request."""
        return max(LEAST_SMALL, usual / SMALLER, self._size / SMALLER)

    def passed(self, tokens: float, *, sent: float, now: float, requests: float) -> bool:
        """Record an accepted request; return whether the server may count requests after all.

        Args:
            tokens: tokens in the request.
            sent: when it was sent.
            now: the time.
            requests: the measured quota of requests a second.
        """
        if self._left:
            if sent < self._tried_from:
                return False
            self._left -= 1
            if self._left:
                return False
            self._put_off()
            return not _exceeds(SMALL, sent - self._tried_from, requests)
        self._answers += 1
        self._size += (tokens - self._size) / min(self._answers, SMALL)
        if self._answers == 1:
            self._counted_from = sent
        if self._answers < self._patience:
            return False
        # If the server counts tokens, this many small batches would pass in that time.
        if _exceeds(SMALLER * (self._answers - 1), sent - self._counted_from, requests):
            self._left, self._tried_from = SMALL, now
            return False
        self._put_off()
        return True

    def refused(self, sent: float) -> bool:
        """Record a refusal; return whether it hit a small batch, and so may be about requests."""
        if sent < self._tried_from:
            return False  # a batch of the usual size, sent before the trial
        self._put_off()
        return True

    def _put_off(self) -> None:
        """End the trial, and make the next one rarer."""
        self._left, self._answers, self._patience = 0, 0, 4 * self._patience


def _exceeds(count: float, seconds: float, requests: float) -> bool:
    """Return whether the count exceeds what this many requests a second allow."""
    return count > MORE * requests * seconds
