"""What a quota says about the size of batches: pure arithmetic.

Where requests are what is short, batches are as large as they can be. Where nobody tells which
quota it is, their size is also how that is found out (`WhichQuota`).
"""

import math

from langchain_batch_embed.pacing.meters import Meters
from langchain_batch_embed.pacing.which_quota import SLOWEST, WhichQuota

__all__ = ["BatchSizes"]

PLENTY_SECONDS = 15.0
"""As many requests as a quota gives in this time are not missed. A quota that the server tells may
hold a minute's worth, and then many requests cost no time."""

USED_UP_SECONDS = 1.0
"""The same for a quota that was measured: it is used up, so each request waits for its turn."""


class BatchSizes:
    """How large batches may be, and whether there should be few of them.

    Args:
        meters: what is counted of the quota.
        which: what is known of which quota it is.
    """

    def __init__(self, meters: Meters, which: WhichQuota) -> None:
        self._tokens = meters.tokens
        self._requests = meters.requests
        self._which = which

    @property
    def is_dry(self) -> bool:
        """Whether a quota that nobody tells was used up for a while, and no rate is known yet."""
        which = self._which
        is_unknown = self._tokens.rate is None and self._requests.rate is None
        return which.is_dry and which.kind is None and is_unknown

    @property
    def are_for_requests(self) -> bool:
        """Whether a quota that nobody tells is one of requests: batches need not be small."""
        return self._which.kind == "requests"

    def explains(self, charge: int) -> bool:
        """Tell whether a known quota lets a request of this many tokens through some time."""
        return self._tokens.is_known and charge <= self._tokens.capacity

    def bounds(self) -> tuple[float, float]:
        """Return what shapes batches: `largest` and `spare_requests`."""
        return self.largest(), self.spare_requests()

    def largest(self) -> float:
        """Return the most tokens that one request may be charged: the whole bucket."""
        if self._are_measured or self.are_for_requests:
            return math.inf if self._tokens.is_known else self._which.most
        if self.is_dry:
            return self._which.most_when_dry
        return math.inf if self._tokens.is_measured else self._tokens.capacity

    def spare_requests(self) -> float:
        """Return how many requests may be sent without a thought; `inf`: any number."""
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
        """Whether both rates are measured. Only one of them is real."""
        return self._tokens.is_measured and self._requests.is_measured
