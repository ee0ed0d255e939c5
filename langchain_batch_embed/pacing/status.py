"""What a pacer waits for, and how long the rest will take: it only looks, and changes nothing."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from langchain_batch_embed.pacing.pacer import Pacer
from langchain_batch_embed.pacing.token_bucket import TokenBucket

__all__ = ["Status", "status_of", "together"]

NOTICEABLE = 1.0
"""Seconds of a pause from which on a user wonders what is going on."""

SPACED = 2.0
"""The same where a known quota spaces the requests out: at a second apart all is as usual."""

LATE = 10.0
"""Seconds without an answer after which a user is told what is waited for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """The server's state at one moment, as a user is told it; times are seconds.

    Attributes:
        waits_for: the quota, a server that is away, answers that take long, or nothing to speak of.
        delay: until the next request may start, or for `"answers"` since the oldest was sent; 0:
            it is under way.
        refused_with: the status of the refusal that the pause follows; empty where the known quota
            alone makes it.
        pause: nothing is sent for this long.
        start: seconds that it takes then until as many requests are in flight as before.
        is_held_back: the next request waits for the quota, however shortly, and not for a place.
        in_flight: requests that are waited for.
        charge_in_flight: their tokens, as the limiter charges them.
        charged: what the limiter has let through in all, in tokens.
        requests_per_minute: the quota that was set or that answers told; `None`: not known.
        tokens_per_minute: the same.
        quota_seconds: until the quota has let the rest through; `None`: no quota is known.
    """

    waits_for: Literal["quota", "server", "answers"] | None
    delay: float
    refused_with: str
    pause: float
    start: float
    is_held_back: bool
    in_flight: int
    charge_in_flight: int
    charged: float
    requests_per_minute: float | None
    tokens_per_minute: float | None
    quota_seconds: float | None

    @property
    def is_learnt(self) -> bool:
        """Tell whether the quota is known from refusals alone."""
        told = (self.requests_per_minute, self.tokens_per_minute)
        return self.quota_seconds is not None and told == (None, None)


def status_of(
    pacer: Pacer,
    now: float,
    *,
    left: float = 0.0,
    usual: float | None = None,
    refusal: str = "",
    trip: float = 0.0,
) -> Status:
    """Return the state of the server.

    Args:
        pacer: knows it.
        now: the time.
        left: tokens, as the limiter charges them, that have no answer yet.
        usual: tokens of a request that is planned; `None`: as until now.
        refusal: the status of the last refusal for the rate.
        trip: seconds that an answer takes lately.
    """
    in_flight = pacer.in_flight.values()
    pause = pacer.throttle.delay(now)
    charge_in_flight = sum(ticket.charge for ticket in in_flight)
    usual = usual or pacer.usual_charge()
    spacing = _flows_in(pacer, min(usual, pacer.tokens.capacity), 1.0, now) or 0.0
    oldest = max((now - ticket.sent for ticket in in_flight), default=0.0)
    silent = now - max(pacer.health.answered_at, now - oldest)
    waits_for: Literal["quota", "server", "answers"] | None = None
    delay = 0.0
    if pacer.health.is_down:
        waits_for = "server"
        is_probed = any(pacer.health.is_probe(ticket.sent) for ticket in in_flight)
        delay = 0.0 if is_probed else pacer.health.delay(now)
    elif pause >= NOTICEABLE or spacing >= SPACED:
        waits_for, delay = "quota", max(pause, spacing)
    elif silent >= LATE:
        waits_for, delay = "answers", oldest
    unsent = max(0.0, left - charge_in_flight)
    requests = unsent / usual if usual else 0.0
    return Status(
        waits_for=waits_for,
        delay=delay,
        refused_with=refusal if pause >= NOTICEABLE else "",
        pause=pause,
        start=trip * _rounds(pacer, requests) if pause > 0 else 0.0,
        is_held_back=pause > 0 or spacing > 0,
        in_flight=len(in_flight),
        charge_in_flight=charge_in_flight,
        charged=pacer.let_through,
        requests_per_minute=_told(pacer.requests),
        tokens_per_minute=_told(pacer.tokens),
        quota_seconds=_flows_in(pacer, unsent, requests, now, pause=pause),
    )


def together(parts: Sequence[Status], pacers: Sequence[Pacer], *, left: float = 0.0) -> Status:
    """Return the state of several servers that share the work: their quotas add up.

    What is waited for is what the one that goes on first waits for.

    Args:
        parts: the state of each.
        pacers: of each.
        left: tokens, as the limiter charges them, that have no answer yet from any of them.
    """
    first = min(parts, key=lambda part: (part.waits_for is not None, part.delay))
    in_flight = sum(part.charge_in_flight for part in parts)
    return replace(
        first,
        pause=min(part.pause for part in parts),
        start=min(part.start for part in parts),
        is_held_back=all(part.is_held_back for part in parts),
        in_flight=sum(part.in_flight for part in parts),
        charge_in_flight=in_flight,
        charged=sum(part.charged for part in parts),
        requests_per_minute=_sum(part.requests_per_minute for part in parts),
        tokens_per_minute=_sum(part.tokens_per_minute for part in parts),
        quota_seconds=_all_flow_in(pacers, max(0.0, left - in_flight)),
    )


def _rounds(pacer: Pacer, requests: float) -> float:
    """Return how often the number in flight doubles until it is what it was, or what is left."""
    concurrency = pacer.concurrency
    number = max(1.0, min(concurrency.threshold, requests))
    return math.log2(max(1.0, number / concurrency.estimate)) + 1


def _sum(numbers: Iterable[float | None]) -> float | None:
    """Return the sum of what is known; `None`: nothing is."""
    known = [number for number in numbers if number is not None]
    return sum(known) if known else None


def _all_flow_in(pacers: Sequence[Pacer], tokens: float) -> float | None:
    """Return the seconds in which all quotas together let this much through; `None`: not known."""
    rates = [pacer.tokens.rate for pacer in pacers]
    if None in rates:
        return None
    held = sum(min(pacer.tokens.capacity, pacer.tokens.level) for pacer in pacers)
    return max(0.0, tokens - held) / sum(rate for rate in rates if rate is not None)


def _flows_in(
    pacer: Pacer, tokens: float, requests: float, now: float, *, pause: float = 0.0
) -> float | None:
    """Return the seconds in which the quota lets this much through; `None`: it is not known."""
    seconds = [
        bucket.flows_in(amount, now, pause=pause)
        for bucket, amount in ((pacer.tokens, tokens), (pacer.requests, requests))
        if bucket.rate is not None
    ]
    if pacer.tokens.is_measured and pacer.requests.is_measured:
        return seconds[0]  # only one of them is real, and the pacer goes by this one
    return max(seconds, default=None)


def _told(bucket: TokenBucket) -> float | None:
    return None if bucket.rate is None or bucket.is_measured else bucket.rate * 60
