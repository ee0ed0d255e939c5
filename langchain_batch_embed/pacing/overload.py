"""Whether a refusal for overload is about a rate: pure arithmetic.

A proxy such as nginx (`limit_req`) answers 503 to what comes too soon. Unlike a server that is away
it gives answers in between, and unlike one with too much to do it refuses requests that are alone.
"""

__all__ = ["Overload"]

FEW = 2
"""Answers between two refusals, at most, where these are for the rate."""

AWAY = 4
"""After this many pauses without an answer, 0.5 to 4 s long, an overload is no matter of rate."""

BATCH = 3
"""Refusals of one batch that are taken for a matter of rate. After that one of its texts may be
what the server cannot bear."""


class Overload:
    """The refusals for overload of one server."""

    def __init__(self) -> None:
        self._refusals = 0  # of requests that were alone, each after few answers
        self._answers = 0.0  # before the last of them

    def refused(self, answers: float) -> None:
        """Note that a request was refused which had nothing in its way.

        Args:
            answers: how many the server has given so far.
        """
        since, self._answers = answers - self._answers, answers
        if since > FEW:
            self._refusals = 0
        self._refusals += since > 0

    def is_rate(self, *, pauses: int, refusals: int) -> bool:
        """Tell whether the last refusal was for the rate.

        Args:
            pauses: pauses for the rate since the last answer.
            refusals: of the same batch that were taken for a matter of rate before.
        """
        return self._refusals > 1 and pauses < AWAY and refusals < BATCH
