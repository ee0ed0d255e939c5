"""Outages and slow periods of the server, all in seconds since the first request."""

import math
from collections.abc import Iterable

Outages = Iterable[tuple[float, float]]  # (start, seconds)
SlowPeriods = Iterable[tuple[float, float, float]]  # (start, seconds, factor on the latency)


def seconds_away(outages: Outages, now: float) -> float:
    """Return the seconds until the current outage is over; 0 if there is none at `now`."""
    back = now
    for start, seconds in sorted(outages):
        if start <= back < start + seconds:
            back = start + seconds
    return back - now


def seconds_to_outage(outages: Outages, now: float) -> float | None:
    """Return the seconds until the next outage starts; `None` if none is left."""
    starts = [start for start, _ in outages if start > now]
    return min(starts) - now if starts else None


def slowness(periods: SlowPeriods, now: float) -> float:
    """Return the factor on the latency; the factors of overlapping periods multiply."""
    return math.prod(factor for start, seconds, factor in periods if start <= now < start + seconds)
