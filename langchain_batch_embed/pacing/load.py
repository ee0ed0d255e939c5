"""Decides whether failures of any kind come from too many requests. Pure arithmetic.

A server or a gateway that takes no more than some number of requests at a time, or in a second, may
answer the others with a 500 or a 502, or close their connections. None of that says that there were
too many. But these failures come at once, much sooner than answers, and for most of the requests,
while others are answered. A text that breaks the server fails one request, and a server that is
away answers none.
"""

from collections import deque

__all__ = ["Load"]

WINDOW = 16
"""Latest requests that are compared."""

MOST = 8
"""If more of them than this fail at once, they are too many. If a tenth of all requests fails by
chance, 9 of 16 fail in 6 of a million windows (binomial distribution)."""

FAST = 0.5
"""A failure comes at once if it takes less than this share of the usual seconds for an answer."""


class Load:
    """The latest requests of one server.

    Args:
        most: if more of `WINDOW` requests than this fail at once, they are too many.

    Attributes:
        is_cause: whether failures that come at once mean that there are too many requests.
        has_failed: whether any request has failed so; before that, `answered` need not be called.
    """

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self.is_cause = self.has_failed = False
        self._latest: deque[bool] = deque(maxlen=WINDOW)  # whether each has failed at once

    def answered(self) -> None:
        """Record an answer."""
        self._latest.append(False)
        if self.is_cause and not any(self._latest):
            self.is_cause = False

    def failed(self, seconds: float, *, usual: float, is_plain: bool) -> bool:
        """Record a failure that may mean anything; return whether the load is its cause.

        Args:
            seconds: how long it took.
            usual: how long answers usually take, in seconds; 0 if none has come yet.
            is_plain: whether neither its texts nor its size are likely to be the cause: it is no
                part of a batch that has failed before, and requests as large have been answered.
                Other failures count only if the load is known to be the cause.
        """
        if seconds >= FAST * usual:
            return False
        if is_plain or self.is_cause:
            self.has_failed = True
            self._latest.append(True)
        self.is_cause |= self._most < sum(self._latest) < len(self._latest)
        return self.is_cause
