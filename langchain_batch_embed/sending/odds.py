"""How likely it is that a request failed by chance: pure arithmetic.

A server that restarts, or resets one connection in three, fails requests whatever is in them. So a
failure says the less about a text the more requests of others failed around it, and nothing at all
where nobody was answered.
"""

import math
from collections.abc import Sequence

__all__ = ["Odds"]

AROUND = 8
"""Requests before a failure, and as many after it, by whose fate it is judged."""

RECENT = 256
"""Requests that show how many a server fails where none of those around failed."""

LEAST = 0.01
"""A server is taken to fail one request in 100 by chance, where it fails fewer."""

ASSUMED = 10
"""As long as nothing is known, it is taken to fail one in this many."""

RETRIED = 64
"""Batches that were sent again by which it is judged how many of the failures are chance."""

NO_ANSWER = 0.01
"""What a failure counts for amid failures alone. Above 0, so that whatever is tried ends."""

LONGEST = 1 << 20
"""Requests that are remembered at most, a byte each. Older ones decide nothing any more."""


class Odds:
    """Which of the latest requests the server failed.

    Only requests that tell of the server count: those with texts that never failed before, and the
    canary. What failed before may fail for its texts, so only its answer counts, and with it the
    failures that the answer shows to have been chance.

    Attributes:
        count: requests so far: the place of what happens next.
    """

    def __init__(self) -> None:
        self.count = 0
        self._failed = bytearray()  # 1: failed; the end of all
        self._recovered = self._persisted = 0.0

    def answered(self) -> None:
        """Note an answer."""
        self._note(b"\0")

    def failed(self, times: int = 1) -> None:
        """Note that the server failed a request, this often."""
        self._note(b"\1" * times)

    def explained(self, at: int) -> None:
        """Note that it was the texts, and not the server, that failed the request before `at`."""
        place = at - 1 - (self.count - len(self._failed))
        if place >= 0:
            self._failed[place] = 0

    def retried(self, *, recovered: bool) -> None:
        """Note whether texts that had met an error were answered when they were sent again.

        What fails by chance recovers as often as other requests are answered. What does not, though
        others are, failed for its texts; and so did many of those that are still under way.
        """
        self._recovered += recovered - self._recovered / RETRIED
        self._persisted += (not recovered) - self._persisted / RETRIED

    def evidence(self, setbacks: Sequence[int], *, unknown: float, is_error: bool) -> list[float]:
        """Return how much each failure speaks against the texts.

        It is the logarithm of how seldom chance explains it: 1 for once in 10 times, 2 for once in
        100. So chance explains all of them together once in 10 to the power of the sum.

        Args:
            setbacks: the value of `count` after each failure of the texts.
            unknown: what counts for a failure with no other request around it.
            is_error: the server answered with an error, as it does to bad texts. What cannot be
                delivered, and an overloaded server, have nothing to do with texts most often.
        """
        own = setbacks[0] - 1 if setbacks else -1
        chance = 1.0
        if is_error:
            chance = (self._recovered + 1) / (self._recovered + self._persisted + 1)
        return [self._weight(at, own, unknown, chance) for at in setbacks]

    def _weight(self, at: int, own: int, unknown: float, chance: float) -> float:
        failed, begin = self._failed, self.count - len(self._failed)
        # Two more, as one of each may be left out.
        first, last = max(begin, at - AROUND - 1), min(self.count, at + AROUND + 1)
        before = [failed[i - begin] for i in range(at - 1, first - 1, -1) if i != own][:AROUND]
        after = [failed[i - begin] for i in range(max(at, begin), last) if i != own][:AROUND]
        around = len(before) + len(after)
        if not around:
            return unknown
        row = _leading(before) + _leading(after)
        if row == around:
            return NO_ANSWER
        is_known = own >= begin
        recent = failed[-RECENT:]
        all_failed = sum(recent) - (is_known and own - begin >= len(failed) - RECENT)
        share = max(
            (sum(before) + sum(after)) / around,
            row / (row + 1),  # at the edge of an outage this tells more than the average
            (all_failed + 1) / (len(recent) + ASSUMED),
        )
        return -math.log10(max(LEAST, share * min(1.0, chance / (1 - share))))

    def _note(self, failed: bytes) -> None:
        self._failed += failed
        self.count += len(failed)
        if len(self._failed) > 2 * LONGEST:
            del self._failed[:-LONGEST]


def _leading(failed: Sequence[int]) -> int:
    """Return how many failures there are before the first answer."""
    return next((i for i, each in enumerate(failed) if not each), len(failed))
