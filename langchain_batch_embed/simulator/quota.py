"""The arithmetic of a provider's quota; callers pass in the time, and nothing here waits."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Final, Literal

Kind = Literal["requests", "tokens"]
UsedOf = Literal["minute", "bucket"]

_SECOND: Final = 1000  # milliseconds

# A request that is short of at most this many units is admitted all the same. A client that waited
# exactly as long as the server asked must not be refused because of a rounding error.
_SLACK: Final = 1e-3

# A window may end this many seconds early, for the same reason.
_MICROSECOND: Final = 1e-6


class Allowance(ABC):
    """The units that a quota allows, and how many of them are used.

    Args:
        limit_per_minute: units allowed per minute.
        seconds: how many seconds' worth of units may be used at once.
        refused_share: share of its amount, 0 to 1, that a refused request is charged.

    """

    def __init__(
        self, limit_per_minute: float, seconds: float = 60.0, *, refused_share: float = 1.0
    ) -> None:
        self.limit_per_minute = limit_per_minute
        self.rate = limit_per_minute / 60
        self.capacity = self.rate * seconds
        self._refused_share = refused_share
        self._used = 0.0

    @abstractmethod
    def used(self, now: float) -> float:
        """Return the units in use at this time; `now` is in seconds, always of the same clock."""

    @abstractmethod
    def seconds_to_reset(self, now: float) -> float:
        """Return the seconds until no unit is in use, if no more are taken."""

    @abstractmethod
    def _seconds_to_lose(self, excess: float, now: float) -> float:
        """Return the seconds until this many of the units in use are free again."""

    def wait(self, amount: float, now: float) -> float:
        """Return the seconds until `amount` fits; 0 if it fits now, infinite if it never will."""
        if amount > self.capacity + _SLACK:
            return math.inf
        excess = self.used(now) + amount - self.capacity
        return self._seconds_to_lose(excess, now) if excess > _SLACK else 0.0

    def take(self, amount: float, now: float) -> float:
        """Take `amount` and return 0, or refuse and return the seconds to wait.

        A client that waits this long is admitted, unless other requests come first.
        """
        if self.wait(amount, now) > 0:
            return self.refuse(amount, now)
        self._used += amount
        return 0.0

    def refuse(self, amount: float, now: float) -> float:
        """Charge a refused request its share, and return the seconds to wait.

        An amount that can never fit is charged nothing, and its wait is infinite.
        """
        if self.wait(amount, now) < math.inf:
            # At most the capacity, so that a storm of retries blocks itself only while it lasts.
            charge = amount * self._refused_share
            self._used = min(self.capacity, self.used(now) + charge)
        # Computed after the charge, so that a client that waits this long is admitted.
        return self.wait(amount, now)


class Bucket(Allowance):
    """A quota that refills continuously and starts full."""

    _updated = -math.inf

    def used(self, now: float) -> float:
        """Return the units that were taken and have not been refilled yet."""
        if now > self._updated:
            self._used = max(0.0, self._used - (now - self._updated) * self.rate)
            self._updated = now
        return self._used

    def seconds_to_reset(self, now: float) -> float:
        """Return the seconds until the bucket is full."""
        return self.used(now) / self.rate

    def _seconds_to_lose(self, excess: float, now: float) -> float:  # noqa: ARG002 - the same at any time
        return excess / self.rate


class Window(Allowance):
    """A quota counted in windows of fixed length; the first starts when it is first checked."""

    _end = -math.inf

    def __init__(
        self, limit_per_minute: float, seconds: float, *, refused_share: float = 1.0
    ) -> None:
        super().__init__(limit_per_minute, seconds, refused_share=refused_share)
        self._seconds = seconds

    def used(self, now: float) -> float:
        """Return the units taken in the window that contains this time."""
        if self._end == -math.inf:
            self._end = now + self._seconds
        late = now + _MICROSECOND - self._end
        if late >= 0:
            self._used = 0.0
            self._end += (late // self._seconds + 1) * self._seconds
        return self._used

    def seconds_to_reset(self, now: float) -> float:
        """Return the seconds until the window ends; 0 if nothing was taken in it."""
        return self._end - now if self.used(now) else 0.0

    def _seconds_to_lose(self, excess: float, now: float) -> float:  # noqa: ARG002 - all free at once
        return self._end - now


@dataclass(frozen=True, kw_only=True)
class OverQuota:
    """Why a request was refused: the quota it exceeded, the numbers, and the seconds to wait."""

    kind: Kind
    limit: int
    used: int
    requested: int
    wait: float


class Quota:
    """The quotas of requests and tokens per minute; a request must fit both to be admitted."""

    def __init__(
        self,
        requests_per_minute: int | None,
        tokens_per_minute: int | None,
        *,
        bucket_seconds: float = 60.0,
        fixed_window_seconds: float | None = None,
        refused_share: float = 1.0,
        used_of: UsedOf = "minute",
    ) -> None:
        def allowance(limit: int) -> Allowance:
            if fixed_window_seconds is None:
                return Bucket(limit, bucket_seconds, refused_share=refused_share)
            return Window(limit, fixed_window_seconds, refused_share=refused_share)

        limits: dict[Kind, int | None] = {
            "requests": requests_per_minute,
            "tokens": tokens_per_minute,
        }
        self._used_of = used_of
        self.buckets: dict[Kind, Allowance] = {
            kind: allowance(limit) for kind, limit in limits.items() if limit is not None
        }

    def admit(self, tokens: int, now: float) -> OverQuota | None:
        """Charge one request of this many tokens; return `None` if it is admitted, else why not."""
        amounts: dict[Kind, int] = {"requests": 1, "tokens": tokens}
        if all(bucket.wait(amounts[kind], now) == 0 for kind, bucket in self.buckets.items()):
            for kind, bucket in self.buckets.items():
                bucket.take(amounts[kind], now)
            return None
        waits = {kind: bucket.refuse(amounts[kind], now) for kind, bucket in self.buckets.items()}
        kind = max(waits, key=lambda kind: waits[kind])
        bucket = self.buckets[kind]
        if waits[kind] == math.inf:
            return OverQuota(
                kind=kind,
                limit=int(bucket.capacity),
                used=round(bucket.used(now)),
                requested=amounts[kind],
                wait=math.inf,
            )
        # "minute" reports the part of the minute's limit beyond the bucket's capacity as used.
        rest = bucket.limit_per_minute - bucket.capacity if self._used_of == "minute" else 0.0
        return OverQuota(
            kind=kind,
            limit=round(bucket.limit_per_minute),
            used=round(rest + bucket.used(now)),
            requested=amounts[kind],
            wait=waits[kind],
        )

    def headers(self, now: float, *, remaining_only: bool = False) -> dict[str, str]:
        """Return the x-ratelimit-* headers as OpenAI writes them; Azure sends only what remains."""
        headers = {}
        for kind, bucket in self.buckets.items():
            used = bucket.used(now)
            left = max(0, math.floor(bucket.capacity - used + _SLACK))
            headers[f"x-ratelimit-remaining-{kind}"] = str(left)
            if not remaining_only:
                headers[f"x-ratelimit-limit-{kind}"] = str(round(bucket.limit_per_minute))
                headers[f"x-ratelimit-reset-{kind}"] = go_duration(bucket.seconds_to_reset(now))
        return headers


def go_duration(seconds: float) -> str:
    """Format seconds as Go does, rounded up to milliseconds: `0s`, `12ms`, `1.5s`, `6m0s`."""
    milliseconds = math.ceil(round(seconds * _SECOND, 6))
    if milliseconds == 0:
        return "0s"
    if milliseconds < _SECOND:
        return f"{milliseconds}ms"
    minutes, milliseconds = divmod(milliseconds, 60 * _SECOND)
    hours, minutes = divmod(minutes, 60)
    text = f"{milliseconds / _SECOND:.3f}".rstrip("0").rstrip(".") + "s"
    if hours:
        return f"{hours}h{minutes}m{text}"
    return f"{minutes}m{text}" if minutes else text
