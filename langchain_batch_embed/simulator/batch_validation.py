"""Reads the file of a new batch and decides whether the batch fails its validation."""

import json
import random
from collections.abc import Mapping
from typing import Any, Final

from .batch import ENDPOINT, Batch, Line
from .errors import Refusal, error
from .question import Cache, Question
from .scenario import status_of

_ORGANIZATION: Final = "org-simulator"


def read_lines(batch: Batch, cache: Cache | None) -> Mapping[str, Any] | None:
    """Read the lines of a batch's file; return why the batch cannot run, or `None` if it can.

    Args:
        batch: the batch, which has no lines yet.
        cache: tokens and embeddings computed so far; `None` if the scenario keeps none.

    """
    api, content = batch.scenario.batch_api, batch.input_file.content
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
            is_right = (request["method"], request["url"]) == ("POST", ENDPOINT)
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
        line = _line(batch, cache, custom_id, body, (start, end))
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


def judged(batch: Batch, enqueued: int) -> Mapping[str, Any] | None:
    """Draw the order of a batch's answers; return why its fate or a full queue fails it, or `None`.

    Args:
        batch: the batch, whose lines have been read and are valid.
        enqueued: number of tokens in all batches that have not ended.

    """
    order = list(range(len(batch.lines)))
    random.Random(f"{batch.scenario.seed}:{batch.number}").shuffle(order)  # noqa: S311
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
    limit = batch.scenario.queue
    if batch.fate == "token_limit" or (limit is not None and enqueued + tokens > limit):
        words = queue_words("tokens", limit or 3_000_000, _model_of(batch))
        return failure("token_limit_exceeded", words)
    return None


def failure(code: str | None, message: str, *, line: int | None = None) -> dict[str, Any]:
    """Return one item of the errors that a failed batch shows."""
    return {"code": code, "message": message, "param": None, "line": line}


def unseen(file_id: str) -> dict[str, Any]:
    """Return the error for a file that does not exist or is not visible yet."""
    words = (
        f"Cannot find file {file_id}, or organization {_ORGANIZATION} does not have access to it."
    )
    return {"code": "invalid_request", "message": words, "param": "file_id", "line": None}


def queue_words(kind: str, limit: int, model: str) -> str:
    """Return the message for a full queue."""
    return (
        f"Enqueued {kind.removesuffix('s')} limit reached for {model} in organization"
        f" {_ORGANIZATION}. Limit: {limit:,} enqueued {kind}. Please try again once some"
        " in_progress batches have been completed."
    )


def _model_of(batch: Batch) -> str:
    start, end = batch.lines[0].place
    return str(json.loads(batch.input_file.content[start:end])["body"].get("model"))


def _line(
    batch: Batch,
    cache: Cache | None,
    custom_id: str,
    body: Mapping[str, Any],
    place: tuple[int, int],
) -> Line:
    scenario, number = batch.scenario, len(batch.lines) + 1
    dice = random.Random(f"{scenario.seed}:{batch.number}:{number}")  # noqa: S311 - not for security
    line = Line(custom_id=custom_id, place=place)
    try:
        whole = json.dumps(body).encode()
        question = Question.parse(whole, scenario, cache, deployment=None)
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
