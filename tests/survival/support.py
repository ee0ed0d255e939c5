"""Helpers of the survival tests: an endpoint that a test controls, a fast clock, and checks."""

import base64
import contextlib
import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self, TypeVar

import numpy as np

from langchain_batch_embed import BatchEmbeddings, PartialEmbeddingsError
from langchain_batch_embed.simulator import vectors
from tests.support import FakeClock, assert_right

T = TypeVar("T")

DIMENSIONS = 8
PAGE = "<html><head><title>{0}</title></head><body><h1>{0}</h1><hr>nginx</body></html>"


class FastClock:
    """A clock that runs `factor` times as fast as the real one, so that waits are shorter."""

    def __init__(self, factor: float) -> None:
        self._factor = factor

    def now(self) -> float:
        """Return the time of this clock in seconds."""
        return time.monotonic() * self._factor

    def worked(self) -> float:
        """Return the processor time of this process, in seconds of this clock."""
        return time.process_time() * self._factor

    def worked_here(self) -> float:
        """Return the processor time of this thread, in seconds of this clock."""
        return time.thread_time() * self._factor

    def wait(self, condition: threading.Condition, timeout: float) -> None:
        """Wait until notified, or for `timeout` seconds of this clock."""
        condition.wait(min(timeout / self._factor, 60.0))


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One request.

    Attributes:
        number: number of requests that came before it.
        texts: its texts.
        time: time of its arrival, in seconds of the test's clock.
    """

    number: int
    texts: Sequence[str]
    time: float


@dataclass(frozen=True, kw_only=True)
class Reply:
    """An answer that replaces vectors.

    Attributes:
        status: the HTTP status, 0 to end the connection without an answer, or -1 not to answer.
        body: an object that is sent as JSON, or a page.
        headers: headers beyond those of every answer; with the status 200 they go with vectors.
    """

    status: int
    body: Mapping[str, Any] | str = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)


RESET = Reply(status=0)
HANG = Reply(status=-1)


class Endpoint:
    """An embeddings endpoint in this process that speaks OpenAI's and Ollama's protocol.

    Args:
        decide: returns the answer that replaces vectors, or `None` for vectors.
        clock: the test's clock, for the times in `asked`, or `None` for the real one.

    Attributes:
        asked: all requests, in order of arrival.
        statuses: status of each answer, in the order in which they ended.
    """

    def __init__(
        self, decide: Callable[[Asked], Reply | None], clock: FakeClock | None = None
    ) -> None:
        self._decide = decide
        self._now = time.monotonic if clock is None else clock.now
        self._lock = threading.Lock()
        self._ends = threading.Event()
        self._connections: list[socket.socket] = []
        self.asked: list[Asked] = []
        self.statuses: list[int] = []
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def setup(self) -> None:
                endpoint._connections.append(self.request)
                super().setup()

            def do_POST(self) -> None:  # the name that http.server looks for
                endpoint._serve(self)

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
                """Log nothing."""

        class Server(ThreadingHTTPServer):
            request_queue_size = 512
            daemon_threads = False  # so that closing waits for the threads, and they for sockets

            def handle_error(self, request: Any, client_address: Any) -> None:
                """Ignore clients that disconnect."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        )
        self.host = f"http://127.0.0.1:{self._server.server_port}"
        self.url = f"{self.host}/v1"

    def __enter__(self) -> Self:
        """Start serving."""
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop serving."""
        self._ends.set()
        self._server.shutdown()
        for connection in self._connections:
            with contextlib.suppress(OSError):  # closed already
                connection.shutdown(socket.SHUT_RDWR)
        self._server.server_close()
        self._thread.join()

    def _serve(self, handler: BaseHTTPRequestHandler) -> None:
        asked = json.loads(handler.rfile.read(int(handler.headers["content-length"])))
        texts = asked["input"]
        texts = [texts] if isinstance(texts, str) else texts
        with self._lock:
            request = Asked(number=len(self.asked), texts=texts, time=self._now())
            self.asked.append(request)
        reply = self._decide(request)
        try:
            if reply is None or reply.status == 200:
                headers = {} if reply is None else reply.headers
                reply = _right(handler.path, texts, str(asked.get("model")), headers)
            if reply.status == HANG.status:
                self._ends.wait(30)
            if reply.status <= 0:
                handler.close_connection = True
                linger = struct.pack("ii", 1, 0)  # a reset instead of an orderly end
                handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                return
            _write(handler, reply)
        finally:
            with self._lock:
                self.statuses.append(reply.status if reply is not None else 500)


def _right(path: str, texts: Sequence[str], model: str, headers: Mapping[str, str]) -> Reply:
    array = vectors(texts, DIMENSIONS)
    if path.endswith("/api/embed"):
        return Reply(status=200, body={"model": model, "embeddings": array.tolist()})
    data = [
        {"object": "embedding", "index": i, "embedding": base64.b64encode(row.tobytes()).decode()}
        for i, row in enumerate(array)
    ]
    usage = {"prompt_tokens": len(texts), "total_tokens": len(texts)}
    body = {"object": "list", "data": data, "model": model, "usage": usage}
    return Reply(status=200, body=body, headers=headers)


def _write(handler: BaseHTTPRequestHandler, reply: Reply) -> None:
    is_page = isinstance(reply.body, str)
    body = (reply.body if isinstance(reply.body, str) else json.dumps(reply.body)).encode()
    headers = {
        "content-type": "text/html" if is_page else "application/json",
        "content-length": str(len(body)),
        **reply.headers,
    }
    lines = [f"HTTP/1.1 {reply.status} -", *(f"{k}: {v}" for k, v in headers.items()), "", ""]
    handler.wfile.write("\r\n".join(lines).encode() + body)


@contextlib.contextmanager
def holding(count: int = 1) -> Iterator[tuple[Endpoint, threading.Event]]:
    """Run an endpoint that holds back the first requests until the event is set, or to the end."""
    let_go = threading.Event()

    def decide(asked: Asked) -> None:
        if asked.number < count:
            let_go.wait(60)

    with Endpoint(decide) as endpoint:
        try:
            yield endpoint, let_go
        finally:
            let_go.set()


def finish(call: Callable[[], T], *, seconds: float = 20.0) -> T:
    """Return or raise the outcome of a call, and fail if it does not end in time."""
    got: list[T] = []
    raised: list[BaseException] = []

    def run() -> None:
        try:
            got.append(call())
        except BaseException as error:  # noqa: BLE001  # raised again below
            raised.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    assert not thread.is_alive(), f"the call has not ended after {seconds:g} s"
    if raised:
        raise raised[0]
    return got[0]


def embed(
    embeddings: BatchEmbeddings, texts: list[str], *, seconds: float = 20.0
) -> dict[int, BaseException]:
    """Embed texts, check every returned vector, and return the errors of the others by index."""
    try:
        assert_right(finish(lambda: embeddings.embed_numpy(texts), seconds=seconds), texts)
    except PartialEmbeddingsError as error:
        there = [i for i, vector in enumerate(error.embeddings) if vector is not None]
        if there:
            kept = [np.asarray(error.embeddings[i], dtype=np.float32) for i in there]
            assert_right(kept, [texts[i] for i in there])
        failed = {failure.index: failure.error for failure in error.failures}
        assert sorted([*there, *failed]) == list(range(len(texts)))
        return failed
    return {}


def least(measure: Callable[[], float], enough: float, *, runs: int = 3) -> float:
    """Return the least of up to three measurements, or the first that is at most `enough`.

    Real time passes during a measurement, so a busy machine can spoil one.
    """
    found = measure()
    for _ in range(runs - 1):
        if found <= enough:
            break
        found = min(found, measure())
    return found


def kinds(failed: Mapping[int, BaseException]) -> dict[str, int]:
    """Return how many texts failed with each class of error, for the message of a failing test."""
    counts: dict[str, int] = {}
    for error in failed.values():
        name = type(error).__name__
        counts[name] = counts.get(name, 0) + 1
    return counts


def refused(stats: Mapping[str, Any], status: int = 429) -> float:
    """Return the share of requests that ended with a status, from the simulator's counters."""
    by_status: Mapping[str, int] = stats["by_status"]
    requests: int = stats["requests"]
    return by_status.get(str(status), 0) / max(1, requests)
