"""Small batches, sent now and then where the tokens seem to be what a quota counts: a pure trial.

If the tokens are what is counted, more of the small batches pass than the quota of requests that
was measured would let through, and the trial costs nothing. Otherwise as few pass, or one is
refused: it may be the requests after all.
"""

__all__ = ["SmallBatches"]

DOUBT = 8
"""Answers after which small batches are tried for the first time. Each further trial comes after
four times as many."""

SMALLER = 5.0
"""A small batch holds the tokens of recent requests, or of usual ones, divided by this."""

LEAST_SMALL = 128
"""Tokens in a small batch, at least: queries between them must not make batches ever smaller."""

SMALL = 8
"""Small batches in one trial."""

MORE = 1.5
"""Tokens are what is counted if this many times as many small batches pass as the measured quota of
requests would let through."""


class SmallBatches:
    """When small batches are tried, and what they show."""

    def __init__(self) -> None:
        self._patience = DOUBT  # answers after which they are tried
        self._answers = 0  # of the usual size, since the last trial
        self._size = 0.0  # tokens in a request, on average over these answers
        self._counted_from = 0.0  # when the first of these was sent
        self._left = 0  # small batches that have yet to pass
        self._tried_from = 0.0  # when the first of these may have been sent

    @property
    def are_tried(self) -> bool:
        """Whether the next batches are to be small."""
        return self._left > 0

    def begin(self) -> None:
        """Count the answers from here on: the tokens were just found to be what is counted."""
        self._answers = self._left = 0

    def most(self, usual: float) -> float:
        """Return the most tokens in a small batch, where a usual request has this many."""
        return max(LEAST_SMALL, usual / SMALLER, self._size / SMALLER)

    def passed(self, tokens: float, *, sent: float, now: float, requests: float) -> bool:
        """Note a request that was let through; return whether it may be the requests after all.

        Args:
            tokens: in the request.
            sent: when it was sent.
            now: the time.
            requests: a second, as the quota of requests was measured.
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
        # Where the tokens are what is waited for, this many small ones go in that time.
        if _exceeds(SMALLER * (self._answers - 1), sent - self._counted_from, requests):
            self._left, self._tried_from = SMALL, now
            return False
        self._put_off()
        return True

    def refused(self, sent: float) -> bool:
        """Note a refusal; return whether it was of a small batch, and so may be about requests."""
        if sent < self._tried_from:
            return False  # it was one of the usual size
        self._put_off()
        return True

    def _put_off(self) -> None:
        """End a trial, and make the next one rarer."""
        self._left, self._answers, self._patience = 0, 0, 4 * self._patience


def _exceeds(count: float, seconds: float, requests: float) -> bool:
    """Tell whether a quota of this many requests a second would not let the count through."""
    return count > MORE * requests * seconds
