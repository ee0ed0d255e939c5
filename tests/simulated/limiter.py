"""Rate limiters that receive requests in order of sending and judge them by arrival.

A verdict is given when a request is sent, although a later one may overtake it on the way. A
request that overtakes is let in only if the earlier verdicts still hold, so of two requests that
compete for the same tokens the wrong one may be refused, but never both or neither.
"""

import math
from bisect import insort
from typing import Final, Protocol

__all__ = ["Bucket", "Limiter", "Windows"]

# Units that a request may lack and still be let in: a client that waits exactly as long as the
# server says must not be refused because of rounding.
_SLACK: Final = 1e-3


class Limiter(Protocol):
    """A quota of one kind; times are arrivals, and may go back to the last `settle`."""

    capacity: float
    """Most units that one request may take."""

    def settle(self, now: float) -> None:
        """Forget state that can no longer matter, since no arrival before `now` will follow."""

    def used(self, at: float) -> float:
        """Return the units in use at a time."""

    def delay(self, amount: float, at: float) -> float:
        """Return the seconds until `amount` fits: 0 if it fits at once, `inf` if never."""

    def reset(self, at: float) -> float:
        """Return the seconds until all units are free."""

    def charge(self, amount: float, at: float) -> None:
        """Charge the units, whether or not they are free."""


class Bucket:
    """A quota that refills continuously and starts full.

    Args:
        rate: units that flow back in a second.
        capacity: units that it holds.
    """

    def __init__(self, rate: float, capacity: float) -> None:
        self.capacity = capacity
        self._rate = rate
        self._level = 0.0  # units in use at `_updated`
        self._updated = -math.inf
        self._ahead: list[tuple[float, float]] = []  # (arrival, amount), by arrival

    def settle(self, now: float) -> None:
        """Fold all arrivals up to `now` into the level."""
        ahead = self._ahead
        if not ahead or ahead[0][0] > now:
            return
        settled = 0
        for at, amount in ahead:
            if at > now:
                break
            left = max(0.0, self._level - (at - self._updated) * self._rate)
            # The charge for refused requests blocks others for no longer than a full bucket does.
            self._level = min(max(left, self.capacity), left + amount)
            self._updated = at
            settled += 1
        del ahead[:settled]

    def used(self, at: float) -> float:
        """Return the units in use at a time."""
        level, updated = self._level, self._updated
        for arrival, amount in self._ahead:
            if arrival > at:
                break
            left = max(0.0, level - (arrival - updated) * self._rate)
            level, updated = min(max(left, self.capacity), left + amount), arrival
        return max(0.0, level - (at - updated) * self._rate)

    def delay(self, amount: float, at: float) -> float:
        """Return the seconds until `amount` fits: 0 if it fits at once, `inf` if never."""
        if amount > self.capacity + _SLACK:
            return math.inf
        level = self.used(at)
        if (excess := level + amount - self.capacity) > _SLACK:
            return excess / self._rate  # as announced: without requests that follow
        ahead = [entry for entry in self._ahead if entry[0] > at]
        if not ahead or self._leaves_room(amount, level, at, ahead):
            return 0.0
        return self._gap(amount, level, at, ahead) - at

    def _leaves_room(
        self, amount: float, level: float, at: float, ahead: list[tuple[float, float]]
    ) -> bool:
        """Return whether later arrivals still fit if `amount` is taken at this time and level."""
        level += amount
        for arrival, other in ahead:
            level = max(0.0, level - (arrival - at) * self._rate) + other
            at = arrival
            if level > self.capacity + _SLACK:
                return False
        return True

    def _gap(
        self, amount: float, level: float, at: float, ahead: list[tuple[float, float]]
    ) -> float:
        """Return the first time after a later arrival when `amount` leaves room for the rest."""
        for i, (arrival, other) in enumerate(ahead, 1):
            level = max(0.0, level - (arrival - at) * self._rate) + other
            at = arrival
            fits = at + max(0.0, level + amount - self.capacity) / self._rate
            rest = ahead[i:]
            if rest and fits >= rest[0][0]:
                continue
            at_fit = max(0.0, level - (fits - at) * self._rate)
            if self._leaves_room(amount, at_fit, fits, rest):
                return fits
        raise AssertionError("nobody is disturbed after the last one")

    def reset(self, at: float) -> float:
        """Return the seconds until the bucket is full again."""
        return self.used(at) / self._rate

    def charge(self, amount: float, at: float) -> None:
        """Charge the units, whether or not they are free."""
        insort(self._ahead, (at, amount))


class Windows:
    """A quota in fixed windows of time, one after another.

    Args:
        capacity: units in a window.
        length: seconds of a window.
        phase: seconds of the first window that have passed at time 0.
    """

    def __init__(self, capacity: float, length: float, phase: float) -> None:
        self.capacity = capacity
        self._length = length
        self._phase = phase
        self._used: dict[int, float] = {}  # by window

    def settle(self, now: float) -> None:
        """Forget the windows before the one that contains `now`."""
        if len(self._used) > 16:
            first = self._window(now)
            self._used = {window: used for window, used in self._used.items() if window >= first}

    def used(self, at: float) -> float:
        """Return the units in use in the window of this time."""
        return self._used.get(self._window(at), 0.0)

    def delay(self, amount: float, at: float) -> float:
        """Return 0 if `amount` fits into this window, else the seconds until the next window."""
        if amount > self.capacity + _SLACK:
            return math.inf
        return 0.0 if self.used(at) + amount <= self.capacity + _SLACK else self._rest(at)

    def reset(self, at: float) -> float:
        """Return the seconds until the next window, or 0 if nothing is used in this one."""
        return self._rest(at) if self.used(at) > 0 else 0.0

    def charge(self, amount: float, at: float) -> None:
        """Charge units to the window, whether or not they are free."""
        window = self._window(at)
        self._used[window] = self._used.get(window, 0.0) + amount

    def _window(self, at: float) -> int:
        return math.floor((at + self._phase) / self._length)

    def _rest(self, at: float) -> float:
        return max(1e-6, (self._window(at) + 1) * self._length - self._phase - at)
