"""What is sent: a call's work, its batches, and what becomes of them."""

import contextvars
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from langchain_batch_embed.providers import Answer
from langchain_batch_embed.sending.budget import Budget
from langchain_batch_embed.sending.odds import Odds, Place
from langchain_batch_embed.texts.packing import Sizes

__all__ = ["Batch", "Division", "Done", "Lost", "Outcome", "Rows", "Send", "Trial", "Work"]

Rows = NDArray[np.intp]


_NOWHERE = Place(Odds(), -1)
"""The place of what was not sent."""


class Send(Protocol):
    """Sends texts in one request."""

    def __call__(self, texts: Sequence[str], *, timeout: float) -> Answer:
        """Return the checked answer, or raise after this many seconds at the latest."""
        ...


@dataclass(slots=True, kw_only=True, eq=False)
class Batch:
    """Inputs that are sent in one request.

    Attributes:
        rows: the rows of the inputs, shape (k,).
        tokens: by the stricter count, for the limit of a request.
        charge: tokens that the limiter charges.
        octets: UTF-8 bytes of the texts.
        work: what the inputs cost a server, in tokens.
        failures: how often the server could not answer it.
        place: of the request that it was sent in last.
        setbacks: the places of those that failed.
        failed_at: when it, or what it is a part of, failed first.
        failed_last: when it failed last.
        is_alone: nobody was answered between its last two failures.
        part_of: what was cut to make it, if anything.
        signature: of the last error.
        refusals: how often it was refused for the rate with nothing else in flight.
        trial: the size that is being found out with it, if any.
        sent: when it was sent last, in seconds of the clock.
        number: requests that were in flight then, its own among them.
        quiet: seconds before that in which nothing was sent.
        at: the numbers of the deployments that it is in flight at, the last one last.
        tried: numbers of the deployments that failed it since it last waited.
        barred: when each of the deployments refused it, by number, where others may not.
        error: the last one.
        is_settled: whether it has its outcome, or was replaced by its parts.
        unpark: makes the batch ready again, where it waits for what a trial tells.
    """

    rows: Rows
    tokens: int
    charge: int
    octets: int
    work: int
    failures: int = 0
    place: Place = _NOWHERE
    setbacks: tuple[Place, ...] = ()
    failed_at: float = math.inf
    failed_last: float = -math.inf
    is_alone: bool = False
    part_of: "Division | None" = None
    signature: str = ""
    refusals: int = 0
    trial: "Trial | None" = None
    sent: float = 0.0
    number: int = 1
    quiet: float = 0.0
    at: list[int] = field(default_factory=list)
    tried: set[int] = field(default_factory=set)
    barred: dict[int, float] = field(default_factory=dict)
    error: BaseException | None = None
    is_settled: bool = False
    unpark: "Callable[[Batch], None] | None" = None


@dataclass(slots=True, eq=False)
class Division:
    """A batch that was cut into parts.

    Attributes:
        batch: what was cut.
        open: parts that are not answered yet, wholly.
    """

    batch: Batch
    open: int


@dataclass(slots=True, eq=False)
class Trial:
    """One refusal whose cause is being found out with the parts of the refused batch.

    Attributes:
        signature: of the refusal.
        measure: what the limit would be in: `"items"`, `"tokens"` or `"octets"`.
        found: the size that got through; `inf` before any did.
        open: parts without an outcome.
        is_content: it ended at one text, so the size is not the cause.
        parked: batches refused in the same way, which wait for what is found out.
    """

    signature: str
    measure: str
    found: float = math.inf
    open: int = 1
    is_content: bool = False
    parked: list[Batch] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Done:
    """A batch whose vectors are there: `Work.keep` has taken them."""

    rows: Rows


@dataclass(frozen=True, slots=True)
class Lost:
    """A batch that is given up, and why."""

    rows: Rows
    error: BaseException


Outcome = Done | Lost


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What a call has to send, and with what.

    Attributes:
        rows: the rows of the inputs that are to be sent, in order, shape (m,).
        sizes: what each row of all inputs costs.
        max_items: inputs in one request, at most.
        max_tokens: tokens in one request, at most.
        texts: the string of each row.
        sends: for each deployment, what sends texts to it within a time-out in seconds, and returns
            the checked answer.
        canaries: what sends a canary to each, where that is something else.
        keep: takes a checked answer in the worker's thread, before anybody else sees it.
        makes_lists: the caller's thread makes lists of floats of each outcome that it is handed.
        budget: what it may cost; `None`: anything.
        context: the caller's context, in which requests are sent: traces depend on it.
    """

    rows: Rows
    sizes: Sizes
    max_items: int
    max_tokens: float
    texts: Sequence[str]
    sends: tuple[Send, ...]
    keep: Callable[[Rows, Answer], None]
    canaries: tuple[Send, ...] = ()
    makes_lists: bool = False
    budget: Budget | None = None
    context: contextvars.Context = field(default_factory=contextvars.copy_context)

    def batch(self, rows: Rows) -> Batch:
        """Return the rows as one batch."""
        sizes = self.sizes
        tokens = int(sizes.tokens[rows].sum())
        return Batch(
            rows=rows,
            tokens=tokens,
            charge=int(sizes.charges[rows].sum()),
            octets=int(sizes.octets[rows].sum()),
            work=tokens + sizes.input_work * len(rows),
        )
