"""Runs the real sender in simulated time against a simulated server.

`plan`, the tests and the benchmarks use it. Nothing is sent and nothing waits, so hours pass in
milliseconds.
"""

import heapq
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from langchain_batch_embed.sending.flight import Flight
from langchain_batch_embed.sending.queue import Queue
from langchain_batch_embed.sending.sender import Sender
from langchain_batch_embed.sending.work import Outcome, Rows

__all__ = ["Reply", "Request", "Server", "rehearse"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request on its way to the server; times are simulated seconds.

    Attributes:
        number: 0, 1, 2 ... in order of sending.
        at: the number of the deployment that it is sent to.
        rows: the inputs that it holds, shape (n,); none for the canary.
        tokens: tokens by the stricter count.
        charge: tokens that the limiter charges.
        sent: when it was sent.
        timeout: seconds after `sent` at which the client gives up.
    """

    number: int
    rows: Rows
    tokens: int
    charge: int
    sent: float
    timeout: float
    at: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """The answer to one request.

    Attributes:
        after: seconds from `sent` until the client has it; `inf` for never.
        headers: the headers of the answer.
        error: what an SDK raises; `None` for one right vector a text.
    """

    after: float
    headers: Mapping[str, str] = field(default_factory=dict)
    error: BaseException | None = None


class Server(Protocol):
    """A simulated server."""

    def receive(self, request: Request) -> Reply:
        """Return the reply to a request; called in order of `sent`."""
        ...


_NO_ROWS = np.empty(0, dtype=np.intp)


def rehearse(
    sender: Sender,
    queues: Sequence[Queue],
    server: Server,
    *,
    now: float = 0.0,
    take: Callable[[Outcome], object] = lambda _: None,
) -> float:
    """Run all calls to their end; return the time at which every input has its outcome.

    Args:
        sender: decides what to send when.
        queues: the calls, already added to the sender.
        server: replies to requests.
        now: the time of the beginning, in seconds.
        take: called with each outcome.

    Raises:
        RuntimeError: a call waits for something that never comes.
    """
    number = itertools.count()
    under_way: list[tuple[float, int, Flight, Reply]] = []  # a heap by time
    while any(queue.open for queue in queues):
        turn = sender.next(now)
        if isinstance(turn, Flight):
            request = _request(turn, next(number), now)
            reply = server.receive(request)
            after = min(reply.after, turn.timeout)
            heapq.heappush(under_way, (now + after, request.number, turn, reply))
            continue
        first = under_way[0][0] if under_way else math.inf
        if not any(queue.open for queue in queues):
            break  # a deadline has passed
        if math.isinf(turn) and math.isinf(first):
            raise RuntimeError("the rehearsal waits for an event that never happens")
        if first <= now + turn:
            now, _, flight, reply = heapq.heappop(under_way)
            if reply.after > flight.timeout:
                sender.failed(flight, TimeoutError(), now)
            elif reply.error is not None:
                sender.failed(flight, reply.error, now)
            else:
                sender.answered(flight, now, headers=reply.headers)
        else:
            now += turn
        for queue in queues:
            while queue.hands_over():
                take(queue.outcomes.popleft())
    return now


def _request(flight: Flight, number: int, now: float) -> Request:
    batches = [batch for _, batch in flight.parts]
    return Request(
        number=number,
        rows=np.concatenate([_NO_ROWS, *(batch.rows for batch in batches)]),
        tokens=sum(batch.tokens for batch in batches),
        charge=flight.ticket.charge,
        sent=now,
        timeout=flight.timeout,
        at=flight.at.number,
    )
