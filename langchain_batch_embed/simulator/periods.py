"""When a server is away, and when it is slow; all times in seconds since the first request."""

import math
from collections.abc import Iterable

Outages = Iterable[tuple[float, float]]  # (start, seconds)
SlowPeriods = Iterable[tuple[float, float, float]]  # (start, seconds, factor on the latency)


def seconds_away(outages: Outages, now: float) -> float:
    """Return how long the server stays away from now on; 0 where it is there."""
    back = now
    for start, seconds in sorted(outages):
        if start <= back < start + seconds:
            back = start + seconds
    return back - now


def seconds_to_outage(outages: Outages, now: float) -> float | None:
    """Return how long it is to the next start of an outage; None where none is left."""
    starts = [start for start, _ in outages if start > now]
    return min(starts) - now if starts else None


def slowness(periods: SlowPeriods, now: float) -> float:
    """Return the factor on the latency; periods at the same time multiply."""
    return math.prod(factor for start, seconds, factor in periods if start <= now < start + seconds)
