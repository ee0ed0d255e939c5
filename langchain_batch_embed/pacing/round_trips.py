"""Statistics of round trips. Pure arithmetic.

Round trips are compared by the median of their logarithms, which one stalled answer hardly changes.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean, median, pstdev
from typing import NamedTuple

__all__ = ["Round", "Trip", "came_one_by_one", "came_together"]

OF_THE_MEDIAN = 1.25
"""The standard error of a median is this many times that of a mean, where values are normal."""

TOGETHER = 2.0
"""Answers came together if this many of them arrived in the time of the shortest round trip."""

ONE_BY_ONE = 0.5
"""Answers came one by one if all steps from one round trip to the next longer one exceed this share
of their mean, and of the shortest round trip. Eight round trips of a hosted API, whose logarithms
vary by 0.85, look like that once in 300 times, and four of them once in ten times."""


class Trip(NamedTuple):
    """A round trip of `seconds` for `work` tokens, which ended at the time `end`."""

    seconds: float
    work: float
    end: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """Statistics of the round trips with one number of requests in flight.

    Attributes:
        number: requests in flight.
        middle: the median of the round trips' logarithms.
        work: the logarithm of the median work of a request.
        error: the standard error of `middle`.
        rate: work per second.
    """

    number: float
    middle: float
    work: float
    error: float
    rate: float

    @classmethod
    def of(cls, trips: Sequence[Trip], *, number: float) -> "Round":
        """Return the statistics of some round trips, at least one.

        Args:
            trips: the round trips.
            number: requests in flight during them.
        """
        logs = [math.log(trip.seconds) for trip in trips]
        return cls(
            number=number,
            middle=median(logs),
            work=math.log(median(trip.work for trip in trips)),
            error=OF_THE_MEDIAN * pstdev(logs) / math.sqrt(len(logs)),
            rate=_rate(trips),
        )


def came_together(trips: Sequence[Trip]) -> bool:
    """Return whether answers came at about the same time, and not one by one, as from a queue."""
    shortest = min(trip.seconds for trip in trips)
    return (len(trips) - 1) * shortest > TOGETHER * _spread(trips)


def came_one_by_one(trips: Sequence[Trip]) -> bool:
    """Return whether round trips grow in even steps, none of them shorter than a round trip.

    That is how a server answers requests that were sent together if it works on one at a time, and
    how a gateway does that delays requests to keep a rate.
    """
    seconds = sorted(trip.seconds for trip in trips)
    steps = [longer - shorter for shorter, longer in pairwise(seconds)]
    return min(steps) > ONE_BY_ONE * max(seconds[0], fmean(steps))


def _rate(trips: Sequence[Trip]) -> float:
    """Return the work answered per second between the first and the last answer of a round."""
    elapsed = _spread(trips)
    work = sum(trip.work for trip in trips) * (len(trips) - 1) / len(trips)
    return work / elapsed if elapsed > 0 else math.inf


def _spread(trips: Sequence[Trip]) -> float:
    ends = [trip.end for trip in trips]
    return max(ends) - min(ends)
