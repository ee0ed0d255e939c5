"""Decides whether a 503 is a rate limit. Pure arithmetic.

A proxy such as nginx (`limit_req`) answers 503 to requests that come too soon. Unlike a server that
is away, it answers in between; and unlike an overloaded server, it refuses requests that are alone.
"""

__all__ = ["Overload"]

FEW = 2
"""Most answers between two refusals of a rate limit."""

AWAY = 4
"""After this many pauses of 0.5 to 4 s without an answer, a 503 is not a rate limit."""

BATCH = 3
"""Most refusals of one batch that count as a rate limit. After that one of its texts may be what
breaks the server."""


class Overload:
    """Refusals for overload by one server."""

    def __init__(self) -> None:
        self._refusals = 0  # of requests that were alone, each after few answers
        self._answers = 0.0  # before the last of them

    def refused(self, answers: float) -> None:
        """Record the refusal of a request with no other request in flight.

        Args:
            answers: how many answers the server has given so far.
        """
        since, self._answers = answers - self._answers, answers
        if since > FEW:
            self._refusals = 0
        self._refusals += since > 0

    def is_rate(self, *, pauses: int, refusals: int) -> bool:
        """Return whether the last refusal was a rate limit.

        Args:
            pauses: rate-limit pauses since the last answer.
            refusals: refusals of the same batch that were taken for a rate limit before.
        """
        return self._refusals > 1 and pauses < AWAY and refusals < BATCH
