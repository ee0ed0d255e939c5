"""The routes of the Batch API, for files and batches."""

import asyncio
import json
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from email.message import Message
from functools import partial
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from . import errors
from .answers import Reset
from .batch import Batch
from .batch_validation import queue_words, unseen
from .batches import Batches
from .errors import Refusal, error
from .periods import seconds_away
from .run import Run

Answer = Callable[[Run, Request], Awaitable[Response]]

_LISTED: Final = 20
_LISTED_AT_MOST: Final = 100
_FILES_LISTED: Final = 10_000


class BatchCalls:
    """The endpoints under /v1/files and /v1/batches.

    Args:
        run: returns the current run.

    """

    def __init__(self, run: Callable[[], Run]) -> None:
        self._run = run

    def routes(self) -> list[Route]:
        """Return the routes of all endpoints."""
        post, get = ["POST"], ["GET"]
        return [
            Route("/v1/files", self._endpoint(_upload), methods=post),
            Route("/v1/files", self._endpoint(_list_files), methods=get),
            Route("/v1/files/{id}", self._endpoint(_show_file), methods=get),
            Route("/v1/files/{id}", self._endpoint(_delete_file), methods=["DELETE"]),
            Route("/v1/files/{id}/content", self._endpoint(_read_file), methods=get),
            Route("/v1/batches", self._endpoint(_create), methods=post),
            Route("/v1/batches", self._endpoint(_list_batches), methods=get),
            Route("/v1/batches/{id}", self._endpoint(_show_batch), methods=get),
            Route("/v1/batches/{id}/cancel", self._endpoint(_cancel), methods=post),
        ]

    def _endpoint(self, answer: Answer) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            run = self._run()
            fault = self._arrive(run, answer.__name__.strip("_"))
            api_key = run.scenario.api_key
            try:
                if not run.scenario.batch_api.exists:
                    raise Refusal(404, {"detail": "Not Found"})
                if fault == "reset":
                    return Reset()
                if fault == "503":
                    raise errors.unavailable()
                key = request.headers.get("authorization", "").removeprefix("Bearer ")
                if api_key not in (None, key):
                    raise errors.wrong_key(key)
                response = await answer(run, request)
            except Refusal as refusal:
                return Response(refusal.body, refusal.status, refusal.headers)
            return Reset() if fault == "lost" else response

        return endpoint

    @staticmethod
    def _arrive(run: Run, name: str) -> str | None:
        """Count a call, and return the fault drawn for it, or `None`."""
        api, calls = run.scenario.batch_api, run.batch_calls
        now = run.now()
        if run.first_batch_call is None:
            run.first_batch_call = now
        number = calls.total()
        calls[name] += 1
        if seconds_away(api.outages, now - run.first_batch_call) > 0:
            return "reset"
        luck = random.Random(f"{run.scenario.seed}:call:{number}").random()  # noqa: S311 - not for security
        for fault, share in api.call_faults.items():
            luck -= share
            if luck < 0:
                return fault
        return None


async def _upload(run: Run, request: Request) -> Response:
    name, purpose, content = _parts(
        request.headers.get("content-type", ""), b"".join([part async for part in request.stream()])
    )
    return JSONResponse(run.batches.upload(name, purpose, content, run.now()).shown())


async def _list_files(run: Run, request: Request) -> Response:
    query = request.query_params
    files = [
        file.shown()
        for file in reversed(run.batches.files.values())
        if query.get("purpose") in (None, file.purpose)
    ]
    return _page(files, request, most=_FILES_LISTED, usual=_FILES_LISTED)


async def _show_file(run: Run, request: Request) -> Response:
    return JSONResponse(run.batches.file(request.path_params["id"]).shown())


async def _delete_file(run: Run, request: Request) -> Response:
    file_id = request.path_params["id"]
    run.batches.delete(file_id)
    return JSONResponse({"id": file_id, "object": "file", "deleted": True})


