"""How many documents a store takes in one call: learnt from what it refuses, pure arithmetic."""

__all__ = ["WriteSize"]

CALM = 8
"""Calls of one size that go through before a larger one is tried. The number doubles with each
refusal, so a limit that stays costs ever fewer calls."""

STEP = 1.5
"""A size that was never accepted is at most this many times the last one."""


class WriteSize:
    """The size of a store's calls.

    Args:
        most: documents in one call, at most.

    Attributes:
        limit: documents in the next call, at most.
    """

    def __init__(self, most: int) -> None:
        self.limit = most
        self._most = most
        self._good = 0  # the largest that is believed to go through, in a better moment
        self._recent = 0  # the largest that went through since the last refusal
        self._calm = CALM
        self._calls = 0  # of the limit's size since it last changed

    def accepted(self, count: int) -> None:
        """Note a call that went through."""
        self._recent = max(self._recent, count)
        self._good = max(self._good, count)
        if count < self.limit or self.limit == self._most:
            return
        self._calls += 1
        twice = 2 * self.limit
        if twice <= self._good:  # the store was only slow for a while
            self._grow(twice)
        elif self._calls >= self._calm:
            self._grow(max(self.limit + 1, int(self.limit * STEP)))

    def refused(self, count: int) -> None:
        """Note a call that was too large, or too slow; the next one is smaller."""
        if self._recent:  # not the same bad moment as the last refusal
            self._good = min(self._good, count - 1)
            self._calm *= 2
        between = count // 2 < self._recent < count
        self.limit = max(1, min(self.limit, self._recent if between else count // 2))
        self._recent = self._calls = 0

    def _grow(self, size: int) -> None:
        self.limit = min(self._most, size)
        self._calls = 0
