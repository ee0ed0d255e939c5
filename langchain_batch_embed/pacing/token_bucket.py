"""A quota of requests or tokens a minute, as providers' limiters keep it. Pure arithmetic.

The user sets its rate, or the headers of answers announce it. Without headers the rate is measured:
a refusal means that the bucket is empty, so the amount that passes between two refusals is what
flowed in between them.
"""

import math
from collections import deque
from dataclasses import dataclass

__all__ = ["LONGEST", "TokenBucket"]

PROBE = 0.0005
"""k answers in a row, or k seconds, raise a measured rate by k * k / 2 times this share: by a tenth
after 20, by two fifths after 40. That finds a quota that was raised."""

FIRST_PROBE = 0.005
"""The same after the first measurement, which a slow start makes too low: doubled after 20."""

GUESS_PROBE = 0.05
"""The same before the first measurement: a first guess may be ten times too low."""

FEW = 5
"""With fewer requests than this between two refusals the rate is only lowered, not measured."""

SEVERAL = 3
"""After this many accepted requests, what has passed corrects a rate that was far too low."""

AHEAD = 2.0
"""A measured rate is never raised above this many times the rate that really passed."""

RECENT = 8
"""Requests over which the rate that passes at present is counted."""

CAUTION = 0.93
"""Use this share of a measured rate, because refused requests may be charged too."""

EASE = 0.03
"""A refusal under a known rate lowers the used share of that rate by this much.

Requests do not arrive as evenly as they are sent. A quota of 60 a minute that is enforced as one a
second refuses some requests even if exactly one is sent each second.
"""

MEASURED_EASE = 0.05
"""A refusal that may be chance lowers a measured rate by this share."""

RECOVER = 0.004
"""An answer raises the used share of a known rate by this much."""

LEAST_SHARE = 0.8
"""Least used share of a known rate."""

LONGEST = 30.0
"""A measured rate allows a request of the usual size at least once in this many seconds. Idle time,
or a server that refuses at random, must not make it slower and slower."""

MOST_OWED = 1.0
"""After a refusal the level of a measured bucket is at most this many seconds' worth below 0, as
servers refuse what is too much instead of charging it later."""

MOST_DEBT = 10.0
"""After any refusal the level of a measured bucket is at most this many seconds' worth below 0,
even if the other quota was the cause. A batch that is refused again and again adds to the debt each
time, and would stop the next batches for minutes."""

CLOCK = 1e-6
"""Seconds of quota that may be missing: no clock and no wait is more exact."""

MEASURED_SECONDS = 1.0
"""Assumed size of a bucket with a measured rate, in seconds' worth."""


@dataclass(slots=True)
class _Period:
    """The time from one refusal to the next.

    Attributes:
        start: when the first refusal came.
        paused: seconds after it in which nothing was sent. Half of them count, as the bucket may
            have been full before the end.
        passed: accepted amount of the requests sent since.
        count: number of these requests.
        least: a rate below which the measurement cannot be.
    """

    start: float
    paused: float = 0.0
    passed: float = 0.0
    count: int = 0
    least: float = 0.0

    def elapsed(self, end: float) -> float:
        """Return how many of its seconds count for the measurement; never 0."""
        lasted = max(1e-6, end - self.start)
        return max(lasted - self.paused / 2, lasted / 4)


