"""The work of a call, its batches, and their outcomes."""

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
"""The place of a batch that was never sent."""


class Send(Protocol):
    """Sends texts in one request."""

    def __call__(self, texts: Sequence[str], *, timeout: float) -> Answer:
        """Return the checked answer, or raise within this many seconds."""
        ...


@dataclass(slots=True, kw_only=True, eq=False)
class Batch:
    """Inputs that are sent in one request.

    Attributes:
        rows: the rows of the inputs, shape (k,).
        tokens: by the stricter count, for the limit of a request.
        charge: tokens that the limiter charges.
        octets: UTF-8 bytes of the texts.
        work: the cost of the inputs to the server, in tokens.
        failures: how often the server could not answer it.
        place: the place of the request in which it was last sent.
        setbacks: the places of the requests in which it failed.
        failed_at: when the batch, or the one it is a part of, first failed.
        failed_last: when it last failed.
        is_alone: whether no request was answered between its last two failures.
        is_only: whether it is all that its call has to send.
        is_doubted: whether its text was refused alone before it was clear that texts are refused,
            and not everything.
        refused_before: requests sent until it, or the batch it is a part of, was first refused.
        part_of: the division that made it, if any.
        signature: the signature of the last error.
        is_mixed: whether its errors had different signatures.
        refusals: how often it was refused for the rate with no other request in flight.
        refused_again: how often its one text was sent again after a refusal.
        refused_with: the signature of a refusal that was not about its size; empty if there was
            none.
        trial: the trial of a size limit that it belongs to, if any.
        sent: when it was last sent, in seconds of the clock.
        number: requests in flight then, its own included.
        quiet: seconds before that in which nothing was sent.
        at: numbers of the deployments at which it is in flight, in order of sending.
        tried: numbers of the deployments that failed it since it last waited.
        barred: by number, when each deployment refused it that others may accept.
        error: the last error.
        is_awaited: whether its answer is awaited: its request does not wait for the user's rate
            limiter, and its vectors have not arrived.
        is_settled: whether it has its outcome, or was replaced by its parts.
        unpark: makes the batch ready again once a trial that it waits for has ended.
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
    is_only: bool = False
    is_doubted: bool = False
    refused_before: float = math.inf
    part_of: "Division | None" = None
    signature: str = ""
    is_mixed: bool = False
    refusals: int = 0
    refused_again: int = 0
    refused_with: str = ""
    trial: "Trial | None" = None
    sent: float = 0.0
    number: int = 1
    quiet: float = 0.0
    at: list[int] = field(default_factory=list)
    tried: set[int] = field(default_factory=set)
    barred: dict[int, float] = field(default_factory=dict)
    error: BaseException | None = None
    is_awaited: bool = True
    is_settled: bool = False
    unpark: "Callable[[Batch], None] | None" = None


@dataclass(slots=True, eq=False)
class Division:
    """A batch that was cut into parts.

    Attributes:
        batch: the batch that was cut.
        open: parts that are not fully answered yet.
    """

    batch: Batch
    open: int


@dataclass(slots=True, eq=False)
class Trial:
    """The search for the cause of a refusal with the parts of the refused batch.

    Attributes:
        signature: the signature of the refusal.
        measure: what the limit may count: `"items"`, `"tokens"` or `"octets"`.
        size: the size of the refused batch.
        found: the largest size that passed; `inf` before any did.
        open: parts without an outcome.
        is_content: whether it ended at one text, so that the size is not the cause.
        parked: batches refused in the same way, which wait for the result.
    """

    signature: str
    measure: str
    size: float = math.inf
    found: float = math.inf
    open: int = 1
    is_content: bool = False
    parked: list[Batch] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Done:
    """An answered batch, whose vectors `Work.keep` has taken."""

    rows: Rows


@dataclass(frozen=True, slots=True)
class Lost:
    """A batch that was given up, and why."""

    rows: Rows
    error: BaseException


Outcome = Done | Lost


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What a call has to send, and how.

    Attributes:
        rows: the rows of the inputs to send, in order, shape (m,).
        sizes: the sizes of all inputs, an entry a row.
        max_items: most inputs in one request.
        max_tokens: most tokens in one request.
        texts: the string of each row.
        sends: for each deployment, the function that sends texts within a time-out in seconds and
            returns the checked answer.
        canaries: the same for canaries; empty to use `sends`.
        keep: takes a checked answer in the worker's thread, before the caller sees it.
        makes_lists: whether the caller's thread makes lists of floats of each outcome.
        budget: the most that the call may cost; `None` for no limit.
        context: the caller's context, in which requests are sent, so that traces include them.
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
            is_only=len(rows) == len(self.rows),
        )
