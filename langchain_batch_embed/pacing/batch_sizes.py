"""How the quota shapes batches. Pure arithmetic.

Where requests are scarce, batches are as large as possible. While it is not known which quota a
server enforces, the size of batches is also how to find out (`WhichQuota`).
"""

import math

from langchain_batch_embed.pacing.meters import Meters
from langchain_batch_embed.pacing.which_quota import SLOWEST, WhichQuota

__all__ = ["BatchSizes"]

PLENTY_SECONDS = 15.0
"""Requests are plentiful up to what the quota allows in this many seconds. A bucket that the server
announces may hold a minute's worth, so that many requests cost no time."""

USED_UP_SECONDS = 1.0
"""The same for a measured quota, which is used up: each request has to wait for its turn."""


class BatchSizes:
    """How large batches may be, and how many of them.

    Args:
        meters: the buckets of both quotas.
        which: which quota a server without headers enforces, as far as known.
    """

    def __init__(self, meters: Meters, which: WhichQuota) -> None:
        self._tokens = meters.tokens
        self._requests = meters.requests
        self._which = which

    @property
    def is_dry(self) -> bool:
        """Whether a hidden quota was used up for a while, and no rate is known yet."""
        which = self._which
        is_unknown = self._tokens.rate is None and self._requests.rate is None
        return which.is_dry and which.kind is None and is_unknown

    @property
    def are_for_requests(self) -> bool:
        """Whether a hidden quota counts requests, so that batches should be large."""
        return self._which.kind == "requests"

    def explains(self, charge: int) -> bool:
        """Return whether a known quota accepts a request of this many tokens at some time."""
        return self._tokens.is_known and charge <= self._tokens.capacity

    def bounds(self) -> tuple[float, float]:
        """Return `largest` and `spare_requests`."""
        return self.largest(), self.spare_requests()

    def largest(self) -> float:
        """Return the most tokens that one request may be charged."""
        if self._are_measured or self.are_for_requests:
            return math.inf if self._tokens.is_known else self._which.most
        if self.is_dry:
            return self._which.most_when_dry
        return math.inf if self._tokens.is_measured else self._tokens.capacity

    def spare_requests(self) -> float:
        """Return how many requests the quota has to spare; `inf` if any number."""
        rate = self._requests.rate
        if self.is_dry:
            return PLENTY_SECONDS / SLOWEST
        if self.are_for_requests and not self._requests.is_known:
            return USED_UP_SECONDS * (rate or 1.0)
        if self._requests.is_measured and not (self._which.kind is None and self._are_measured):
            return math.inf
        return math.inf if rate is None else PLENTY_SECONDS * rate

    @property
    def _are_measured(self) -> bool:
        """Whether both rates are measured, of which only one is real."""
        return self._tokens.is_measured and self._requests.is_measured
