"""How likely it is that a request failed by chance: pure arithmetic.

A server that restarts, or resets one connection in three, fails requests whatever is in them. So a
failure says the less about a text the more requests of others failed around it, and nothing at all
where nobody was answered.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Odds", "Place", "evidence"]

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

LONGEST = 1 << 14
"""Requests that are remembered at most, a byte each. Older ones decide nothing any more."""


_ANSWERED, _FAILED, _UNKNOWN = 0, 1, 2


class Odds:
    """Which of the latest requests the server failed, in the order in which they were sent.

    An answer to what was sent before an outage says nothing of what was sent in it, so the order of
    sending counts, and not that of the answers. Only requests that tell of the server count: those
    with texts that never failed before, and the canary. What failed before may fail for its texts,
    so only its answer counts, and with it the failures that the answer shows to have been chance.
    """

    def __init__(self) -> None:
        self._begin = 0  # the place of the first that is remembered
        self._fates = bytearray()
        self._recovered = self._persisted = 0.0

    def sent(self) -> "Place":
        """Return the place of a request that is sent now."""
        self._fates.append(_UNKNOWN)
        if len(self._fates) > 2 * LONGEST:
            self._begin += len(self._fates) - LONGEST
            del self._fates[:-LONGEST]
        return Place(self, self._begin + len(self._fates) - 1)

    def retried(self, *, recovered: bool) -> None:
        """Note whether texts that had met an error were answered when they were sent again.

        What fails by chance recovers as often as other requests are answered. What does not, though
        others are, failed for its texts; and so did many of those that are still under way.
        """
        self._recovered += recovered - self._recovered / RETRIED
        self._persisted += (not recovered) - self._persisted / RETRIED

    def weights(self, setbacks: Sequence[int], *, unknown: float, is_error: bool) -> list[float]:
        """Return how much each failure at this server speaks against the texts; see `evidence`."""
        fates = bytearray(self._fates)
        for place in setbacks:
            if place >= self._begin:
                fates[place - self._begin] = _UNKNOWN  # they do not speak of themselves
        chance = 1.0
        if is_error:
            chance = (self._recovered + 1) / (self._recovered + self._persisted + 1)
        return [self._weight(fates, max(0, at - self._begin), unknown, chance) for at in setbacks]

    @staticmethod
    def _weight(fates: bytearray, at: int, unknown: float, chance: float) -> float:
        before = _known(fates[max(0, at - RECENT) : at])[-AROUND:][::-1]
        after = _known(fates[at : at + RECENT])[:AROUND]
        around = len(before) + len(after)
        if not around:
            return unknown
        row = _leading(before) + _leading(after)
        if row == around:
            return NO_ANSWER
        recent = _known(fates[-2 * RECENT :])[-RECENT:]
        share = max(
            (sum(before) + sum(after)) / around,
            row / (row + 1),  # at the edge of an outage this tells more than the average
            (sum(recent) + 1) / (len(recent) + ASSUMED),
        )
        return -math.log10(max(LEAST, share * min(1.0, chance / (1 - share))))

    def note(self, number: int, fate: int) -> None:
        """Note what became of a request."""
        if number >= self._begin:
            self._fates[number - self._begin] = fate


@dataclass(frozen=True, slots=True, eq=False)
class Place:
    """The place of one request among all that were sent to one server.

    Attributes:
        odds: of the server.
        number: of the request.
    """

    odds: Odds
    number: int

    def answered(self) -> None:
        """Note an answer."""
        self.odds.note(self.number, _ANSWERED)

    def failed(self) -> None:
        """Note that the server failed the request."""
        self.odds.note(self.number, _FAILED)

    def explained(self) -> None:
        """Note that it was the texts, and not the server, that failed the request."""
        self.odds.note(self.number, _UNKNOWN)


def evidence(setbacks: Sequence[Place], *, unknown: float, is_error: bool) -> list[float]:
    """Return how much each failure speaks against the texts, by the fate of others at its server.

    It is the logarithm of how seldom chance explains it: 1 for once in 10 times, 2 for once in 100.
    So chance explains all of them together once in 10 to the power of the sum.

    Args:
        setbacks: the places of the requests with these texts that failed.
        unknown: what counts for a failure with no other request around it.
        is_error: the server answered with an error, as it does to bad texts. What cannot be
            delivered, and an overloaded server, have nothing to do with texts most often.
    """
    weights: dict[Place, float] = {}
    for odds in {place.odds: None for place in setbacks}:
        here = [place for place in setbacks if place.odds is odds]
        numbers = [place.number for place in here]
        weights |= zip(here, odds.weights(numbers, unknown=unknown, is_error=is_error), strict=True)
    return [weights[place] for place in setbacks]


def _known(fates: bytearray) -> bytes:
    return bytes(fates).translate(None, bytes([_UNKNOWN]))


def _leading(failed: bytes) -> int:
    """Return how many failures there are before the first answer."""
    return len(failed) - len(failed.lstrip(bytes([_FAILED])))
