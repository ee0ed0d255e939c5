"""What the journal keeps about jobs: of each text only the digest."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["KEY_BYTES", "JobRecord", "Line", "LineState", "Part", "PartState"]

KEY_BYTES = 20
"""Bytes of a key, see `content_keys`."""

PartState = Literal["packed", "uploading", "ready", "asked", "running", "ended", "closed"]
"""How far a part is.

`packed`: it has no file yet. `uploading`: it may have one. `ready`: it has a file and no batch.
`asked`: a batch was asked for, and whether there is one is not known. `running`: it has a batch.
`ended`: the batch has ended, and its answers are yet to be read. `closed`: nothing is left to do.
"""

LineState = Literal["open", "done", "failed", "cancelled"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Line:
    """One request of a batch: several texts.

    Attributes:
        id: the request's `custom_id`.
        keys: the texts' keys in the journal.
        places: the index of each text among those that the caller gave, shape (n,).
        tokens: of each text by the stricter count, shape (n,).
        sent: how often the server has failed it.
        state: what became of it.
        error: why it has failed.
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
        """Tokens of all its texts."""
        return int(self.tokens.sum())


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One file of a job, and its batch.

    Attributes:
        id: also the name of its file, so that it can be found.
        job: the job's id.
        number: of parts before it in the job.
        state: how far it is.
        source: the part whose file holds the texts until this one has a file of its own.
        file_id: its file at the server.
        texts: how many it has.
        tokens: of all texts by the stricter count.
        octets: size of its file in bytes; 0 before it is made.
        attempt: how often a batch was asked for, on purpose.
        anchor: the newest batch of the account when one was asked for.
        asked: when it was asked for, in seconds since 1970, as all times.
        doubted: when the batch was first looked for, as its creation was not confirmed; 0: never.
        batch_id: its batch at the server.
        status: the batch's state at the server.
        answered: share of the lines that are answered, by the server's count.
        output_id: the file with the answers.
        error_id: the file with the errors.
        tries: how often in a row the same thing went wrong.
        not_before: when the next step may be done.
        trouble: why it has to wait.
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
    is_cancelling: bool = False

    @property
    def intent(self) -> str:
        """What the batch is recognised by, in its metadata."""
        return f"{self.id}-{self.attempt}"

    @property
    def file_name(self) -> str:
        """The name of its file."""
        return f"{self.id}.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRecord:
    """One job.

    Attributes:
        id: its name.
        space: the digest of what makes its vectors.
        model: the model's name.
        created: seconds since 1970, as all times.
        finish_by: when ordinary requests must have taken over what is late; `None`: never.
        max_dollars: what it may cost; `None`: anything.
        price: dollars for a million tokens of ordinary requests; `None`: not known.
        texts: that the caller gave.
        unique: different ones among them.
        recalled: unique texts whose vectors were in the journal.
        inputs: what this job sends: texts, and windows of over-long ones.
        shared: what earlier jobs send for this one too.
        waits_for: the ids of those jobs.
        tokens: of all inputs by the stricter count.
        seconds: that ordinary requests would take for all inputs.
        cancelled: when it was cancelled.
        ended: when nothing was left to do.
        half_tokens: tokens billed at half the price.
        full_tokens: tokens billed at the full price.
        requests: ordinary requests.
        batches: that were created.
        overtaken: inputs sent by ordinary requests while their batch had not confirmed its end.
        barren: batches in a row that ended without an answer.
        fatal: why the job cannot go on.
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
