"""Keeps files and batches, as OpenAI's Batch API does."""

import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .batch import ENDED, ENDPOINT, Batch, File, Line
from .batch_output import Output
from .batch_scenario import Call
from .batch_validation import judged, read_lines, unseen
from .errors import Refusal, error, invalid
from .question import Cache
from .scenario import Scenario


class Batches:
    """All files and batches of one account.

    Args:
        scenario: times, limits and faults.
        cache: tokens and embeddings computed so far; `None` if the scenario keeps none.
        now: returns the time in seconds.

    """

    def __init__(
        self, scenario: Scenario, cache: Cache | None, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._scenario = scenario
        self._cache = cache
        self._now = now
        self.files: dict[str, File] = {}
        self.batches: dict[str, Batch] = {}
        self.uploaded = 0
        self.deleted = 0

    def upload(self, name: str, purpose: str, content: bytes, now: float) -> File:
        """Store an uploaded file and return it.

        Raises:
            Refusal: the file is too long, or is not meant for a batch.

        """
        api = self._scenario.batch_api
        if purpose != "batch":
            raise invalid(f"'{purpose}' is not one of ['batch']", "purpose")
        if not name.endswith(".jsonl"):
            raise invalid("Invalid file format for Batch API. Must be .jsonl", None)
        if len(content) > api.max_bytes:
            raise Refusal(413, error("Maximum content size limit exceeded."))
        self.uploaded += 1
        return self._keep(name, purpose, now, content=content)

    def file(self, file_id: str) -> File:
        """Return a file.

        Raises:
            Refusal: no file has that id.

        """
        if file_id not in self.files:
            raise Refusal(404, error(f"No such File object: {file_id}", param="id"))
        return self.files[file_id]

    def delete(self, file_id: str) -> None:
        """Delete a file.

        Raises:
            Refusal: no file has that id.

        """
        del self.files[self.file(file_id).id]
        self.deleted += 1

    def batch(self, batch_id: str) -> Batch:
        """Return a batch.

        Raises:
            Refusal: no batch has that id.

        """
        if batch_id not in self.batches:
            raise Refusal(404, error(f"No batch found with id '{batch_id}'.", param=None))
        return self.batches[batch_id]

    def create(self, options: Mapping[str, Any], now: float, call: Call) -> Batch:
        """Create a batch, without reading its file yet.

        Raises:
            Refusal: the options of the call are invalid.

        """
        for name in ("input_file_id", "endpoint", "completion_window"):
            if not isinstance(options.get(name), str):
                raise invalid(
                    f"Missing required parameter: '{name}'.", name, "missing_required_parameter"
                )
        if options["endpoint"] != ENDPOINT or options["completion_window"] != "24h":
            raise invalid("Invalid value: only /v1/embeddings within 24h.", None, "invalid_value")
        api = self._scenario.batch_api
        number = len(self.batches)
        file_id = options["input_file_id"]
        file = self.files.get(file_id)
        batch = Batch(
            id=f"batch_{uuid.uuid4().hex}",
            number=number,
            input_file=file or File(id=file_id, name="", purpose="", uploaded=now, created_at=0),
            metadata=options.get("metadata"),
            scenario=self._scenario,
            created=now,
            created_at=int(time.time()),
            fate=api.fates[number] if number < len(api.fates) else "ok",
            listed_from=now + (api.listed_after if call == "late" else 0.0),
        )
        hidden = file is None or now < file.uploaded + api.visible_after
        if hidden or batch.fate == "unseen_file":
            batch.failure = unseen(file_id)
        self.batches[batch.id] = batch
        return batch

    def read(self, batch: Batch) -> None:
        """Read the file of a new batch, which takes long, and only then start its timetable."""
        batch.failure = batch.failure or read_lines(batch, self._cache)
        batch.created = self._now()
        batch.failure = batch.failure or judged(batch, self._enqueued(batch.created))
        batch.is_read = True

    def cancel(self, batch: Batch, now: float) -> None:
        """Start to cancel a batch.

        Raises:
            Refusal: the batch has ended already.

        """
        status = batch.status(now)
        if status in ENDED:
            raise Refusal(409, error(f"Cannot cancel a batch with status '{status}'."))
        if batch.cancelled is None:
            batch.cancelled = now

    def settle(self, now: float) -> list[Line]:
        """Write the files of batches that have ended, and return the lines to bill now."""
        billed = []
        for batch in self.batches.values():
            answered = batch.answered(now)
            billed += [line for line in answered[batch.billed :] if line.is_billed]
            batch.billed = len(answered)
            if batch.status(now) in ENDED and not batch.output_id and not batch.error_id:
                self._write(batch, now)
        return billed

    def listed(self, now: float) -> list[Batch]:
        """Return the batches that the list shows, newest first."""
        return [batch for batch in reversed(self.batches.values()) if batch.listed_from <= now]

    def stats(self, now: float) -> dict[str, Any]:
        """Return the counters of files and batches, as `Simulator.stats` describes them."""
        return {
            "batches": [
                {
                    "id": batch.id,
                    "status": batch.status(now),
                    "metadata": batch.metadata,
                    "lines": len(batch.lines),
                    "inputs": sum(len(line.texts) for line in batch.lines),
                    "tokens": sum(line.tokens for line in batch.lines),
                    "largest_line": max((len(line.texts) for line in batch.lines), default=0),
                    "bytes": batch.input_file.size,
                }
                for batch in self.batches.values()
            ],
            "files": {
                "uploaded": self.uploaded,
                "deleted": self.deleted,
                "kept": len(self.files),
            },
        }

    def _keep(self, name: str, purpose: str, now: float, **content: Any) -> File:
        file = File(
            id=f"file-{uuid.uuid4().hex[:24]}",
            name=name,
            purpose=purpose,
            uploaded=now,
            created_at=int(time.time()),
            **content,
        )
        file.size = len(file.content)
        self.files[file.id] = file
        return file

    def _write(self, batch: Batch, now: float) -> None:
        output, errors = batch.written(now)
        answered = {line.custom_id for line in batch.answered(now)}
        expired = {line.custom_id for line in errors} - answered
        keeps_empty = self._scenario.batch_api.empty_ids == "file" and batch.failure is None

        def keep(name: str, lines: Sequence[Line]) -> str:
            if not lines and not keeps_empty:
                return ""
            content = Output(batch, lines, self._cache, expired=expired)
            return self._keep(f"{batch.id}_{name}.jsonl", "batch_output", now, lines=content).id

        if output or errors or keeps_empty:
            batch.output_id, batch.error_id = keep("output", output), keep("error", errors)

    def _enqueued(self, now: float) -> int:
        return sum(
            line.tokens
            for batch in list(self.batches.values())
            if batch.is_read and batch.status(now) not in ENDED and batch.failure is None
            for line in batch.lines
        )
