"""Helpers for the tests of the sending room: work of any size, and servers of ten lines."""

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from langchain_batch_embed.pacing.hedging import Hedges
from langchain_batch_embed.pacing.pacer import MAX_OUTAGE, Pacer
from langchain_batch_embed.providers import Answer
from langchain_batch_embed.report import Tally
from langchain_batch_embed.sending.deployment import Deployment
from langchain_batch_embed.sending.queue import Queue
from langchain_batch_embed.sending.rehearsal import Reply, Request, Server, rehearse
from langchain_batch_embed.sending.sender import Sender
from langchain_batch_embed.sending.work import Done, Lost, Outcome, Send, Work
from langchain_batch_embed.texts.packing import Sizes
from tests.simulated.refusals import StatusError

__all__ = [
    "FakeServer",
    "Rehearsal",
    "answer",
    "done",
    "lost",
    "make_sender",
    "make_work",
    "refusal",
    "send_ones",
]


def answer(count: int, headers: Mapping[str, str] | None = None) -> Answer:
    """Return vectors of ones for this many texts."""
    return Answer(vectors=np.ones((count, 2), dtype=np.float32), headers=headers or {})


def send_ones(texts: Sequence[str], *, timeout: float) -> Answer:  # noqa: ARG001
    """Answer each text with a vector of ones."""
    return answer(len(texts))


def make_work(
    count: int,
    *,
    begin: int = 0,
    tokens: int | Sequence[int] = 10,
    max_items: int = 2048,
    max_tokens: float = math.inf,
    send: Send = send_ones,
    keep: Callable[..., None] = lambda rows, answer: None,  # noqa: ARG005
    makes_lists: bool = False,
) -> Work:
    """Return work on texts `"0"`, `"1"`, ... of this many tokens, starting at row `begin`."""
    each = np.zeros(begin + count, dtype=np.int64)
    each[begin:] = tokens
    return Work(
        rows=np.arange(begin, begin + count),
        sizes=Sizes(tokens=each, charges=each, octets=4 * each),
        max_items=max_items,
        max_tokens=max_tokens,
        texts=[str(row) for row in range(begin + count)],
        sends=(send,),
        keep=keep,
        makes_lists=makes_lists,
    )


def make_sender(
    *,
    max_workers: int = 8,
    is_known: bool = True,
    first_requests: int | None = None,
    max_retries: int = 5,
    timeout: float = 60.0,
    hedge: bool = False,
    max_outage: float = MAX_OUTAGE,
    tokens_per_minute: float | None = None,
    seed: int = 0,
) -> Sender:
    """Return a sender to a provider that is known to accept any number of requests."""
    draw = random.Random(seed).random
    pacer = Pacer(
        max_workers=max_workers,
        first_requests=first_requests or (max_workers if is_known else 8),
        is_known=is_known,
        tokens_per_minute=tokens_per_minute,
        max_outage=max_outage,
        draw=draw,
    )
    return Sender(
        [Deployment(pacer, max_retries=max_retries, timeout=timeout, draw=draw)], hedge=hedge
    )


def refusal(status: int, message: str = "No", **details: Any) -> StatusError:
    """Return the error that an SDK raises for an answer with this status."""
    return StatusError(status, message, **details)


@dataclass
class FakeServer:
    """A server defined by one function.

    Attributes:
        error: returns the error of a request, or `None` for an answer.
        seconds: time until the answer, or a function of the request.
        requests: all requests received so far.
    """

    error: Callable[[Request], Exception | None] = lambda _: None
    seconds: float | Callable[[Request], float] = 0.1
    requests: list[Request] = field(default_factory=list)

    def receive(self, request: Request) -> Reply:
        """Return what the functions say."""
        self.requests.append(request)
        seconds = self.seconds if isinstance(self.seconds, float) else self.seconds(request)
        return Reply(after=seconds, error=self.error(request))

    def rows(self) -> list[int]:
        """Return the received rows; a row that was received twice occurs twice."""
        return [row for request in self.requests for row in request.rows.tolist()]


@dataclass
class Rehearsal:
    """Calls of one object in simulated time.

    Attributes:
        sender: makes the decisions.
        server: answers the requests.
        tally: counts of all calls together.
        outcomes: what the callers received.
        queues: one queue for each call.
    """

    sender: Sender
    server: Server
    tally: Tally = field(default_factory=Tally)
    outcomes: list[Outcome] = field(default_factory=list)
    queues: list[Queue] = field(default_factory=list)

    def add(self, work: Work, *, now: float = 0.0, deadline: float | None = None) -> Queue:
        """Begin a call."""
        queue = self.sender.queue(work, self.tally, Hedges(), deadline=deadline, since=now)
        self.sender.add(queue, now)
        self.queues.append(queue)
        return queue

    def run(self, *, now: float = 0.0) -> float:
        """Send everything and return the time at which the last input has its outcome."""
        end = rehearse(self.sender, self.queues, self.server, now=now, take=self.outcomes.append)
        for queue in self.queues:
            self.outcomes.extend(queue.outcomes)
            queue.outcomes.clear()
            self.sender.remove(queue)
        return end


def done(outcomes: Sequence[Outcome]) -> list[int]:
    """Return the rows that have a vector, in order."""
    return sorted(
        row for outcome in outcomes if isinstance(outcome, Done) for row in outcome.rows.tolist()
    )


def lost(outcomes: Sequence[Outcome]) -> dict[int, BaseException]:
    """Return the error of each row that has no vector, in row order."""
    found = {
        row: outcome.error
        for outcome in outcomes
        if isinstance(outcome, Lost)
        for row in outcome.rows.tolist()
    }
    return dict(sorted(found.items()))