class TokenBucket:
    """A bucket that refills continuously.

    Args:
        per_minute: the quota set by the user; `None` if no limit is known.

    Attributes:
        rate: amount that flows in a second; `None` if no limit is known.
        capacity: amount that the bucket can hold.
        level: amount in it; below 0 after a request larger than the bucket.
        is_set: whether the user has set the rate, which is then never raised.
        is_measured: whether the rate was measured, and neither set nor announced.
    """

    def __init__(self, per_minute: float | None = None) -> None:
        self.is_set = per_minute is not None
        self.is_measured = False
        self.rate = None if per_minute is None else per_minute / 60
        self.capacity = math.inf if per_minute is None else float(per_minute)
        self.level = self.capacity
        self._remaining_seen = False  # an answer has said what remains
        self._share = 1.0  # used share of a known rate
        self._updated = 0.0
        self._base = 0.0  # the last measurement
        self._period: _Period | None = None  # since the last refusal
        self._last_period: _Period | None = None  # between the last two; answers still come
        self._in_a_row = 0  # requests accepted since the last refusal
        self._recent: deque[tuple[float, float]] = deque()  # (time, amount) of recent requests
        self._holds = 0.0  # size of the bucket, as refusals have shown
        self._lowered_at = 0.0  # when the rate was last lowered
        self._measurements = 0

    @property
    def is_known(self) -> bool:
        """Whether the rate was set or announced, and not measured."""
        return self.rate is not None and not self.is_measured

    @property
    def usable_rate(self) -> float | None:
        """The amount that this process may take a second; `None` if no limit is known."""
        return None if self.rate is None else self.rate * self._share

    def held(self, now: float) -> float:
        """Return how much may be taken at once; changes nothing."""
        elapsed = max(0.0, now - self._updated)
        return max(0.0, min(self.capacity, self.level + elapsed * (self.usable_rate or 0.0)))

    def delay(self, amount: float, now: float) -> float:
        """Return the seconds until this much can be taken; 0 if at once.

        An amount above the capacity waits for a full bucket.
        """
        if self.rate is None:
            return 0.0
        self._refill(now)
        missing = min(amount, self.capacity) - self.level
        # Ignore rounding errors, and less than the clock can measure, or the delay never reaches 0.
        is_there = missing <= max(1e-9 * amount, CLOCK * self.rate)
        return 0.0 if is_there else missing / (self.rate * self._share)

    def flows_in(self, amount: float, now: float, *, pause: float = 0.0) -> float:
        """Return the seconds until this much has passed in all; changes nothing.

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
        """Take this much out, even if the level falls below 0."""
        self._refill(now)
        self.level -= amount

    def give_back(self, amount: float) -> None:
        """Put back what was taken for a request that was never sent."""
        self.level = min(self.capacity, self.level + amount)

    def passed(self, amount: float, *, sent: float, now: float) -> None:
        """Record that the server accepted this much, to measure the rate."""
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
        """Learn from the headers of an answer.

        Args:
            limit: the amount a minute.
            remaining: the level when the server read it; `None` if not announced.
            reset: seconds until the bucket is full again; `None` if not announced.
            unseen: the amount of other requests that may have arrived after the server read the
                level, that is, of all that had not ended when this request was sent.
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
        """Learn a rate from the text of a refusal; its bucket is empty.

        Args:
            limit: the amount a minute.
            now: the time.
            holds: the least size of the bucket; `inf` if the refusal does not show it.
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
        """Record that this much was refused: the bucket is empty.

        If the rate is not known, it is measured.

        Args:
            amount: the amount of the refused request.
            now: the time.
            paused: seconds of the backoff pause that follows, in which nothing is sent; it does
                not fully count as time in which the bucket was used.
        """
        self._refill(now)
        if self.is_known:
            self._share = max(LEAST_SHARE, self._share - EASE)
            if not self._remaining_seen:
                # The size of the bucket is not known, only that it is empty.
                self.level = min(self.level, 0.0)
        else:
            period = self._period
            if period is not None and now > period.start:
                self._last_period = period
                period.least = max(amount / LONGEST, 0.0 if self.rate is None else self.rate / 2)
                self._measurements += 1
                if self.rate is not None and period.count < FEW:
                    # Too little has passed to measure the rate, but no more can have flowed in.
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
        """Measure the rate: what passed between two refusals had flowed in between them."""
        # A single measurement may be off, so it at most halves the rate.
        self._base = CAUTION * max(period.passed / period.elapsed(end), period.least)
        self._measure(self._base)

    def correct(self, now: float) -> None:
        """Raise a measured rate to the rate that has passed since the last refusal."""
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

    def measure_anew(self, now: float) -> None:
        """Begin to measure anew: the last refusals were about the size of a request.

        The time that they took must not count as time in which little passed.
        """
        if self._period is not None:
            self._period, self._last_period = _Period(start=now), None

    def guess(self, rate: float, now: float) -> None:
        """Begin with a guess at the rate until there is a measurement."""
        if self.rate is None:
            self._base, self._lowered_at = rate, now
            self._period = self._period or _Period(start=now)  # or the rate would never grow
            self._measure(rate)
            self.level = 0.0

    def ease(self, now: float) -> None:
        """Record a refusal that may be chance: lower a measured rate a little."""
        self._refill(now)
        if self.is_measured and self.rate is not None:
            self._base = self.rate * (1 - MEASURED_EASE)
            self._measure(self._base)
            self._empty()
            self._in_a_row, self._lowered_at = 0, now
            self._measurements += 1

    def _recently(self, amount: float, now: float) -> float:
        """Return the amount a second that passed over the last few requests."""
        self._recent.append((now, amount))
        if len(self._recent) < RECENT:
            return 0.0
        start = self._recent.popleft()[0]
        return sum(amount for _, amount in self._recent) / max(1e-6, now - start)

    def interrupt(self, seconds: float) -> None:
        """Record that nothing could pass for this long: the server was away."""
        if self._period is not None:
            self._period.start += seconds
            self._lowered_at += seconds

    def _measure(self, rate: float) -> None:
        self.rate, self.is_measured = rate, True
        self.capacity = MEASURED_SECONDS * rate

    def limit_debt(self, now: float) -> None:
        """Limit how far a measured level is below 0, as refused requests were not accepted."""
        self._refill(now)
        if self.is_measured:
            self.level = max(self.level, -MOST_DEBT * (self.rate or 0.0))

    def _empty(self) -> None:
        """Empty a measured bucket, and forgive most of its debt, which rests on a guess."""
        self.level = max(-MOST_OWED * (self.rate or 0.0), min(self.level, 0.0))

    def _refill(self, now: float) -> None:
        if self.rate is not None:
            elapsed = max(0.0, now - self._updated)
            self.level = min(self.capacity, self.level + elapsed * self.rate * self._share)
        self._updated = now
