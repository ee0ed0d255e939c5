"""Whether a server refuses at random: pure arithmetic.

Some gateways refuse a share of all requests whatever the rate, as one of their backends has used up
its quota. Whoever slows down is refused as often as before, and ends at one request in half a
minute. A quota is different: below its rate hardly anything is refused.
"""

import math

__all__ = ["Erratic"]

PAUSES = 6
"""Pauses that are compared. Each wrong conclusion doubles the number for the next one."""

TOLD = 10
"""Pauses that are compared where the server says how long to wait, as it probably keeps a quota."""

PASSED = 12
"""Refusals may be random only if fewer requests than this pass between two pauses on average."""

SLOWER = 3.0
"""Refusals may be random only if the rate fell by this factor during those pauses."""

REQUESTS = 32
"""Requests over which the share of refused ones is averaged, once they seem to be random."""

IN_FLIGHT = 4
"""Requests by which that number grows for each one in flight. Refusals come back in one burst,
before the answers."""

TRIAL = 10
"""Requests, beside those in flight, that show whether the conclusion was right."""

LET_IN = 3
"""If fewer of them than this pass, it is a quota. At random, half of them would."""


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
