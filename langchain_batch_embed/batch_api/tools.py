"""The tools that all modules working on a job share, and new ids."""

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from langchain_batch_embed.batch_api.service import BatchService
from langchain_batch_embed.batch_api.store import JobStore
from langchain_batch_embed.clock import Calendar
from langchain_batch_embed.errors import Failure
from langchain_batch_embed.journal import Journal, Space
from langchain_batch_embed.report import Report

__all__ = ["EmbedNow", "Tools", "known", "new_id"]

_LOOKED_UP = 2048
"""Keys to look up at once: 12 MB of vectors at 1,536 dimensions."""


class EmbedNow(Protocol):
    """Embeds texts by ordinary requests, and puts the vectors into the journal."""

    def __call__(self, texts: list[str]) -> tuple[Report, Sequence[Failure]]:
        """Return what the requests cost, and the texts without a vector."""
        ...


@dataclass(frozen=True, kw_only=True)
class Tools:
    """Everything that the work on a job needs.

    Attributes:
        store: the tables of the jobs.
        service: the Batch API.
        journal: the journal for the vectors.
        space: the space of the vectors.
        dimensions: dimensions that the requests ask for; `None` for the model's default.
        body: the JSON of a request without its texts.
        empty: the string to send for an empty text.
        agree: raises if vectors of these dimensions and this model differ from earlier ones.
        expect_model: sets the model that earlier answers named.
        embed_now: embeds texts by ordinary requests, into the journal.
        note_usage: called with the model, the number of texts and the tokens of each billed line.
        calendar: gives the time, and sleeps.
    """

    store: JobStore
    service: BatchService
    journal: Journal
    space: Space
    dimensions: int | None
    body: Mapping[str, Any]
    empty: str
    agree: Callable[[int, str | None], None]
    expect_model: Callable[[str | None], None]
    embed_now: EmbedNow
    note_usage: Callable[[str | None, int, int], object]
    calendar: Calendar


def new_id() -> str:
    """Return a new unique id."""
    return uuid.uuid4().hex


def known(journal: Journal, keys: Sequence[bytes]) -> NDArray[np.bool_]:
    """Return which keys are in a journal, as booleans of shape (n,).

    The keys are looked up a few at a time, because the journal reads the vectors too.
    """
    found = np.zeros(len(keys), np.bool_)
    for start in range(0, len(keys), _LOOKED_UP):
        positions, _ = journal.get(keys[start : start + _LOOKED_UP])
        found[start + positions] = True
    return found
