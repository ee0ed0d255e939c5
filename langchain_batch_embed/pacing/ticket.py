"""One request, as the pacer knows it."""

from dataclasses import dataclass

__all__ = ["Ticket"]


@dataclass(slots=True, kw_only=True, eq=False)
class Ticket:
    """A request that was let through.

    Attributes:
        charge: the tokens that the limiter charges for it.
        work: of its inputs, in tokens.
        sent: when it was let through, in seconds of the pacer's clock.
        ended_tokens: tokens of the requests that had ended before it started.
        ended_requests: how many these were.
        number: how many were in flight with it.
        quiet: seconds before it in which nothing was sent.
    """

    charge: int
    work: int
    sent: float
    ended_tokens: float
    ended_requests: float
    number: int = 1
    quiet: float = 0.0
