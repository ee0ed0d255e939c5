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

LONGER = 2
"""Once a batch was accepted after some refusals, others may be refused this many times as often, if
that is more than `AWAY` or `BATCH`."""

MOST = 3
"""No more refusals than this count for that, as a server that refuses at random may refuse a batch
any number of times. Twice as many pauses take up to 25 s, which is enough where one request in ten
seconds is accepted."""


class Overload:
    """Refusals for overload by one server."""

    def __init__(self) -> None:
        self._refusals = 0  # of requests that were alone, each after few answers
        self._answers = 0.0  # before the last of them
        self._most = 0  # refusals of a batch that was accepted in the end

    def refused(self, answers: float) -> None:
        """Record the refusal of a request with no other request in flight.

        Args:
            answers: how many answers the server has given so far.
        """
        since, self._answers = answers - self._answers, answers
        if since > FEW:
            self._refusals = self._most = 0
        self._refusals += since > 0

    def accepted(self, refusals: int) -> None:
        """Record that a batch was accepted after this many refusals, so they were about a rate.

        An answer to any other request shows nothing: a text that breaks the server is refused for
        as long as it is sent.
        """
        self._most = max(self._most, min(refusals, MOST))

    def is_rate(self, *, pauses: int, refusals: int) -> bool:
        """Return whether the last refusal was a rate limit.

        Args:
            pauses: rate-limit pauses since the last answer.
            refusals: refusals of the same batch that were taken for a rate limit before.
        """
        often = LONGER * self._most
        return self._refusals > 1 and pauses < max(AWAY, often) and refusals < max(BATCH, often)
