"""The time of a client that knows everything, as a yardstick for a run on a cell.

Quotas, alone and combined with outages, are exact but for rounding to whole requests. In these
cases the time is only approximate, and `Ideal.approximate` says so:

- texts that are refused or fail: the ideal knows them, and pays nothing to find them;
- outages: no work is done in them. That is too long where the server still works on earlier
  requests before a 503, and too short where a reset breaks what was in flight;
- random latency: the time uses averages over the requests, from which a few requests may differ.
  The last request is a typical one; `Ideal.tail` is the typical excess of the slowest of those in
  flight.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Final

import numpy as np
from numpy.typing import ArrayLike

from .grid import Cell, bad_luck_at
from .server import (
    NETWORK_SHARE,
    SECONDS_PER_TOKEN,
    SIGMA,
    SLOPE_SCALE,
    STALL_FACTOR,
    STALLED_SHARE,
    capacity,
    phase,
)

__all__ = ["Ideal", "ideal", "ideal_seconds", "staged", "texts_for"]

# A lognormal's mean is exp(sigma**2 / 2) times its median.
_MEAN_FACTOR: Final = math.exp(SIGMA**2 / 2) * (1 + STALLED_SHARE * (STALL_FACTOR - 1))
_MEAN_STALL: Final = 1 + STALLED_SHARE * (STALL_FACTOR - 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ideal:
    """The ideal of one run and its parts, all in seconds except `requests`.

    Attributes:
        seconds: from the first request to the last answer.
        quota: until the limiter has let in the last token or request.
        work: until the server has computed everything, if no quota delays it.
        last: typical latency of one request, the least that any run takes.
        tail: typical time by which the slowest of the last requests in flight exceeds `last`; not
            part of `seconds`, as hedging can avoid it.
        requests: number of requests sent.
        approximate: why `seconds` is only approximate, or empty if it is exact.
    """

    seconds: float
    quota: float
    work: float
    last: float
    tail: float
    requests: int
    approximate: str


def ideal_seconds(
    cell: Cell, charges: ArrayLike, max_workers: int = 128, *, seed: int = 0
) -> float:
    """Return the seconds of an ideal run; see `ideal`."""
    return ideal(cell, charges, max_workers, seed=seed).seconds


def ideal(
    cell: Cell,
    charges: ArrayLike,
    max_workers: int = 128,
    *,
    seed: int = 0,
    max_texts: int = 2048,
    max_tokens: int = 300_000,
) -> Ideal:
    """Compute the ideal run of a client that knows the cell.

    Args:
        cell: the server.
        charges: charge of each text, shape `(n,)`; the true tokens are assumed to be equal to it.
        max_workers: most requests in flight.
        seed: seed of the server, whose fixed windows start at a random phase.
        max_texts: most texts that the client puts in a request.
        max_tokens: most tokens that it puts in a request.
    """
    amounts = np.asarray(charges, dtype=np.float64)
    texts, tokens = len(amounts), float(amounts.sum())
    if texts == 0:
        return Ideal(
            seconds=0.0, quota=0.0, work=0.0, last=0.0, tail=0.0, requests=0, approximate=""
        )
    most = _most_tokens(cell, max_tokens)
    fewest = _fewest(cell, texts, tokens, most, max_texts)
    # More requests pay only if they run in parallel, since each has its own overhead.
    at_once = min(max_workers, cell.refuses_above or max_workers)
    parallel = min(at_once, cell.computed_at_once or at_once)
    requests = max(fewest, min(parallel, texts))
    if cell.requests_per_minute is not None:
        # Parallel requests pay only while the quota lets them in at once.
        requests = max(fewest, min(requests, int(capacity(cell.requests_per_minute, cell))))

    last = _latency(cell, tokens / requests, texts / requests)
    quota = _quota(cell, tokens, float(amounts.max()), requests, seed)
    work = _work(cell, tokens, texts, requests, parallel=parallel, at_once=at_once)
    # With a quota of tokens the last request may be arbitrarily small.
    small = _latency(cell, 0.0, 1.0) if cell.requests_per_minute is None else last
    network = NETWORK_SHARE * cell.latency / 2  # it was on its way before the quota let it in
    seconds = max(
        _ends(cell, max(quota, network), small - network),
        _through(cell, 0.0, max(work, last)),
        _ends(cell, 0.0, last),
    )
    return Ideal(
        seconds=seconds,
        quota=quota,
        work=work,
        last=last,
        tail=_tail(cell, last, min(requests, parallel)),
        requests=requests,
        approximate=_approximate(cell),
    )


def texts_for(
    cell: Cell, charge: int, seconds: float, *, fewest: int = 500, most: int = 100_000
) -> int:
    """Return how many texts of this charge keep an ideal client busy for this many seconds."""
    calm = replace(cell, outages=(), slow=None)
    low, high = fewest, most
    while low < high:
        middle = (low + high) // 2
        if ideal_seconds(calm, np.full(middle, charge)) < seconds:
            low = middle + 1
        else:
            high = middle
    return low


def staged(cell: Cell, charges: ArrayLike, share: float = 0.3) -> Cell:
    """Return the cell with its bad luck moved to a share of the ideal run without bad luck."""
    calm = replace(cell, outages=(), slow=None)
    return bad_luck_at(cell, share * ideal_seconds(calm, charges))


def _most_tokens(cell: Cell, max_tokens: int) -> float:
    """Return the most tokens that a request may have: the smallest of all limits."""
    most = float(max_tokens)
    if cell.max_bytes is not None:
        most = min(most, cell.max_bytes / 4)
    if cell.tokens_per_minute is not None:
        most = min(most, capacity(cell.tokens_per_minute, cell))
    return most


def _fewest(cell: Cell, texts: int, tokens: float, most: float, max_texts: int) -> int:
    """Return the fewest requests that hold everything, assuming that texts could be cut."""
    return max(
        math.ceil(texts / min(max_texts, cell.max_texts or max_texts)), math.ceil(tokens / most)
    )


def _latency(cell: Cell, tokens: float, texts: float) -> float:
    """Return the median latency of a request."""
    network = NETWORK_SHARE * cell.latency
    return network + _computing(cell, tokens, texts)


def _computing(cell: Cell, tokens: float, texts: float) -> float:
    """Return the median seconds for computing a request."""
    if cell.seconds_per_text is not None:
        return cell.seconds_per_text * texts
    return cell.latency * (1 - NETWORK_SHARE + SECONDS_PER_TOKEN / SLOPE_SCALE * tokens)


def _tail(cell: Cell, last: float, requests: int) -> float:
    """Return the median excess of the slowest of several requests over a typical one."""
    if cell.seconds_per_text is not None:
        return 0.0  # only the network is random
    # The probability that all are below x is that of one, to the power of their number.
    wanted, normal = 0.5 ** (1 / requests), NormalDist(0.0, SIGMA)
    low, high = 0.0, math.log(1e6)
    while high - low > 1e-6:
        middle = (low + high) / 2
        stalled = normal.cdf(middle - math.log(STALL_FACTOR))
        below = (1 - STALLED_SHARE) * normal.cdf(middle) + STALLED_SHARE * stalled
        low, high = (middle, high) if below < wanted else (low, middle)
    return last * (math.exp(low) - 1)


def _quota(cell: Cell, tokens: float, largest: float, requests: int, seed: int) -> float:
    """Return when the quotas have let in everything: the burst at once, the rest at the rate."""
    ends = [0.0]
    amounts = (
        (cell.requests_per_minute, float(requests), 1.0),
        (cell.tokens_per_minute, tokens, largest),
    )
    for limit, amount, piece in amounts:
        if limit is None:
            continue
        holds = capacity(limit, cell)
        if piece > holds:
            return math.inf  # a text above the whole quota is never let in
        if cell.limiter == "bucket":
            ends.append(_bucket(cell, amount, holds, limit / 60))
        else:
            ends.append(_windows(cell, amount, holds, phase(cell, seed)))
    return max(ends)


def _bucket(cell: Cell, amount: float, holds: float, rate: float) -> float:
    """Return when a bucket has let in an amount; it refills during an outage up to its capacity."""
    left, have = amount, holds
    for start, end in _up(cell):
        ready = start + max(0.0, left - have) / rate
        if ready < end:
            return ready
        left -= have + rate * (end - start)
        outage = next((o.length for o in cell.outages if o.start == end), 0.0)
        have = min(holds, rate * outage)
    return math.inf


def _windows(cell: Cell, amount: float, holds: float, phase: float) -> float:
    """Return when fixed windows have let in an amount, each at its first moment of service."""
    length = cell.limiter_seconds
    ups = list(_up(cell))
    left, window = amount, 0
    while True:
        opens = max(0.0, window * length - phase)
        closes = (window + 1) * length - phase
        serves = next((max(opens, a) for a, b in ups if max(opens, a) < min(closes, b)), None)
        if serves is not None:
            left -= holds
            if left <= 0:
                return serves
        window += 1


def _work(
    cell: Cell, tokens: float, texts: int, requests: int, *, parallel: int, at_once: int
) -> float:
    """Return the seconds of the work itself, with average luck."""
    if cell.seconds_per_text is None:
        computing = requests * _computing(cell, tokens / requests, 0.0) * _MEAN_FACTOR
        network = NETWORK_SHARE * cell.latency * _MEAN_FACTOR
    else:
        computing = texts * cell.seconds_per_text * _MEAN_STALL
        network = NETWORK_SHARE * cell.latency
    # The server computes this many at once, and is busy all the time.
    by_server = computing / min(parallel, requests)
    # The client has this many in flight, and each also spends time in the network.
    by_client = (computing + requests * network) / min(at_once, requests)
    if cell.refuses_above is not None and at_once == cell.refuses_above:
        by_client = by_server  # the next request can arrive as the previous one leaves
    if requests <= parallel:
        # All run at once: the typical one counts, and the slowest is in `tail`.
        return 0.0
    return max(by_server + NETWORK_SHARE * cell.latency, by_client)


def _up(cell: Cell) -> Iterator[tuple[float, float]]:
    """Yield the periods between the outages."""
    start = 0.0
    for outage in cell.outages:
        if outage.start > start:
            yield start, outage.start
        start = outage.start + outage.length
    yield start, math.inf


def _through(cell: Cell, start: float, seconds: float) -> float:
    """Return when this much work is done; outages stop it, and a slow period slows it down."""
    left = seconds
    for begin, end in _up(cell):
        now = max(begin, start)
        for until, speed in _speeds(cell, now, end):
            if left <= (until - now) * speed:
                return now + left / speed
            left -= (until - now) * speed
            now = until
    return math.inf


def _speeds(cell: Cell, start: float, end: float) -> Sequence[tuple[float, float]]:
    """Return the parts of a period with the speed of each, as (until, speed)."""
    if cell.slow is None:
        return [(end, 1.0)]
    slow, over = cell.slow
    parts = ((slow, 1.0), (over, 1 / cell.slow_factor), (math.inf, 1.0))
    return [(min(until, end), speed) for until, speed in parts if until > start]


def _ends(cell: Cell, start: float, seconds: float) -> float:
    """Return the earliest end of one request that no reset breaks."""
    for begin, end in _up(cell):
        now = max(begin, start)
        if cell.slow is not None and cell.slow[0] <= now < cell.slow[1]:
            # It is either slow from the start, or sent when the slow period is over.
            done = min(now + seconds * cell.slow_factor, cell.slow[1] + seconds)
        else:
            done = now + seconds
        if now < end and (done <= end or all(o.kind == "503" for o in cell.outages)):
            return done
    return math.inf


def _approximate(cell: Cell) -> str:
    reasons = []
    if cell.refused_rows or cell.failing_rows:
        reasons.append("finding the bad texts is free")
    if any(outage.kind == "reset" for outage in cell.outages):
        reasons.append("no work is lost in a reset")
    if any(outage.kind == "503" for outage in cell.outages):
        reasons.append("no work is done in an outage")
    if cell.seconds_per_text is None:
        reasons.append("average latency")
    if cell.slow is not None:
        reasons.append("work crossing a slow time")
    if cell.limiter == "windows" and (cell.requests_per_minute or cell.tokens_per_minute):
        reasons.append("windows filled to the last token")
    return "; ".join(reasons)