async def _read_file(run: Run, request: Request) -> Response:
    file = run.batches.file(request.path_params["id"])
    media_type = "application/octet-stream"
    if file.lines is None:
        return Response(file.content, media_type=media_type)
    return StreamingResponse(iter(file.lines), media_type=media_type)


async def _create(run: Run, request: Request) -> Response:
    try:
        options: Any = json.loads(await request.body())
    except ValueError as mistake:
        raise Refusal(400, error("The body is not JSON.")) from mistake
    creations = run.scenario.batch_api.creations
    number = run.batch_calls["create"] - 1
    call = creations[number] if number < len(creations) else "ok"
    file_id = str(options.get("input_file_id"))
    match call:
        case "reset":
            return Reset()
        case "500" | "503":
            raise errors.plain(int(call))
        case "token_limit":
            words = queue_words("tokens", run.scenario.queue or 3_000_000, "this model")
            raise Refusal(400, error(words, code="token_limit_exceeded"))
        case "unseen_file":
            raise Refusal(400, {"error": {"type": "invalid_request_error", **unseen(file_id)}})
    batch = run.batches.create(options, run.now(), call)
    read = partial(run.batches.read, batch)
    await asyncio.get_running_loop().run_in_executor(None, read)
    return Reset() if call in ("lost", "late") else JSONResponse(batch.shown(run.settle_batches()))


async def _list_batches(run: Run, request: Request) -> Response:
    now = run.settle_batches()
    batches = [batch.shown(now) for batch in run.batches.listed(now)]
    return _page(batches, request, most=_LISTED_AT_MOST, usual=_LISTED)


async def _show_batch(run: Run, request: Request) -> Response:
    now = run.settle_batches()
    return JSONResponse(_batch(run.batches, request).shown(now))


async def _cancel(run: Run, request: Request) -> Response:
    now = run.settle_batches()
    batch = _batch(run.batches, request)
    run.batches.cancel(batch, now)
    return JSONResponse(batch.shown(now))


def _batch(batches: Batches, request: Request) -> Batch:
    return batches.batch(request.path_params["id"])


def _page(items: list[dict[str, Any]], request: Request, *, most: int, usual: int) -> Response:
    """Return the page of a list that starts after the item named by the request's `after`."""
    query = request.query_params
    after = query.get("after")
    start = next((i for i, item in enumerate(items, 1) if item["id"] == after), 0)
    asked = query.get("limit", "")
    limit = max(1, min(most, int(asked))) if asked.isdecimal() else usual
    page = items[start : start + limit]
    ends = {"first_id": page[0]["id"], "last_id": page[-1]["id"]} if page else {}
    has_more = start + limit < len(items)
    return JSONResponse({"object": "list", "data": page, **ends, "has_more": has_more})


def _parts(content_type: str, body: bytes) -> tuple[str, str, bytes]:
    """Return the file's name, the purpose and the file's content from a multipart form.

    Raises:
        Refusal: the form has no file or no purpose.
    """
    header = Message()
    header["content-type"] = content_type
    border = b"--" + str(header.get_boundary("")).encode()
    found = Counter[str]()
    name = purpose = ""
    content = b""
    start = body.find(border)
    while start >= 0:
        end = body.find(b"\r\n" + border, start + len(border))
        if end < 0:
            break
        head_end = body.find(b"\r\n\r\n", start)
        part = Message()
        head = body[start + len(border) : head_end].decode(errors="replace")
        disposition = next(
            (line for line in head.split("\r\n") if line.lower().startswith("content-disposition")),
            "content-disposition: none",
        )
        part["content-disposition"] = disposition.partition(":")[2].strip()
        field = part.get_param("name", header="content-disposition")
        found[str(field)] += 1
        value = body[head_end + 4 : end]
        if field == "file":
            name, content = str(part.get_filename("")), value
        elif field == "purpose":
            purpose = value.decode()
        start = end + 2
    if not found["file"] or not found["purpose"]:
        missing = "file" if not found["file"] else "purpose"
        words = f"Missing required parameter: '{missing}'."
        raise errors.invalid(words, missing, "missing_required_parameter")
    return name, purpose, content
