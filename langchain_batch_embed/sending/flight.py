"""One request on its way, with the batches in it."""

import contextvars
from collections.abc import Sequence
from dataclasses import dataclass

from langchain_batch_embed.pacing.ticket import Ticket
from langchain_batch_embed.report import Tally
from langchain_batch_embed.sending.deployment import Deployment
from langchain_batch_embed.sending.odds import Place
from langchain_batch_embed.sending.queue import Queue
from langchain_batch_embed.sending.work import Batch, Send

__all__ = ["CANARY", "PROBE", "Flight"]

CANARY = "text"
"""Text that tests whether a server refuses everything or only some texts. It costs one token."""

PROBE = "The quick brown fox jumps over the lazy dog."
"""Canary of several deployments, whose vectors for it are compared. It is a sentence, like the
texts whose vectors must match. It costs ten tokens."""


@dataclass(slots=True, kw_only=True, eq=False)
class Flight:
    """One request.

    Attributes:
        at: the deployment that it is sent to.
        ticket: the ticket of the deployment's pacer.
        parts: the batches in it, with their queues; none for a canary.
        send: the function that sends it.
        timeout: its time-out in seconds.
        deadline: when a call ends that makes the time-out shorter than usual; `inf` if none does.
        texts: the texts in it.
        context: the caller's context, in which it is sent.
        place: its place among all requests, in the `Odds`.
        tally: counts it, as one of the requests of its first call.
        is_copy: whether it is a copy of a request in flight.
        is_hedge: whether it was paid from the budget for stragglers.
        is_undone: whether it could not be submitted, so that it must not be sent.
    """

    at: Deployment
    ticket: Ticket
    parts: Sequence[tuple[Queue, Batch]]
    send: Send
    timeout: float
    deadline: float
    context: contextvars.Context
    place: Place
    texts: Sequence[str]
    tally: Tally
    is_copy: bool = False
    is_hedge: bool = False
    is_undone: bool = False

    def count_failure(self, *, is_throttled: bool) -> None:
        """Count its failure in the reports of its calls; a refused copy costs nothing."""
        for queue, batch in self.parts:
            queue.tally.count(self.at.number, failed=1, throttled=is_throttled)
            if self.is_hedge and is_throttled:
                queue.hedges.spend(-batch.charge)
