"""Runs the simulator in its own process, and starts, controls and stops that process."""

import asyncio
import contextlib
import http.client
import importlib.util
import json
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from .scenario import Scenario

_EXTRA: Final = ("orjson", "starlette", "toktok", "uvicorn")
_KEEP_ALIVE_SECONDS: Final = 600  # longer than a client keeps an idle connection
_STOP_SECONDS: Final = 5.0


def serve(
    scenario: Scenario | None = None,
    host: str = "127.0.0.1",
    port: int = 8000,
    *,
    log_requests: bool = False,
    on_ready: Callable[[int], None] | None = None,
) -> None:
    """Run the simulator in this process until it is interrupted.

    Args:
        scenario: `None` uses OpenAI's limits without a quota.
        host: the address to listen on.
        port: the port to listen on; 0 takes a free one.
        log_requests: write one line per request to standard output.
        on_ready: called with the port once the server accepts connections.

    Raises:
        ImportError: a package of the extra `demo` is missing.
        OSError: the port is taken.

    """
    _check_extra()
    # Imported here, so that only the server's process needs the extra and waits for its imports.
    import uvicorn  # noqa: PLC0415
    from uvicorn.protocols.http.h11_impl import H11Protocol  # noqa: PLC0415

    from .app import Connection, build_app  # noqa: PLC0415

    class Protocol(H11Protocol):
        """Passes the connection to the application, which drops it for some faults."""

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            # asyncio does not set this on every system. Small answers would wait 40 ms for an ACK.
            transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.app_state = {**self.app_state, "connection": Connection(transport)}

    config = uvicorn.Config(
        build_app(scenario or Scenario()),
        http=Protocol,
        ws="none",
        lifespan="off",
        log_level="info" if log_requests else "error",
        access_log=log_requests,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=1,  # a hanging request must not keep the server alive
    )
    with socket.create_server((host, port), backlog=config.backlog) as listener:
        if on_ready:
            on_ready(listener.getsockname()[1])
        # Ctrl-C is the normal end. Before uvicorn raises the interrupt it has closed everything.
        with contextlib.suppress(KeyboardInterrupt):
            uvicorn.Server(config).run(sockets=[listener])


