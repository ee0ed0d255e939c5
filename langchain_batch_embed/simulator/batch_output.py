"""The content of the files that a batch writes."""

import json
import random
from collections.abc import Iterator, Sequence

from .batch import Batch, Line
from .faults import belied, spoil
from .question import Cache, Items, Question


class Output:
    """The lines of a file that a batch has written; each line is computed when it is read."""

    def __init__(
        self, batch: Batch, lines: Sequence[Line], cache: Cache | None, *, expired: set[str]
    ) -> None:
        self._batch = batch
        self._lines = lines
        self._cache = cache
        self._expired = expired

    def __iter__(self) -> Iterator[bytes]:
        """Yield each line, including its newline."""
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
            dice = random.Random(line.custom_id)  # noqa: S311 - not for security
            items = spoil(items, question, line.fault, dice)
            question = belied(question, line.fault)
        return _response(200, question.body(items, scenario))


def _response(status: int, body: bytes) -> bytes:
    return b'{"status_code":%d,"request_id":"req_0","body":%b},"error":null' % (status, body)
