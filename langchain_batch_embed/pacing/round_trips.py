"""The round trips of some requests, and what they have in common: pure arithmetic.

They are compared by the median of their logarithms, as one stalled answer does not change it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median, pstdev
from typing import NamedTuple

__all__ = ["Round", "Trip", "came_together"]

OF_THE_MEDIAN = 1.25
"""The standard error of a median is this many times that of a mean, where values are normal."""

TOGETHER = 2.0
"""Answers count as together if this many of them came in the time that the first one took."""


class Trip(NamedTuple):
    """A round trip: `seconds` for this much `work`, in tokens, which `end`ed at this time."""

    seconds: float
    work: float
    end: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """Round trips with one number in flight.

    Attributes:
        number: in flight.
        middle: the median of the round trips' logarithms.
        work: the logarithm of the median work of a request.
        pace: the median of the logarithms of round trips for their work.
        error: the standard error of `middle`.
        rate: work per second.
    """

    number: float
    middle: float
    work: float
    pace: float
    error: float
    rate: float

    @classmethod
    def of(cls, trips: Sequence[Trip], *, number: float) -> "Round":
        """Return what some round trips, at least one, have in common.

        Args:
            trips: with about this many in flight.
            number: in flight.
        """
        logs = [math.log(trip.seconds) for trip in trips]
        return cls(
            number=number,
            middle=median(logs),
            work=math.log(median(trip.work for trip in trips)),
            pace=median(math.log(trip.seconds / trip.work) for trip in trips),
            error=OF_THE_MEDIAN * pstdev(logs) / math.sqrt(len(logs)),
            rate=_rate(trips),
        )


def came_together(trips: Sequence[Trip]) -> bool:
    """Tell whether answers came at about one time, and not one after the other, as in a line."""
    shortest = min(trip.seconds for trip in trips)
    return (len(trips) - 1) * shortest > TOGETHER * _spread(trips)


def _rate(trips: Sequence[Trip]) -> float:
    """Return the work answered per second between the first and the last answer of a round."""
    elapsed = _spread(trips)
    work = sum(trip.work for trip in trips) * (len(trips) - 1) / len(trips)
    return work / elapsed if elapsed > 0 else math.inf


def _spread(trips: Sequence[Trip]) -> float:
    ends = [trip.end for trip in trips]
    return max(ends) - min(ends)
