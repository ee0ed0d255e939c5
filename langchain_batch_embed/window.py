"""How many requests may be in flight: pure arithmetic.

The window starts small, multiplies with the answers, is halved when the server is overloaded, and
grows again by one a round. Where the server answers at once it is narrow.
"""

import math
from statistics import median

from langchain_batch_embed.limits import FIRST_REQUESTS

__all__ = ["Window"]

OPENING = 3
"""As long as no answer has told the quota, each one opens so many more places: four times as many
after each round trip, which is 16, 64, 256."""

BUSY = 0.7
"""Processor seconds a second from which on this process is what everything waits for: one of its
threads at a time runs Python, so it does not get far beyond 1. `tests.benchmarks.gateway` measures
it: 0.9 to 1.0 next door, 0.2 to 0.5 far away, where many first requests are sent at once."""

IDLE = 0.4
"""Share below which answers are waited for, so that the server is not near."""

FIRST_ANSWERS = 8
"""Answers by which it is found out whether the server is near, and over which shares are averaged.

Later on the making of lists keeps this process as busy, however far the server is."""

NEAR_USEFUL = 3
"""Requests in flight at a server that answers at once: one is sent, one read, one at the server."""


class Window:
    """How many requests may be in flight, between 1 and `most`.

    Attributes:
        most: the ceiling.
        size: how many the server bears, as far as is known.
        useful: how many it takes to keep this process busy. Where answers come at once, those
            beyond only wait for it, so that fewer, larger requests are better.
    """

    def __init__(self, most: int, *, first: int = FIRST_REQUESTS) -> None:
        self.most = most
        self.size = float(min(first, most))
        self.useful = most
        self._opens = True
        self._cut = -math.inf  # when it was halved last
        self._first_shares: list[float] = []  # of a processor core that we used
        self._busy = 0.0  # the same, averaged over the last answers

    def limit(self) -> int:
        """Return how many may be in flight now."""
        return int(min(self.size, self.useful))

    @property
    def is_near(self) -> bool:
        """Whether the server answers at once."""
        return self.useful < self.most

    def opening(self) -> int:
        """Return how many requests are sent to find out about the quota; 0: it is known."""
        return int(self.size) if self._opens else 0

    def open(self) -> None:
        """Go to the full size at once: the quota is known, so there is nothing to find out."""
        if self._opens:
            self.size, self._opens = float(self.most), False

    def succeeded(self) -> None:
        """Grow: by `OPENING` an answer at first, later by one for each window of answers."""
        self.size = min(self.most, self.size + (OPENING if self._opens else 1 / self.size))

    def overloaded(self, sent: float, now: float) -> None:
        """Halve, once for all requests that were in flight together."""
        if sent > self._cut:
            self.size, self._opens, self._cut = max(1.0, self.size / 2), False, now

    def worked(self, share: float) -> None:
        """Note the share of a processor core that we used while an answered request was in flight.

        From the first answers it is told whether the server is near: then we were busy with
        sending and reading all the time, and never waited.
        """
        if len(self._first_shares) < FIRST_ANSWERS:
            self._first_shares.append(share)
            self._busy = median(self._first_shares)  # one answer may say little of the others
            if len(self._first_shares) == FIRST_ANSWERS and self._busy > BUSY:
                self.useful = min(NEAR_USEFUL, self.most)
            return
        self._busy += (share - self._busy) / FIRST_ANSWERS
        if self._busy < IDLE:
            self.useful = self.most
