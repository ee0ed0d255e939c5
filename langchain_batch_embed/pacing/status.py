"""What a pacer waits for, and how long the rest will take. Nothing here changes any state."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from langchain_batch_embed.pacing.pacer import Pacer
from langchain_batch_embed.pacing.token_bucket import TokenBucket

__all__ = ["Status", "flows_into", "status_of", "together"]

NOTICEABLE = 1.0
"""A pause of at least this many seconds is reported to the user."""

SPACED = 2.0
"""The same for the interval of requests under a known quota, where a second is normal."""

LATE = 10.0
"""After this many seconds without an answer, the wait is reported to the user."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """The server's state at one moment, as shown to the user; times are in seconds.

    Attributes:
        waits_for: the quota, a server that is away, slow answers, or `None` for nothing noticeable.
        delay: time until the next request may start, 0 if it is in flight; for `"answers"` the
            time since the oldest request was sent.
        refused_with: the HTTP status of the refusal that began the pause; empty if a known quota
            alone causes it.
        pause: time in which nothing is sent.
        start: time after the pause until as many requests are in flight as before.
        is_held_back: whether the next request waits for the quota rather than for a free worker.
        in_flight: requests in flight.
        charge_in_flight: their tokens, as the limiter charges them.
        charged: tokens that the limiter has accepted in all.
        requests_per_minute: the quota that the user set or answers announced; `None` if unknown.
        tokens_per_minute: the same for tokens.
        quota_seconds: time until the quota has accepted the rest; `None` if no quota is known.
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
        """Whether the quota is known from refusals alone."""
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
        pacer: the pacer of the server.
        now: the time.
        left: tokens without an answer, as the limiter charges them.
        usual: tokens of a planned request; `None` for the average so far.
        refusal: the HTTP status of the last rate-limit refusal.
        trip: seconds that an answer takes at present.
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


def together(
    parts: Sequence[Status],
    pacers: Sequence[Pacer],
    now: float,
    *,
    left: float = 0.0,
    usual: float | None = None,
) -> Status:
    """Return the state of several servers that share the work, whose quotas add up.

    The wait shown is that of the server that goes on first.

    Args:
        parts: the state of each server.
        pacers: the pacer of each server.
        now: the time.
        left: tokens without an answer from any of them, as the limiter charges them.
        usual: tokens of a planned request; `None` if nothing is planned.
    """
    first = min(parts, key=lambda part: (part.waits_for is not None, part.delay))
    in_flight = sum(part.charge_in_flight for part in parts)
    unsent = max(0.0, left - in_flight)
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
        quota_seconds=_all_flow_in(pacers, unsent, unsent / usual if usual else 0.0, now),
    )


def _rounds(pacer: Pacer, requests: float) -> float:
    """Return the rounds of doubling until the number in flight is as before, or covers the rest."""
    concurrency = pacer.concurrency
    number = max(1.0, min(concurrency.threshold, requests))
    return math.log2(max(1.0, number / concurrency.estimate)) + 1


def _sum(numbers: Iterable[float | None]) -> float | None:
    """Return the sum of the known numbers, or `None` if none is known."""
    known = [number for number in numbers if number is not None]
    return sum(known) if known else None


def _all_flow_in(
    pacers: Sequence[Pacer], tokens: float, requests: float, now: float
) -> float | None:
    """Return the seconds in which all quotas together accept this much; `None` if not known."""
    kinds = [([pacer.tokens for pacer in pacers], tokens)]
    if not any(pacer.tokens.is_measured and pacer.requests.is_measured for pacer in pacers):
        kinds.append(([pacer.requests for pacer in pacers], requests))
    seconds = [flows_into(buckets, amount, now) for buckets, amount in kinds]
    return max((each for each in seconds if each is not None), default=None)


def flows_into(buckets: Sequence[TokenBucket], amount: float, now: float) -> float | None:
    """Return the seconds in which quotas of one kind together accept this amount.

    `None` if one of them is not known.
    """
    rates = [rate for bucket in buckets if (rate := bucket.usable_rate) is not None]
    if len(rates) < len(buckets):
        return None
    return max(0.0, amount - sum(bucket.held(now) for bucket in buckets)) / sum(rates)


def _flows_in(
    pacer: Pacer, tokens: float, requests: float, now: float, *, pause: float = 0.0
) -> float | None:
    """Return the seconds in which the quota accepts this much; `None` if it is not known."""
    seconds = [
        bucket.flows_in(amount, now, pause=pause)
        for bucket, amount in ((pacer.tokens, tokens), (pacer.requests, requests))
        if bucket.rate is not None
    ]
    if pacer.tokens.is_measured and pacer.requests.is_measured:
        return seconds[0]  # only one of them is real, and the pacer follows this one
    return max(seconds, default=None)


def _told(bucket: TokenBucket) -> float | None:
    return None if bucket.rate is None or bucket.is_measured else bucket.rate * 60
