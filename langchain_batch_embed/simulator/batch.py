"""Files and batches, and the objects that OpenAI's Batch API shows of them at any time."""

import math
import random
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from .batch_scenario import Fate
from .scenario import Scenario

ENDPOINT: Final = "/v1/embeddings"
ENDED: Final = ("completed", "failed", "expired", "cancelled")

_FILE_DAYS: Final = 30
_SECONDS_OF_A_DAY: Final = 86_400
_LEAST: Final = 1e-9  # so that a rounding error does not hide an answered line


@dataclass(kw_only=True, eq=False)
class File:
    """A file that was uploaded, or that a batch has written.

    Attributes:
        uploaded: time of the upload, in seconds of the server's clock.
        content: the bytes of an uploaded file.
        lines: the lines of a batch's file, which are computed when they are read.
        size: size in bytes; 0 for a batch's file, whose size is not known.

    """

    id: str
    name: str
    purpose: str
    uploaded: float
    created_at: int
    content: bytes = b""
    lines: Iterable[bytes] | None = None
    size: int = 0

    def shown(self) -> dict[str, Any]:
        """Return the file as a JSON object of the API."""
        return {
            "id": self.id,
            "object": "file",
            "bytes": self.size,
            "created_at": self.created_at,
            "expires_at": self.created_at + _FILE_DAYS * _SECONDS_OF_A_DAY,
            "filename": self.name,
            "purpose": self.purpose,
            "status": "processed",
            "status_details": None,
        }


@dataclass(slots=True, kw_only=True)
class Line:
    """One request of a batch, with its size and what happens to it.

    Attributes:
        place: where the JSON of the line begins and ends in the file.
        texts: hashes of its texts, for the bill.
        refusal: the status and body that answer the line; `None` if vectors answer it.
        fault: the fault that spoils its answer, if any.

    """

    custom_id: str
    place: tuple[int, int]
    texts: tuple[int, ...] = ()
    tokens: int = 0
    charge: int = 0
    refusal: tuple[int, Mapping[str, Any]] | None = None
    fault: str | None = None

    @property
    def is_billed(self) -> bool:
        """Whether vectors are computed for this line."""
        return self.refusal is None and self.fault not in ("missing", "status_0")


@dataclass(kw_only=True, eq=False)
class Batch:
    """A batch, with its lines and the times of its states.

    Attributes:
        number: number of batches created before this one.
        is_read: whether its file has been read; until then the batch stays in validation.
        created: time of creation, in seconds of the server's clock, like `cancelled`.
        order: indices of the lines, in the order in which they are answered.
        failure: why its validation fails; `None` if it does not.
        billed: how many lines, from the start of `order`, have been billed.

    """

    id: str
    number: int
    input_file: File
    metadata: Mapping[str, str] | None
    scenario: Scenario
    created: float
    created_at: int
    fate: Fate
    listed_from: float
    is_read: bool = False
    lines: list[Line] = field(default_factory=list)
    order: list[int] = field(default_factory=list)
    failure: Mapping[str, Any] | None = None
    cancelled: float | None = None
    billed: int = 0
    output_id: str = ""
    error_id: str = ""

    def status(self, now: float) -> str:
        """Return the status of the batch at a time."""
        api = self.scenario.batch_api
        if not self.is_read:
            return "validating"
        if self.failure is not None:
            return "validating" if now < self._runs_from else "failed"
        if self.cancelled is not None:
            is_dead = self.fate == "stuck_for_good"
            return "cancelling" if is_dead or now < self.cancelled + api.cancelling else "cancelled"
        if now < self._runs_from or (self.fate == "stuck_validating" and now < self._expires):
            return "validating"
        done = self._runs_from + self._runs_for
        if now < min(done, self._expires):
            return "in_progress"
        if done > self._expires or self.fate == "expires":
            return "expired"
        return "finalizing" if now < done + api.finalizing else "completed"

    def answered(self, now: float) -> list[Line]:
        """Return the lines that have been answered by this time, in the order of their answers."""
        if self.failure is not None or not self.is_read:
            return []
        end = math.inf if self.cancelled is None else self.cancelled
        ran = min(now, end, self._expires) - self._runs_from
        share = 1.0 if self._runs_for <= 0 <= ran else ran / max(self._runs_for, _LEAST)
        count = int(len(self.order) * min(1.0, max(0.0, share)) + _LEAST)
        return [self.lines[index] for index in self.order[:count]]

    def written(self, now: float) -> tuple[list[Line], list[Line]]:
        """Return the lines of the output file and of the error file of a batch that has ended."""
        answered = self.answered(now)
        output, errors = [], []
        for line in answered:
            if line.refusal is not None:
                errors.append(line)
            elif line.fault != "missing":
                output += [line] * (2 if line.fault == "twice" else 1)
        if self.status(now) == "expired":
            errors += [self.lines[index] for index in self.order[len(answered) :]]
        if self.scenario.batch_api.shuffled:
            random.Random(self.number).shuffle(output)  # noqa: S311 - not for security
        return output, errors

    def shown(self, now: float) -> dict[str, Any]:
        """Return the batch as a JSON object of the API."""
        status, answered = self.status(now), self.answered(now)
        failed = sum(line.refusal is not None for line in answered)
        runs = self.failure is None and status != "validating"
        stamps = dict.fromkeys(f"{state}_at" for state in (*ENDED, "cancelling", "finalizing"))
        if f"{status}_at" in stamps:
            stamps[f"{status}_at"] = int(time.time())
        errors = {"object": "list", "data": [self.failure]} if status == "failed" else None
        ids = self.output_id, self.error_id
        return {
            "id": self.id,
            "object": "batch",
            "endpoint": ENDPOINT,
            "errors": errors,
            "input_file_id": self.input_file.id,
            "completion_window": "24h",
            "status": status,
            "output_file_id": ids[0] or self._no_id,
            "error_file_id": ids[1] or self._no_id,
            "created_at": self.created_at,
            "in_progress_at": self.created_at if runs else None,
            "expires_at": self.created_at + _SECONDS_OF_A_DAY,
            **stamps,
            "request_counts": {
                "total": len(self.lines) if runs else 0,
                "completed": len(answered) - failed,
                "failed": failed,
            },
            "metadata": self.metadata,
        }

    @property
    def _no_id(self) -> str | None:
        return "" if self.scenario.batch_api.empty_ids == "empty" else None

    @property
    def _runs_from(self) -> float:
        return self.created + self.scenario.batch_api.validating

    @property
    def _runs_for(self) -> float:
        api = self.scenario.batch_api
        if self.fate.startswith("stuck"):
            return math.inf
        if self.fate == "expires":
            return (api.day - api.validating) / api.expired_share
        return api.running

    @property
    def _expires(self) -> float:
        is_dead = self.fate == "stuck_for_good"
        return math.inf if is_dead else self.created + self.scenario.batch_api.day
