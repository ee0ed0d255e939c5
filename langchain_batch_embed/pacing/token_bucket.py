"""A quota of requests or tokens a minute, as the providers' limiters keep it: pure arithmetic.

Its rate is set by the user, or read in the headers of answers. Where no header comes, the rate is
measured: a refusal means that the bucket is empty, so what passes between two refusals is what
flowed in between them.
"""

import math
from collections import deque
from dataclasses import dataclass

__all__ = ["LONGEST", "TokenBucket"]

PROBE = 0.0005
"""k answers in a row, or k seconds, raise a measured rate by k * k / 2 times this share: by a tenth
after 20, by two fifths after 40. A change of the quota is found that way."""

FIRST_PROBE = 0.005
"""The same after the first measurement, which a slow start makes too low: twofold after 20."""

GUESS_PROBE = 0.05
"""The same before it: a first guess may be ten times too low."""

FEW = 5
"""With fewer requests than this between two refusals the rate is lowered, and not measured."""

SEVERAL = 3
"""After this many requests let through, what has passed corrects a rate that was far too low."""

AHEAD = 2.0
"""A measured rate is never raised above this many times what has really passed since."""

RECENT = 8
"""Requests that tell what passes by now, where it was less before."""

CAUTION = 0.93
"""A measured rate is used at this share, because a refused request may be charged too."""

EASE = 0.03
"""A refusal under a known rate lowers the share of it that is used by this much.

Requests do not arrive as evenly as they are sent, so a quota of 60 a minute that is applied as
one a second refuses some of those that are sent each second exactly.
"""

MEASURED_EASE = 0.05
"""The same for a measured rate, which is lowered itself."""

RECOVER = 0.004
"""An answer raises that share again by this much."""

LEAST_SHARE = 0.8
"""The share never falls below this."""

LONGEST = 30.0
"""A measured rate lets a request of the usual size through at least this often, in seconds: time in
which nothing was sent, or a server that refuses at random, must not make it ever slower."""

MOST_OWED = 1.0
"""After a refusal a bucket whose rate is measured owes at most this many seconds' worth: servers
refuse what is too much, and do not let it be paid for later."""

MEASURED_SECONDS = 1.0
"""A bucket whose rate is measured is taken to hold this many seconds' worth."""


@dataclass(slots=True)
class _Period:
    """The time from one refusal to the next.

    Attributes:
        start: when the first one came.
        paused: seconds after it in which nothing was sent; half of them count, as they may have
            been too many to be saved up.
        passed: amount let through of what was sent since.
        count: requests that this was in.
        least: a rate that it cannot be below.
    """

    start: float
    paused: float = 0.0
    passed: float = 0.0
    count: int = 0
    least: float = 0.0

    def elapsed(self, end: float) -> float:
        """Return the seconds that it has lasted, as far as they count; never 0."""
        lasted = max(1e-6, end - self.start)
        return max(lasted - self.paused / 2, lasted / 4)