class Simulator:
    """A simulator in its own process, which runs for the duration of a `with` block.

    The server listens on 127.0.0.1. It ends with the block, even if this process is killed.

        with Simulator(Scenario(tier=1)) as simulator:
            embeddings = OpenAIEmbeddings(base_url=simulator.url, api_key="any")

    Args:
        scenario: `None` uses OpenAI's limits without a quota.
        port: the port to listen on; 0 takes a free one.
        log_requests: write one line per request to standard error.

    Raises:
        ImportError: a package of the extra `demo` is missing.
        RuntimeError: the server did not start.

    """

    def __init__(
        self, scenario: Scenario | None = None, *, port: int = 0, log_requests: bool = False
    ) -> None:
        _check_extra()
        self._scenario = scenario or Scenario()
        self._port = port
        self._log_requests = log_requests
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """The base URL for OpenAI's clients."""
        return f"{self.azure_endpoint}/v1"

    @property
    def azure_endpoint(self) -> str:
        """The endpoint for Azure's clients, which pass a model's name as the deployment."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def pid(self) -> int:
        """The server's process id."""
        return self._running().pid

    def start(self) -> None:
        """Start the server and wait until it answers; a `with` block does this by itself."""
        if self._process is not None:
            raise RuntimeError("this simulator is running already")
        command = [sys.executable, "-P", "-c", boot_code()]
        command += ["--child", "--port", str(self._port)]
        if self._log_requests:
            command.append("--log-requests")
        # In its own session the server does not get Ctrl-C. This process handles it and then stops
        # the server.
        self._process = subprocess.Popen(  # noqa: S603 - our own code and interpreter
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        pipe = self._process.stdout
        ready = pipe.readline() if pipe else ""
        if not ready:
            self.stop()
            raise RuntimeError("the simulator did not start: see standard error for the reason")
        self._port = int(ready)
        self.configure(self._scenario)

    def stop(self) -> None:
        """Stop the server; a `with` block does this by itself."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.communicate(timeout=_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()

    def configure(self, scenario: Scenario) -> None:
        """Replace the scenario, and reset quotas, counters and random draws.

        Connections stay open.
        """
        self._request("POST", "/simulator/scenario", scenario.to_json())
        self._scenario = scenario

    def reset(self) -> None:
        """Reset quotas, counters and random draws, and keep the scenario."""
        self._request("POST", "/simulator/reset")

    def stats(self) -> dict[str, Any]:
        """Return what happened since the scenario was set.

        A request is billed once its answer is computed, as a provider bills. That includes answers
        that were spoiled in transit ("truncated", "short", ...) and those whose client had
        disconnected. Answers that were never computed ("429", "html", "error_200", "reset", ...)
        are not billed.

        Returns:
            requests: number of embeddings requests, answered or not.
            by_status: HTTP status -> count; "0" counts requests that ended without an answer.
            faults: name -> how often the fault was applied. A request that was refused for its own
                error does not count.
            in_flight, max_in_flight: requests in flight now, and the most at any one time.
            inputs_computed: inputs that the workers have computed, including those of clients that
                had disconnected and of answers that were replaced ("html", "error_200").
            inputs_billed: inputs of all answers that were computed and put together.
            texts_seen_distinct: distinct texts of all requests, including refused ones.
            texts_billed_distinct: distinct texts among those billed.
            tokens_billed: true tokens of the inputs billed.
            charged: what the limiter charged for these inputs, UTF-8 bytes / 4, rounded up per
                request.
            max_inputs_seen, max_tokens_seen, max_charge_seen: the largest value of any request,
                including refused ones.
            batch_inputs_billed, batch_tokens_billed: inputs and tokens billed for the lines of
                batches, at half the price. The inputs are also part of inputs_billed; the tokens
                are not part of tokens_billed.
            batch_calls: number of calls to files and batches, by kind of call.
            batches: one mapping per batch, in order of creation, with its id, status, metadata,
                lines, inputs, tokens, bytes and the largest number of inputs in a line.
            files: number of files uploaded, deleted and kept.
            connections: TCP connections that carried requests.
            processor_seconds: the server's processor time, user and system.
            log: [start_s, end_s, inputs, tokens, charge, status, fault] of the last 100,000
                requests, in the order in which they ended. Times are in seconds since the first
                request arrived.

        """
        stats: dict[str, Any] = json.loads(self._request("GET", "/simulator/stats"))
        return stats

    def _running(self) -> "subprocess.Popen[str]":
        if self._process is None:
            raise RuntimeError("the simulator is not running: use it in a `with` block")
        return self._process

    def _request(self, method: str, path: str, body: str | None = None) -> bytes:
        self._running()
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
        try:
            connection.request(method, path, body)
            response = connection.getresponse()
            content = response.read()
        finally:
            connection.close()
        if response.status >= http.client.BAD_REQUEST:
            raise RuntimeError(f"the simulator refused {path}: {content.decode()}")
        return content


def boot_code() -> str:
    """Return the Python code that the server's process runs.

    The process needs only the simulator from this package. The code therefore registers an empty
    package, because importing LangChain would take longer than everything else.
    """
    package = __name__.split(".", maxsplit=1)[0]
    return (
        "import sys, types\n"
        f"package = sys.modules[{package!r}] = types.ModuleType({package!r})\n"
        f"package.__path__ = [{str(Path(__file__).parents[1])!r}]\n"
        f"from {package}.simulator.__main__ import main\n"
        "main()\n"
    )


def _check_extra() -> None:
    missing = [name for name in _EXTRA if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(
            f"the simulator needs {' and '.join(missing)}:"
            ' pip install "langchain-batch-embed[demo]"'
        )
