"""What is sent: a call's work, its batches, how they are cut smaller, and what becomes of them."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from langchain_batch_embed.providers import Answer
from langchain_batch_embed.retry import Split

__all__ = ["SAFETY", "Batch", "Done", "Lost", "Outcome", "Work", "halves", "parts"]

SAFETY = 0.95
"""A limit that a refusal let us compute is used at this share: it rests on an estimate."""


@dataclass(slots=True, kw_only=True)
class Batch:
    """Inputs that are sent in one request.

    Attributes:
        rows: the rows of the inputs, shape (k,).
        weight: tokens by the stricter count, for the limit of a request.
        charge: tokens that the limiter charges.
        attempt: how often it was retried.
        sent: when it was sent last, in seconds of the clock.
        copies: requests for it that are in flight: 1, or 2 where it is hedged.
    """

    rows: NDArray[np.intp]
    weight: int
    charge: int
    attempt: int = 0
    sent: float = 0.0
    copies: int = 0


@dataclass(frozen=True, slots=True)
class Done:
    """A batch whose vectors are there: `Work.keep` has taken them."""

    rows: NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Lost:
    """A batch that is given up, and why."""

    rows: NDArray[np.intp]
    error: BaseException


Outcome = Done | Lost


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What a run has to do, and with what.

    Attributes:
        batches: rows that belong into one request, in the order in which they should start.
        max_items: inputs in one request, at most, where batches are put together.
        max_tokens: tokens in one request, at most, likewise.
        weights: tokens of each row by the stricter count, shape (rows,).
        charges: tokens that the limiter charges for each row, shape (rows,).
        send: sends the rows within a time-out in seconds, and returns the checked answer.
        keep: takes a checked answer in the worker's thread, before anybody else sees them.
        lists: the caller's thread makes lists of floats of each outcome that it is handed.
    """

    batches: Sequence[NDArray[np.intp]]
    max_items: float
    max_tokens: float
    weights: NDArray[np.int64]
    charges: NDArray[np.int64]
    send: Callable[[NDArray[np.intp], float], Answer]
    keep: Callable[[NDArray[np.intp], Answer], None]
    lists: bool = False


def halves(rows: NDArray[np.intp]) -> list[NDArray[np.intp]]:
    """Cut rows into two batches."""
    return np.array_split(rows, 2)


def parts(rows: NDArray[np.intp], split: Split) -> list[NDArray[np.intp]]:
    """Cut rows as a refusal asks for; each part is smaller than the whole."""
    if split.at is not None:
        around = (rows[: split.at], rows[split.at : split.at + 1], rows[split.at + 1 :])
        return [part for part in around if len(part)]
    count = 2
    if split.max_items is not None:
        count = math.ceil(len(rows) / split.max_items)
    elif split.shrink is not None:
        count = math.ceil(1 / max(1e-6, split.shrink * SAFETY))
    return np.array_split(rows, max(2, min(count, len(rows))))