class TokenBucket:
    """A bucket that refills continuously.

    Args:
        per_minute: the quota that the user has set; `None`: no limit is known.

    Attributes:
        rate: amount that flows in a second; `None`: no limit is known.
        capacity: amount that the bucket can hold.
        level: amount in it; below 0 after a request larger than the bucket.
        is_set: whether the user has set the rate. Then it is never raised.
        is_measured: whether the rate was neither set nor read in a header.
    """

    def __init__(self, per_minute: float | None = None) -> None:
        self.is_set = per_minute is not None
        self.is_measured = False
        self.rate = None if per_minute is None else per_minute / 60
        self.capacity = math.inf if per_minute is None else float(per_minute)
        self.level = self.capacity
        self._remaining_seen = False  # whether an answer ever said what remains
        self._share = 1.0  # of a known rate that is used
        self._updated = 0.0
        self._base = 0.0  # what was measured last
        self._period: _Period | None = None  # since the last refusal
        self._last_period: _Period | None = None  # between the last two; answers still come
        self._in_a_row = 0  # requests let through since the last refusal
        self._recent: deque[tuple[float, float]] = deque()  # when what passed
        self._holds = 0.0  # as refusals have told
        self._lowered_at = 0.0  # when it was lowered last
        self._measurements = 0

    @property
    def is_known(self) -> bool:
        """Whether the rate was set or read, and not measured."""
        return self.rate is not None and not self.is_measured

    def delay(self, amount: float, now: float) -> float:
        """Return the seconds until this much can be taken; 0: at once.

        An amount above the capacity waits for a full bucket.
        """
        if self.rate is None:
            return 0.0
        self._refill(now)
        missing = min(amount, self.capacity) - self.level
        # Ignore rounding errors, or the delay never reaches 0.
        return 0.0 if missing <= 1e-9 * amount else missing / (self.rate * self._share)

    def flows_in(self, amount: float, now: float, *, pause: float = 0.0) -> float:
        """Return the seconds until this much has been let through in all; changes nothing.

        Args:
            amount: any number, also many times what the bucket can hold.
            now: the time.
            pause: seconds from now on in which nothing is taken, while the bucket fills.
        """
        if self.rate is None:
            return pause
        rate = self.rate * self._share
        level = self.level + (max(0.0, now - self._updated) + pause) * rate
        return pause + max(0.0, amount - min(self.capacity, level)) / rate

    def take(self, amount: float, now: float) -> None:
        """Take this much out, even where that leaves less than nothing."""
        self._refill(now)
        self.level -= amount

    def give_back(self, amount: float) -> None:
        """Put back what was taken for a request that was never sent."""
        self.level = min(self.capacity, self.level + amount)

    def passed(self, amount: float, *, sent: float, now: float) -> None:
        """Note that the server let this much through, for measuring."""
        self._share = min(1.0, self._share + RECOVER)
        period, last = self._period, self._last_period
        if period is None or self.is_known:
            return
        if last is not None and last.start <= sent < period.start:
            last.passed += amount
            last.count += 1
            if self._measurements == 1 or last.count >= FEW:
                self._remeasure(last, period.start)
        elif sent >= period.start:
            period.passed += amount
            period.count += 1
            if self.rate is not None:
                elapsed = max(1e-6, now - period.start)
                self._in_a_row += 1
                steps = max(self._in_a_row, now - self._lowered_at)
                growth = (
                    (GUESS_PROBE, FIRST_PROBE, PROBE)[min(self._measurements, 2)]
                    / 2
                    * steps
                    * steps
                )
                ahead = AHEAD * max(period.passed / elapsed, self._recently(amount, now))
                self._measure(max(self._base, min(self._base * (1 + growth), ahead)))

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
            remaining: what the bucket held when the server looked, if the answer says so.
            reset: seconds until the bucket is full again, if the answer says so.
            unseen: what was taken here for other requests that may have arrived after the server
                looked: all that had not ended when the request was sent.
            sent: when the request was sent.
            now: the time.
        """
        if not 0 < limit < math.inf:
            return
        if self.is_set and self.rate is not None:
            limit = min(limit, self.rate * 60)
        first, self._remaining_seen = not self._remaining_seen, True
        if self.is_measured:
            self.capacity = math.inf
        self.rate, self.is_measured = limit / 60, False
        if remaining is None:
            self.capacity = limit
            self._refill(now)
            return
        if reset is not None:
            # The header rounds: a bucket is never smaller than what is in it.
            self.capacity = min(limit, max(remaining + reset * self.rate, remaining))
        elif first:
            self.capacity = limit
        self._refill(now)
        # The server read its bucket between `sent` and `now`, so it has refilled for at most that
        # long; and requests overtake one another, so `unseen` may or may not be counted in it.
        lowest = remaining - unseen
        highest = remaining + (now - sent) * self.rate
        self.level = lowest if first else min(max(self.level, lowest), highest)
        self.level = min(self.level, self.capacity)

    def name(self, limit: float, now: float, *, holds: float = math.inf) -> None:
        """Take over a rate that the text of a refusal names: the bucket behind it is empty.

        Args:
            limit: the amount a minute.
            now: the time.
            holds: what the bucket holds at least, as far as the refusal tells.
        """
        if not 0 < limit < math.inf or (self.is_known and self._remaining_seen):
            return
        if self.is_set and self.rate is not None:
            limit = min(limit, self.rate * 60)
        self.rate, self.is_measured = limit / 60, False
        if holds < math.inf:  # else a minute's worth
            self._holds = max(self._holds, min(holds, limit))
            self.capacity = self._holds
        else:
            self.capacity = min(self.capacity, limit)
        self._refill(now)
        self.level = min(self.level, 0.0)

    def refused(self, amount: float, now: float, *, paused: float = 0.0) -> None:
        """Note that this much was refused: the bucket is empty.

        Its rate is measured if it is not known.

        Args:
            amount: of the refused request.
            now: the time.
            paused: seconds of the pause that follows, in which nothing is sent. How long it is
                nobody asked for, so it does not count as time in which the bucket was used.
        """
        self._refill(now)
        if self.is_known:
            self._share = max(LEAST_SHARE, self._share - EASE)
            if not self._remaining_seen:
                # How much can be saved up is not known, only that it is used up.
                self.level = min(self.level, 0.0)
        else:
            period = self._period
            if period is not None and now > period.start:
                self._last_period = period
                period.least = max(amount / LONGEST, 0.0 if self.rate is None else self.rate / 2)
                self._measurements += 1
                if self.rate is not None and period.count < FEW:
                    # What has passed is too little to measure, but no more can have flowed.
                    most = (period.passed + amount) / period.elapsed(now)
                    self._base = max(period.least, CAUTION * min(self.rate, most))
                    self._measure(self._base)
                elif period.passed:
                    self._remeasure(period, now)
            self._period = _Period(start=now, paused=paused)
            self._in_a_row, self._lowered_at = 0, now
            if self.is_measured:
                self._empty()

    def _remeasure(self, period: "_Period", end: float) -> None:
        """Measure the rate: what was let through between two refusals has flowed in there."""
        # One measurement may be off, so it may not do more than halve the rate.
        self._base = CAUTION * max(period.passed / period.elapsed(end), period.least)
        self._measure(self._base)

    def correct(self, now: float) -> None:
        """Raise a measured rate to what has passed since the last refusal."""
        period = self._period
        if self.is_measured and period is not None and period.count >= SEVERAL:
            self._base = max(self._base, CAUTION * period.passed / period.elapsed(now))
            self._measure(max(self._base, self.rate or 0.0))

    def forget(self) -> None:
        """Forget a measured rate: the refusals were about something else."""
        if self.is_measured:
            self.rate, self.is_measured = None, False
            self.level = self.capacity = math.inf
            self._period = self._last_period = None

    def guess(self, rate: float, now: float) -> None:
        """Begin with this rate, for want of a measurement."""
        if self.rate is None:
            self._base, self._lowered_at = rate, now
            self._measure(rate)
            self.level = 0.0

    def ease(self, now: float) -> None:
        """Note a refusal that may be chance: a measured rate is lowered a little."""
        self._refill(now)
        if self.is_measured and self.rate is not None:
            self._base = self.rate * (1 - MEASURED_EASE)
            self._measure(self._base)
            self._empty()
            self._in_a_row, self._lowered_at = 0, now
            self._measurements += 1

    def _recently(self, amount: float, now: float) -> float:
        """Return what passes in a second by now, over some requests."""
        self._recent.append((now, amount))
        if len(self._recent) < RECENT:
            return 0.0
        start = self._recent.popleft()[0]
        return sum(amount for _, amount in self._recent) / max(1e-6, now - start)

    def interrupt(self, seconds: float) -> None:
        """Note that the server was away for this long: nothing could pass."""
        if self._period is not None:
            self._period.start += seconds
            self._lowered_at += seconds

    def _measure(self, rate: float) -> None:
        self.rate, self.is_measured = rate, True
        self.capacity = MEASURED_SECONDS * rate

    def _empty(self) -> None:
        """Note that the bucket of a measured rate is empty: what it owes was owed to a guess."""
        self.level = max(-MOST_OWED * (self.rate or 0.0), min(self.level, 0.0))

    def _refill(self, now: float) -> None:
        if self.rate is not None:
            elapsed = max(0.0, now - self._updated)
            self.level = min(self.capacity, self.level + elapsed * self.rate * self._share)
        self._updated = now
