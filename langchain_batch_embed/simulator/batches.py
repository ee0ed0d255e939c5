"""Files and batches as OpenAI's Batch API keeps them."""

import json
import math
import random
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from .batch_scenario import Call, Fate
from .errors import Refusal, error, invalid
from .faults import belied, spoil
from .question import Cache, Items, Question
from .scenario import Scenario, status_of

_ENDPOINT: Final = "/v1/embeddings"
_ENDED: Final = ("completed", "failed", "expired", "cancelled")
_FILE_DAYS: Final = 30
_SECONDS_OF_A_DAY: Final = 86_400
_ORGANIZATION: Final = "org-simulator"
_LEAST: Final = 1e-9  # a share of the lines must not be one too few for a rounding error


@dataclass(kw_only=True, eq=False)
class File:
    """A file: what was uploaded, or what a batch has written.

    Attributes:
        uploaded: in seconds of the server's clock.
        content: of an uploaded file.
        lines: of a batch's file; they are written when they are asked for.
        size: in bytes; of a batch's file it is not known.

    """

    id: str
    name: str
    purpose: str
    uploaded: float
    created_at: int
    content: bytes = b""
    lines: "Output | None" = None
    size: int = 0

    def shown(self) -> dict[str, Any]:
        """Return the file's object."""
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
    """One request of a batch: what it weighs, and what becomes of it.

    Attributes:
        place: where its JSON begins and ends in the file.
        texts: digests of its texts, for the bill.
        refusal: the status and the body that it is answered with; None is vectors.
        fault: what spoils its answer.

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
        """Whether vectors are computed for it."""
        return self.refusal is None and self.fault not in ("missing", "status_0")


@dataclass(kw_only=True, eq=False)
class Batch:
    """A batch: its lines, and the times of its states.

    Attributes:
        number: of batches that were created before it.
        is_read: whether its file is; before that no other state begins.
        created: in seconds of the server's clock, as `cancelled`.
        order: the lines in the order in which they are answered.
        failure: why its validation fails.
        billed: how many of the lines in `order` are on the bill.

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
        """Return the state at a time."""
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
        if done > self._expires:
            return "expired"
        return "finalizing" if now < done + api.finalizing else "completed"

    def answered(self, now: float) -> list[Line]:
        """Return the lines that are answered at a time, in their order."""
        if self.failure is not None or not self.is_read:
            return []
        end = math.inf if self.cancelled is None else self.cancelled
        ran = min(now, end, self._expires) - self._runs_from
        share = 1.0 if self._runs_for <= 0 <= ran else ran / max(self._runs_for, _LEAST)
        count = int(len(self.order) * min(1.0, max(0.0, share)) + _LEAST)
        return [self.lines[index] for index in self.order[:count]]

    def written(self, now: float) -> tuple[list[Line], list[Line]]:
        """Return the lines of the output and of the error file of a batch that has ended."""
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
            random.Random(self.number).shuffle(output)  # noqa: S311 - luck, no secret
        return output, errors

    def shown(self, now: float) -> dict[str, Any]:
        """Return the batch's object."""
        status, answered = self.status(now), self.answered(now)
        failed = sum(line.refusal is not None for line in answered)
        runs = self.failure is None and status != "validating"
        stamps = dict.fromkeys(f"{state}_at" for state in (*_ENDED, "cancelling", "finalizing"))
        if f"{status}_at" in stamps:
            stamps[f"{status}_at"] = int(time.time())
        errors = {"object": "list", "data": [self.failure]} if status == "failed" else None
        ids = self.output_id, self.error_id
        return {
            "id": self.id,
            "object": "batch",
            "endpoint": _ENDPOINT,
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


class Output:
    """The lines of a file that a batch has written; each is computed when it is read."""

    def __init__(
        self, batch: Batch, lines: Sequence[Line], cache: Cache | None, *, expired: set[str]
    ) -> None:
        self._batch = batch
        self._lines = lines
        self._cache = cache
        self._expired = expired

    def __iter__(self) -> Iterator[bytes]:
        """Yield each line with its end."""
        for number, line in enumerate(self._lines):
            head = b'{"id":"batch_req_%06d","custom_id":%b,"response":' % (
                number,
                json.dumps(line.custom_id).encode(),
            )
            yield head + self._answer(line) + b"}\n"

    def _answer(self, line: Line) -> bytes:
        if line.custom_id in self._expired:
            words = "This request could not be executed before the completion window expired."
            return (
                b'null,"error":' + json.dumps({"code": "batch_expired", "message": words}).encode()
            )
        if line.refusal is not None:
            status, refusal = line.refusal
            return _response(status, json.dumps(refusal).encode())
        if line.fault == "status_0":
            return _response(0, b"{}")
        if line.fault == "error_200":
            return _response(200, b'{"error":{"message":"Provider returned error","code":502}}')
        start, end = line.place
        scenario = self._batch.scenario
        request = json.loads(self._batch.input_file.content[start:end])
        body = json.dumps(request["body"]).encode()
        question = Question.parse(body, scenario, self._cache, deployment=None)
        items: Items = question.items(self._cache)
        if line.fault is not None:
            dice = random.Random(line.custom_id)  # noqa: S311 - luck, no secret
            items = spoil(items, question, line.fault, dice)
            question = belied(question, line.fault)
        return _response(200, question.body(items, scenario))


def _response(status: int, body: bytes) -> bytes:
    return b'{"status_code":%d,"request_id":"req_0","body":%b},"error":null' % (status, body)


class Batches:
    """All files and batches of one account.

    Args:
        scenario: what it is told.
        cache: what was computed for a text before.

    """

    def __init__(self, scenario: Scenario, cache: Cache | None) -> None:
        self._scenario = scenario
        self._cache = cache
        self.files: dict[str, File] = {}
        self.batches: dict[str, Batch] = {}
        self.uploaded = 0
        self.deleted = 0

    def upload(self, name: str, purpose: str, content: bytes, now: float) -> File:
        """Keep a file.

        Raises:
            Refusal: it is no file for a batch.

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
            Refusal: there is none with that id.

        """
        if file_id not in self.files:
            raise Refusal(404, error(f"No such File object: {file_id}", param="id"))
        return self.files[file_id]

    def delete(self, file_id: str) -> None:
        """Forget a file."""
        del self.files[self.file(file_id).id]
        self.deleted += 1

    def batch(self, batch_id: str) -> Batch:
        """Return a batch.

        Raises:
            Refusal: there is none with that id.

        """
        if batch_id not in self.batches:
            raise Refusal(404, error(f"No batch found with id '{batch_id}'.", param=None))
        return self.batches[batch_id]

    def create(self, options: Mapping[str, Any], now: float, call: Call) -> Batch:
        """Create a batch, whose file is yet to be read.

        Raises:
            Refusal: the request itself is wrong.

        """
        for name in ("input_file_id", "endpoint", "completion_window"):
            if not isinstance(options.get(name), str):
                raise invalid(
                    f"Missing required parameter: '{name}'.", name, "missing_required_parameter"
                )
        if options["endpoint"] != _ENDPOINT or options["completion_window"] != "24h":
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
        """Read the file of a new batch, which takes long; its states begin when that is done."""
        batch.failure = batch.failure or self._read_lines(batch)
        batch.created = time.monotonic()
        batch.failure = batch.failure or self._judge(batch, batch.created)
        batch.is_read = True

    def cancel(self, batch: Batch, now: float) -> None:
        """Begin to cancel a batch.

        Raises:
            Refusal: it has ended.

        """
        status = batch.status(now)
        if status in _ENDED:
            raise Refusal(409, error(f"Cannot cancel a batch with status '{status}'."))
        if batch.cancelled is None:
            batch.cancelled = now

    def settle(self, now: float) -> list[Line]:
        """Give batches that have ended their files; return the lines that are to be billed."""
        billed = []
        for batch in self.batches.values():
            answered = batch.answered(now)
            billed += [line for line in answered[batch.billed :] if line.is_billed]
            batch.billed = len(answered)
            if batch.status(now) in _ENDED and not batch.output_id and not batch.error_id:
                self._write(batch, now)
        return billed

    def listed(self, now: float) -> list[Batch]:
        """Return the batches that the list shows, the newest first."""
        return [batch for batch in reversed(self.batches.values()) if batch.listed_from <= now]

    def stats(self, now: float) -> dict[str, Any]:
        """Return what was made."""
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

    def _judge(self, batch: Batch, now: float) -> Mapping[str, Any] | None:
        """Return what is wrong with a batch whose lines are sound."""
        order = list(range(len(batch.lines)))
        random.Random(f"{self._scenario.seed}:{batch.number}").shuffle(order)  # noqa: S311
        batch.order = order
        match batch.fate:
            case "bad_line":
                words = "The request body of this line is not valid."
                return failure("invalid_request", words, line=1)
            case "bad_model":
                return failure("model_not_found", "The provided model is not supported.")
            case "unknown_failure":
                return failure("internal_error", "Something went wrong.")
            case "request_limit":
                return failure(None, queue_words("requests", 1_000_000, _model_of(batch)))
        tokens = sum(line.tokens for line in batch.lines)
        limit = self._scenario.queue
        if batch.fate == "token_limit" or (
            limit is not None and self._enqueued(now) + tokens > limit
        ):
            words = queue_words("tokens", limit or 3_000_000, _model_of(batch))
            return failure("token_limit_exceeded", words)
        return None

    def _read_lines(self, batch: Batch) -> Mapping[str, Any] | None:
        api, content = self._scenario.batch_api, batch.input_file.content
        seen: set[str] = set()
        models: set[str] = set()
        start = inputs = 0
        while start < len(content):
            end = content.find(b"\n", start)
            end = len(content) if end < 0 else end
            number = len(batch.lines) + 1
            try:
                request = json.loads(content[start:end])
                custom_id, body = request["custom_id"], request["body"]
                is_right = (request["method"], request["url"]) == ("POST", _ENDPOINT)
            except (ValueError, KeyError, TypeError):
                words = "This line is not parseable as valid JSON."
                return failure("invalid_json_line", words, line=number)
            if not is_right:
                words = "The URL provided for this request does not prefix-match the batch endpoint"
                return failure("url_mismatch", words, line=number)
            if custom_id in seen:
                words = f"The custom_id '{custom_id}' for this request is a duplicate."
                return failure("duplicate_custom_id", words, line=number)
            seen.add(custom_id)
            models.add(str(body.get("model")))
            line = self._line(batch, custom_id, body, (start, end), number)
            batch.lines.append(line)
            inputs += max(1, len(line.texts))
            start = end + 1
        if not batch.lines:
            return failure("empty_file", "The input file is empty.")
        if len(models) > 1:
            return failure("mismatched_model", "All lines must have the same model.")
        if len(batch.lines) > api.max_lines or inputs > api.max_inputs:
            return failure("too_many_tasks", "The batch has too many inputs.")
        return None

    def _line(
        self,
        batch: Batch,
        custom_id: str,
        body: Mapping[str, Any],
        place: tuple[int, int],
        number: int,
    ) -> Line:
        scenario = self._scenario
        dice = random.Random(f"{scenario.seed}:{batch.number}:{number}")  # noqa: S311 - luck
        line = Line(custom_id=custom_id, place=place)
        try:
            whole = json.dumps(body).encode()
            question = Question.parse(whole, scenario, self._cache, deployment=None)
            line.texts = tuple(map(hash, question.texts))
            line.tokens, line.charge = sum(question.tokens), question.charge
            question.check(scenario, azure=False)
        except Refusal as refusal:
            words = {"error": {"message": "Forbidden"}}
            line.refusal = refusal.status, words if refusal.is_page else json.loads(refusal.body)
            return line
        luck = dice.random()
        for name, share in scenario.batch_api.line_faults.items():
            luck -= share
            if luck < 0:
                status = status_of(name)
                line.fault = name
                if status is not None:
                    line.refusal = status, error(f"Error {status}", "server_error")
                break
        return line

    def _enqueued(self, now: float) -> int:
        return sum(
            line.tokens
            for batch in list(self.batches.values())
            if batch.is_read and batch.status(now) not in _ENDED and batch.failure is None
            for line in batch.lines
        )


def failure(code: str | None, message: str, *, line: int | None = None) -> dict[str, Any]:
    """Return one of a failed batch's errors."""
    return {"code": code, "message": message, "param": None, "line": line}


def unseen(file_id: str) -> dict[str, Any]:
    """Return the error of a file that cannot be found, perhaps not yet."""
    words = (
        f"Cannot find file {file_id}, or organization {_ORGANIZATION} does not have access to it."
    )
    return {"code": "invalid_request", "message": words, "param": "file_id", "line": None}


def queue_words(kind: str, limit: int, model: str) -> str:
    """Return the words for a queue that is full."""
    return (
        f"Enqueued {kind.removesuffix('s')} limit reached for {model} in organization"
        f" {_ORGANIZATION}. Limit: {limit:,} enqueued {kind}. Please try again once some"
        " in_progress batches have been completed."
    )


def _model_of(batch: Batch) -> str:
    start, end = batch.lines[0].place
    return str(json.loads(batch.input_file.content[start:end])["body"].get("model"))
