"""Learns how many documents a store takes in one call from the calls that it refuses.

Pure arithmetic: no clock, thread or I/O.
"""

__all__ = ["WriteSize"]

CALM = 8
"""Calls of one size that must succeed before a larger size is tried. The number doubles with each
refusal that follows a successful call, so a permanent limit costs fewer and fewer calls."""

STEP = 1.5
"""A size that the store has not accepted yet is at most this many times the current one."""


class WriteSize:
    """The number of documents to put into one call to a store.

    Args:
        most: largest number of documents in one call.

    Attributes:
        limit: largest number of documents in the next call.
    """

    def __init__(self, most: int) -> None:
        self.limit = most
        self._most = most
        self._good = 0  # largest size believed to work while the store is not busy
        self._recent = 0  # largest size accepted since the last refusal
        self._calm = CALM
        self._suspect: int | None = None  # a size that was accepted before, and then refused once
        self._calls = 0  # successful calls of size `limit` since it last changed

    def accepted(self, count: int) -> None:
        """Record a call that succeeded."""
        self._recent = max(self._recent, count)
        self._good = max(self._good, count)
        if self._suspect is not None and count >= self._suspect:  # the size was not the reason
            self._suspect = None
            self._calm = max(CALM, self._calm // 2)
        if count < self.limit or self.limit == self._most:
            return
        self._calls += 1
        twice = 2 * self.limit
        if twice <= self._good:  # the store was only slow for a while
            self._grow(twice)
        elif self._calls >= self._calm:
            self._grow(max(self.limit + 1, int(self.limit * STEP)))

    def refused(self, count: int) -> None:
        """Record a call that was too large or too slow, and make the next one smaller."""
        if self._recent and self._suspect is None and count <= self._good:
            # One time-out may be chance: try this size once more before believing in a limit.
            self._suspect = count
        elif self._recent:  # calls succeeded since the last refusal: a separate one
            self._suspect = None
            self._good = min(self._good, count - 1)
            self._calm *= 2
        between = count // 2 < self._recent < count
        self.limit = max(1, min(self.limit, self._recent if between else count // 2))
        self._recent = self._calls = 0

    def _grow(self, size: int) -> None:
        self.limit = min(self._most, size)
        self._calls = 0
