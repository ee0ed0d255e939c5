"""The probability that a request failed by chance. Pure arithmetic.

A server that restarts, or resets one connection in three, fails requests whatever they hold. The
more requests with other texts failed around the same time, the less a failure says about its own
texts. If no request was answered, it says nothing.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Odds", "Place", "evidence"]

AROUND = 8
"""Requests before a failure, and as many after it, whose outcomes weigh it."""

RECENT = 256
"""Requests over which the usual share of failures is counted."""

LEAST = 0.01
"""Assumed least share of requests that a server fails by chance."""

ASSUMED = 10
"""Before anything is known, a server is assumed to fail one request in this many by chance."""

RETRIED = 64
"""Resent batches over which the share of failures by chance is averaged."""

NO_ANSWER = 0.01
"""Weight of a failure among nothing but failures. Above 0, so that retrying ends."""

LONGEST = 1 << 14
"""Most requests remembered, a byte each. Older ones no longer matter."""


_ANSWERED, _FAILED, _UNKNOWN = 0, 1, 2


class Odds:
    """Which of the latest requests the server failed, in the order in which they were sent.

    The order of sending counts, not that of the answers: an answer to a request from before an
    outage says nothing about requests sent in it. Only requests that show the state of the server
    count, that is, the canary and those with texts that never failed before. Texts that failed
    before may fail again for what they are, so only their answers count, and with these the
    earlier failures, which the answers show to have been chance.
    """

    def __init__(self) -> None:
        self.newest_answer = -1  # number of the newest request that was answered with vectors
        self._begin = 0  # number of the first remembered request
        self._fates = bytearray()
        self._recovered = self._persisted = 0.0

    @property
    def count(self) -> int:
        """The number of requests that were sent."""
        return self._begin + len(self._fates)

    def sent(self) -> "Place":
        """Return the place of a request that is sent now."""
        self._fates.append(_UNKNOWN)
        if len(self._fates) > 2 * LONGEST:
            self._begin += len(self._fates) - LONGEST
            del self._fates[:-LONGEST]
        return Place(self, self.count - 1, self.newest_answer)

    def retried(self, *, recovered: bool) -> None:
        """Record whether texts that had failed were answered when they were sent again.

        Texts that failed by chance recover as often as other requests are answered. If they do
        not, they failed for what they are, and so did many of those still being retried.
        """
        self._recovered += recovered - self._recovered / RETRIED
        self._persisted += (not recovered) - self._persisted / RETRIED

    def weights(self, setbacks: Sequence[int], *, unknown: float, is_error: bool) -> list[float]:
        """Return the weight of each failure at this server as evidence against the texts."""
        fates = bytearray(self._fates)
        for place in setbacks:
            if place >= self._begin:
                fates[place - self._begin] = _UNKNOWN  # no failure counts as evidence about itself
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
            row / (row + 1),  # at the edge of an outage this says more than the average
            (sum(recent) + 1) / (len(recent) + ASSUMED),
        )
        return -math.log10(max(LEAST, share * min(1.0, chance / (1 - share))))

    def note(self, number: int, fate: int) -> None:
        """Record the outcome of a request."""
        if number >= self._begin:
            self._fates[number - self._begin] = fate


@dataclass(frozen=True, slots=True, eq=False)
class Place:
    """The place of one request among all that were sent to one server.

    Attributes:
        odds: the odds of that server.
        number: the position of the request.
        newest_answer: the position of the newest request that had been answered when it was sent.
    """

    odds: Odds
    number: int
    newest_answer: int = -1

    def answered(self) -> None:
        """Record an answer with vectors."""
        self.odds.note(self.number, _ANSWERED)
        self.odds.newest_answer = max(self.odds.newest_answer, self.number)

    def refused(self) -> None:
        """Record a refusal, which shows that the server is there."""
        self.odds.note(self.number, _ANSWERED)

    def failed(self) -> None:
        """Record that the server failed the request."""
        self.odds.note(self.number, _FAILED)

    def explained(self) -> None:
        """Record that the texts, and not the server, were the cause of the failure."""
        self.odds.note(self.number, _UNKNOWN)


def evidence(setbacks: Sequence[Place], *, unknown: float, is_error: bool) -> list[float]:
    """Return the weight of each failure as evidence against the texts.

    The weight is minus the decimal logarithm of the probability that the failure is chance, judged
    by other requests at the same server: 1 for once in 10 times, 2 for once in 100. All failures
    together are chance with a probability of 10 to the power of minus the sum.

    Args:
        setbacks: the places of the failed requests with these texts.
        unknown: the weight of a failure with no other request around it.
        is_error: whether the server answered with an error, as it does to bad texts. Broken
            connections and overload rarely have to do with texts.
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
    """Return how many failures come before the first answer."""
    return len(failed) - len(failed.lstrip(bytes([_FAILED])))
