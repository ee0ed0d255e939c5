"""One request, as the pacer sees it."""

from dataclasses import dataclass

__all__ = ["Ticket"]


@dataclass(slots=True, kw_only=True, eq=False)
class Ticket:
    """A request that was started.

    Attributes:
        charge: the tokens that the limiter charges for it.
        work: the work of its inputs, in tokens.
        sent: when it started, in seconds of the pacer's clock.
        ended_tokens: tokens of all requests that had ended before it started.
        ended_requests: the number of these requests.
        number: requests in flight when it started, itself included.
        quiet: seconds before it in which nothing was sent.
        is_refused: whether the server refused it for overload.
        is_held: whether it has not been sent yet, as it waits for the user's rate limiter.
    """

    charge: int
    work: int
    sent: float
    ended_tokens: float
    ended_requests: float
    number: int = 1
    quiet: float = 0.0
    is_refused: bool = False
    is_held: bool = False
