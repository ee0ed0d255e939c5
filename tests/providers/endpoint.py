"""An endpoint of OpenAI's protocol that keeps whole requests and answers as the test decides."""

import base64
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from typing import Any

from langchain_batch_embed.simulator import vectors
from tests.survival import support
from tests.survival.support import DIMENSIONS, Endpoint, Reply

__all__ = ["Keeping", "Kept", "error", "right"]


@dataclass(frozen=True)
class Kept:
    """One request, with its JSON, its headers by lower-case name, and its path."""

    body: Mapping[str, Any]
    headers: Mapping[str, str]
    path: str

    @property
    def texts(self) -> list[str]:
        """Return the texts of the request as a list."""
        texts = self.body["input"]
        texts = [texts] if isinstance(texts, str) else texts
        return [text if isinstance(text, str) else repr(text) for text in texts]  # or tokens


Decide = Callable[[Kept], Reply | None]


class Keeping(Endpoint):
    """An endpoint that answers in the requested format, unless `decide` returns another answer.

    Attributes:
        kept: all requests.
    """

    def __init__(self, decide: Decide = lambda _: None) -> None:
        super().__init__(lambda _: None)
        self._reply = decide
        self.kept: list[Kept] = []

    def _serve(self, handler: BaseHTTPRequestHandler) -> None:
        body = json.loads(handler.rfile.read(int(handler.headers["content-length"])))
        headers = {name.lower(): value for name, value in handler.headers.items()}
        request = Kept(body, headers, handler.path)
        with self._lock:
            self.kept.append(request)
        support._write(handler, self._reply(request) or right(request))


def right(request: Kept, **changes: Any) -> Reply:
    """Return the right answer to a request, with `changes` made to it."""
    rows = vectors(request.texts, DIMENSIONS)
    packed = request.body.get("encoding_format") == "base64"
    data = [
        {"index": i, "embedding": base64.b64encode(row.tobytes()).decode() if packed else [*row]}
        for i, row in enumerate(rows.tolist() if not packed else rows)
    ]
    usage = {"prompt_tokens": len(rows), "total_tokens": len(rows)}
    answer = {"object": "list", "data": data, "model": request.body["model"], "usage": usage}
    return Reply(status=200, body={**answer, **changes})


def error(status: int, message: str, **fields: object) -> Reply:
    """Return an error in OpenAI's form."""
    return Reply(status=status, body={"error": {"message": message, **fields}})
