"""Decides whether a server refuses at random. Pure arithmetic.

Some gateways refuse a share of all requests whatever the rate, because one of their backends has
used up its quota. A client that slows down is refused just as often, and ends at one request every
30 s. With a quota hardly anything is refused below its rate.
"""

import math

__all__ = ["Erratic"]

PAUSES = 6
"""Pauses to compare. Each wrong conclusion doubles the number for the next one."""

TOLD = 10
"""Pauses to compare if the server says how long to wait, as it then probably has a quota."""

PASSED = 12
"""Refusals may be random only if on average fewer requests than this pass between two pauses."""

SLOWER = 3.0
"""Refusals may be random only if the rate fell by this factor during those pauses."""

REQUESTS = 32
"""Requests over which the share of refusals is averaged once they seem to be random."""

IN_FLIGHT = 4
"""Requests added to that number for each request in flight, as refusals come back in one burst,
before the answers."""

TRIAL = 10
"""Requests, beyond those in flight, that show whether the conclusion was right."""

LET_IN = 3
"""If fewer of them than this pass, there is a quota. At random half of them would."""


class Erratic:
    """Compares how often requests are refused with how fast they are sent.

    Attributes:
        is_random: whether the server refuses at random, so that waiting does not help.
    """

    def __init__(self) -> None:
        self.is_random = False
        self._patience = 1  # doubled after each wrong conclusion
        self._pauses: list[tuple[float, int]] = []
        self._share = self._most = 0.0  # of refusals, since they seem to be random
        self._refused = self._passed = 0  # since then

    def passed(self, in_flight: int) -> None:
        """Record an accepted request, and how many are in flight."""
        self._share -= self._share / (REQUESTS + IN_FLIGHT * in_flight)
        self._passed += 1

    def refused(self, in_flight: int) -> None:
        """Record a refusal. If sending faster raises the share of refusals, there is a quota."""
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
        """Record the beginning of a pause.

        Args:
            rate: requests a second that were allowed before it; `None` if any number.
            passed: accepted requests since the previous pause.
            seconds: time since the previous pause; `inf` if this is the first.
            is_told: whether the server says how long to wait.
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
