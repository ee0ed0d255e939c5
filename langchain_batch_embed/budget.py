"""A quota of requests or tokens a minute, as the providers' limiters keep it: pure arithmetic.

Its rate is told, or learnt from the headers of the answers. Where no header comes, the rate is
measured: between two refusals the bucket went from empty to empty, so what was let through in
that time is the rate.
"""

import math

__all__ = ["Budget"]

PROBE = 0.002
"""The k-th answer in a row raises a measured rate by k times this share.

So after 10 answers it is 10 % higher, after 20 half as much again: it creeps past the rate at
which it was refused, and soon leaves behind a rate that was measured too low.
"""

CAUTION = 0.9
"""A measured rate is used at this share, because a refused request is charged too."""

EASE = 0.03
"""A refusal under a known rate lowers the share of it that is used by so much.

Requests do not arrive as evenly as they are sent, so a quota of 60 a minute that is applied as
one a second refuses some of those that are sent each second exactly.
"""

RECOVER = 0.004
"""An answer raises that share again by so much."""

LEAST_SHARE = 0.8
"""It never falls below this."""


class Budget:
    """A bucket that refills continuously; `None` for a rate means no limit is known.

    Attributes:
        rate: amount refilled a second.
        capacity: amount that it can hold.
        level: amount in it; less than nothing after a request larger than the bucket.
        told: the rate was set by the user, and is never raised.
        measured: the rate was neither told nor read in a header but measured.
    """

    def __init__(self, per_minute: float | None = None) -> None:
        self.told = per_minute is not None
        self.measured = False
        self.rate = None if per_minute is None else per_minute / 60
        self.capacity = math.inf if per_minute is None else float(per_minute)
        self.level = self.capacity
        self._heard = False  # whether an answer ever said what remains
        self._share = 1.0  # of a known rate that is used
        self._updated = 0.0
        self._refused_at: float | None = None
        self._passed = 0.0  # amount let through since then
        self._in_a_row = 0  # requests let through since then

    @property
    def known(self) -> bool:
        """Whether the rate was told or read, and not measured."""
        return self.rate is not None and not self.measured

    def wait(self, amount: float, now: float) -> float:
        """Return the seconds until so much can be taken; 0: at once.

        An amount above the capacity waits for a full bucket.
        """
        self._refill(now)
        missing = min(amount, self.capacity) - self.level
        # A hair's breadth: what is missing by rounding alone would be waited for for ever.
        if self.rate is None or missing <= 1e-9 * amount:
            return 0.0
        return missing / (self.rate * self._share)

    def take(self, amount: float, now: float) -> None:
        """Take so much out, also where that leaves less than nothing."""
        self._refill(now)
        self.level -= amount

    def passed(self, amount: float) -> None:
        """Note that the server let so much through, for measuring."""
        self._passed += amount
        self._in_a_row += 1
        self._share = min(1.0, self._share + RECOVER)
        if self.measured and self.rate is not None:
            self.rate *= 1 + PROBE * self._in_a_row
            self.capacity = self.rate

    def learn(
        self,
        *,
        limit: float,
        remaining: float | None,
        reset: float | None,
        unseen: float,
        sent: float,
        now: float,
    ) -> None:
        """Take over what an answer said.

        Args:
            limit: the amount a minute.
            remaining: what the bucket held when the server looked, if it was said.
            reset: seconds until the bucket is full again, if it was said.
            unseen: what was taken here by others that may have arrived after the server looked:
                all that had not ended when the request was sent.
            sent: when the request was sent.
            now: the time.
        """
        if limit <= 0:
            return
        if self.told and self.rate is not None:
            limit = min(limit, self.rate * 60)
        first, self._heard = not self._heard, True
        self.rate, self.measured = limit / 60, False
        if remaining is None:
            self.capacity = limit
            self._refill(now)
            return
        if reset is not None:
            # Rounded in the header: a bucket is never smaller than what is in it.
            self.capacity = min(limit, max(remaining + reset * self.rate, remaining))
        elif first:
            self.capacity = limit
        self._refill(now)
        # The server looked somewhen between sending and now, so it has refilled for at most
        # that long; and requests overtake one another, so `unseen` may or may not be in it.
        lowest = remaining - unseen
        highest = remaining + (now - sent) * self.rate
        self.level = lowest if first else min(max(self.level, lowest), highest)
        self.level = min(self.level, self.capacity)

    def refused(self, now: float) -> None:
        """Note a refusal: the bucket is empty, and its rate is measured if it is not known."""
        self._refill(now)
        if self.known:
            self._share = max(LEAST_SHARE, self._share - EASE)
        elif self._passed and self._refused_at is not None and now > self._refused_at:
            rate = CAUTION * self._passed / (now - self._refused_at)
            # One measurement may be off, so it may not do more than halve the rate.
            self.rate = rate if self.rate is None else max(rate, self.rate / 2)
            self.capacity, self.measured = self.rate, True
        if self.measured or (self.told and not self._heard):
            # A told quota says nothing of how much of it can be saved up.
            self.level = min(self.level, 0.0)
        if self._passed or self._refused_at is None:
            self._refused_at, self._passed, self._in_a_row = now, 0.0, 0

    def _refill(self, now: float) -> None:
        if self.rate is not None:
            elapsed = max(0.0, now - self._updated)
            self.level = min(self.capacity, self.level + elapsed * self.rate * self._share)
        self._updated = max(self._updated, now)
