"""How many requests may be in flight: pure arithmetic.

The window starts small, multiplies with the answers, is halved when the server is overloaded, and
grows again by one a round. Where the server answers at once it is narrow.
"""

import math

from langchain_batch_embed.limits import FIRST_REQUESTS
from langchain_batch_embed.nearness import NEAR_USEFUL, Nearness

__all__ = ["Window"]

OPENING = 3
"""As long as no answer has told the quota, each one opens so many more places: four times as many
after each round trip, so 16 become 64, and then 256."""


class Window:
    """How many requests may be in flight, between 1 and `most`.

    Attributes:
        most: the ceiling.
        size: how many the server bears, as far as is known.
        nearness: where the server is.
    """

    def __init__(self, most: int, *, first: int = FIRST_REQUESTS) -> None:
        self.most = most
        self.size = float(min(first, most))
        self.nearness = Nearness()
        self._opens = True
        self._cut = -math.inf  # when it was halved last

    def limit(self) -> int:
        """Return how many may be in flight now."""
        return int(min(self.size, self.useful))

    @property
    def is_narrowed(self) -> bool:
        """Whether fewer are useful than may be in flight."""
        return self.useful < self.most

    @property
    def useful(self) -> int:
        """How many keep this process busy.

        Where answers come at once, those beyond only wait for it, so that fewer, larger requests
        are better.
        """
        return NEAR_USEFUL if self.nearness.is_near else self.most

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
