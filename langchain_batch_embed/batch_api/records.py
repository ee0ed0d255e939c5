"""The records of jobs in the journal; of each text they hold only the digest."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["KEY_BYTES", "JobRecord", "Line", "LineState", "Part", "PartState"]

KEY_BYTES = 20
"""Bytes of a key; see `content_keys`."""

PartState = Literal["packed", "uploading", "ready", "asked", "running", "ended", "closed"]
"""How far a part has come.

`packed`: it has no file yet. `uploading`: the upload has begun, so a file may exist. `ready`: it
has a file and no batch. `asked`: a batch was requested, and may or may not exist. `running`: it has
a batch. `ended`: the batch has ended, and its answers are still to be read. `closed`: nothing is
left to do.
"""

LineState = Literal["open", "done", "failed", "cancelled"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Line:
    """One request of a batch, with one or more texts.

    Attributes:
        id: the request's `custom_id`.
        keys: the texts' keys in the journal.
        places: the index of each text in the caller's list, shape (n,).
        tokens: tokens of each text, shape (n,), by the stricter count: the larger of the model's
            and the rate limiter's.
        sent: how many times the request has failed at the server.
        state: `"open"` until the line is done, has failed or is cancelled.
        error: why the line has failed.
    """

    id: str
    keys: tuple[bytes, ...]
    places: NDArray[np.int32]
    tokens: NDArray[np.int32]
    sent: int = 0
    state: LineState = "open"
    error: str | None = None

    @property
    def weight(self) -> int:
        """Tokens of all texts of the line."""
        return int(self.tokens.sum())


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One file of a job, and its batch.

    All times are in seconds since 1970.

    Attributes:
        id: the part's id, also used as the file's name, so that the file can be found.
        job: the job's id.
        number: the part's position in the job, from 0; its successors have the same number.
        state: how far the part has come.
        source: the part whose file holds the texts until this one has a file of its own.
        file_id: the part's file at the server.
        texts: how many texts the part has.
        tokens: tokens of all texts, by the stricter count.
        octets: size of the file in bytes; 0 before the file is made.
        attempt: how many batches were requested for the part; each has an intent of its own.
        anchor: the account's newest batch just before the part's batch was requested.
        asked: when the batch was requested.
        doubted: when the search for an unconfirmed batch began; 0 if there was none.
        batch_id: the part's batch at the server.
        status: the batch's state at the server.
        answered: share of the lines that are answered, by the server's count.
        output_id: the file with the answers.
        error_id: the file with the errors.
        tries: failures in a row; a batch that passes the server's validation resets the count.
        not_before: the earliest time of the next step.
        trouble: why the part has to wait.
        alike: how many of the last failures were for this same reason.
        is_cancelling: whether the server was asked to cancel the batch.
    """

    id: str
    job: str
    number: int
    state: PartState = "packed"
    source: str | None = None
    file_id: str | None = None
    texts: int
    tokens: int
    octets: int = 0
    attempt: int = 0
    anchor: str | None = None
    asked: float = 0.0
    doubted: float = 0.0
    batch_id: str | None = None
    status: str | None = None
    answered: float = 0.0
    output_id: str | None = None
    error_id: str | None = None
    tries: int = 0
    not_before: float = 0.0
    trouble: str | None = None
    alike: int = 0
    is_cancelling: bool = False

    @property
    def intent(self) -> str:
        """The string in the batch's metadata that identifies the batch."""
        return f"{self.id}-{self.attempt}"

    @property
    def file_name(self) -> str:
        """The name of the part's file."""
        return f"{self.id}.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRecord:
    """One job.

    All times are in seconds since 1970.

    Attributes:
        id: the job's name.
        space: the digest of the `Space` of its vectors.
        model: the model's name.
        created: when the job was submitted.
        finish_by: the deadline, met with ordinary requests for late texts; `None` if there is none.
        max_dollars: the most that the job may cost; `None` if there is no limit.
        price: dollars for a million tokens of ordinary requests; `None` if not known.
        texts: how many texts the caller gave.
        unique: how many of them are different.
        recalled: unique texts whose vectors were already in the journal.
        inputs: how many inputs this job sends: texts, and windows of over-long texts.
        shared: how many inputs of this job are sent by earlier jobs.
        waits_for: the ids of those jobs.
        tokens: tokens of all inputs, by the stricter count.
        seconds: expected seconds of ordinary requests for all inputs; 0 without a deadline.
        cancelled: when the job was cancelled.
        ended: when nothing was left to do.
        half_tokens: tokens billed at half the price.
        full_tokens: tokens billed at the full price.
        requests: how many ordinary requests were sent.
        batches: how many batches were created.
        overtaken: inputs sent by ordinary requests before their batch was known to have ended.
        barren: batches in a row, or portions of ordinary requests, that brought no answer.
        fatal: why the job cannot continue.
        answered_by: the model that the answers name.
    """

    id: str
    space: bytes
    model: str
    created: float
    finish_by: float | None = None
    max_dollars: float | None = None
    price: float | None = None
    texts: int = 0
    unique: int = 0
    recalled: int = 0
    inputs: int = 0
    shared: int = 0
    waits_for: tuple[str, ...] = ()
    tokens: int = 0
    seconds: float = 0.0
    cancelled: float | None = None
    ended: float | None = None
    half_tokens: int = 0
    full_tokens: int = 0
    requests: int = 0
    batches: int = 0
    overtaken: int = 0
    barren: int = 0
    fatal: str | None = None
    answered_by: str | None = None
