"""Whether a server refuses at random: pure arithmetic.

Some gateways refuse a share of all requests whatever the rate, as one of their backends has used up
its quota. Whoever slows down is refused as often as before, and ends at one request in half a
minute. A quota is different: below its rate hardly anything is refused.
"""

import math

__all__ = ["Erratic"]

PAUSES = 6
"""So many pauses in a row tell, and twice as many each time that it was wrong."""

TOLD = 10
"""As many where the server says how long to wait: it is more likely to keep a quota."""

PASSED = 12
"""Between them fewer requests than this were let through, in the mean."""

SLOWER = 3.0
"""And the rate fell by this factor meanwhile."""

REQUESTS = 32
"""Requests over which the share of refused ones is averaged, once they seem to be random."""

IN_FLIGHT = 4
"""And so many more for each in flight: refusals come back sooner than answers, in one burst."""

TRIAL = 10
"""The first requests after that decide, so many of them and those in flight."""

LET_IN = 3
"""If fewer of them than this are let through, it is a quota: at random half of them would be."""


class Erratic:
    """Compares how often requests are refused with how much slower they are sent.

    Attributes:
        is_random: it refuses at random, so nobody need wait.
    """

    def __init__(self) -> None:
        self.is_random = False
        self._patience = 1  # doubled each time that it was wrong
        self._pauses: list[tuple[float, int]] = []
        self._share = self._most = 0.0  # of refusals, since they seem to be random
        self._refused = self._passed = 0  # since then

    def passed(self, in_flight: int) -> None:
        """Note a request that was let through, and how many are in flight."""
        self._share -= self._share / (REQUESTS + IN_FLIGHT * in_flight)
        self._passed += 1

    def refused(self, in_flight: int) -> None:
        """Note a refused one. Where more are refused of what is sent faster, it is a quota."""
        self._share += (1 - self._share) / (REQUESTS + IN_FLIGHT * in_flight)
        self._refused += 1
        is_trial_over = self._refused + self._passed >= TRIAL + in_flight
        has_no_room = is_trial_over and self._passed < LET_IN
        if self.is_random and (has_no_room or self._share > self._most):
            self.is_random = False
            self._patience *= 2
            self._pauses.clear()

    def paused(
        self, rate: float | None, passed: int, seconds: float, *, is_told: bool = False
    ) -> None:
        """Note the beginning of a pause.

        Args:
            rate: requests a second that were allowed before it; `None`: any number.
            passed: requests let through since the pause before.
            seconds: from one to the other; `inf`: it is the first.
            is_told: the server says how long it is.
        """
        if self.is_random or not passed or seconds == math.inf:
            return
        rate = rate or passed / max(1e-3, seconds)
        self._pauses = [*self._pauses[-self._patience * TOLD :], (rate, passed)]
        count = self._patience * (TOLD if is_told else PAUSES)
        pauses = self._pauses[-count:]
        let_through = sum(passed for _, passed in pauses)
        is_often = let_through < PASSED * len(pauses)
        if len(pauses) == count and is_often and SLOWER * rate < pauses[0][0]:
            self.is_random = True
            self._refused = self._passed = 0
            self._share = len(pauses) / (len(pauses) + let_through)
            self._most = (1 + self._share) / 2
