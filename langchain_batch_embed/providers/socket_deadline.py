"""A time limit for one whole request, down to its socket.

The SDK's time-out is for each read. A server that sends its headers one byte at a time never meets
it, and none of our code runs before the headers are complete. So each read and write gets only what
is left of the request's time, and the library's own time-out error ends the request.

httpcore, under httpx, and httpcore2, under httpx2, have an interface for that, the network backend.
httpx has no option for it, hence the private attributes. Where one of them is missing, as in a
user's own transport, the time-out is for each read.

The reads of such a request are larger than httpcore's, too.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["limit_reads", "time_limit"]

logger = logging.getLogger(__name__)

_LEAST = 0.001
"""Seconds for an operation after the time is over. For sockets 0 means something else, and bytes
that have arrived may still be read."""

_READ_BYTES = 256 * 1024
"""Bytes read at a time, at least. httpcore reads 64 KB, so the vectors of 64 texts take it nine
reads, and between two of them a thread waits for its turn among all others."""

_limits = threading.local()


@contextmanager
def time_limit(end: float, clock: Callable[[], float] = time.monotonic) -> Iterator[None]:
    """Let no operation of this thread, on a connection with `limit_reads`, last beyond `end`.

    Args:
        end: the clock's time.
        clock: seconds; must pass as real time does, since sockets wait in real time.
    """
    before = getattr(_limits, "left", None)
    _limits.left = lambda: max(_LEAST, end - clock())
    try:
        yield
    finally:
        _limits.left = before


def limit_reads(http_client: Any) -> None:
    """Make the connections that an httpx client opens from now on keep the `time_limit`.

    Without a `time_limit` nothing changes for others who use the client.
    """
    transports = [getattr(http_client, "_transport", None)]
    transports += (getattr(http_client, "_mounts", None) or {}).values()  # proxies
    for transport in transports:
        pool: Any = getattr(transport, "_pool", None)
        backend = getattr(pool, "_network_backend", None)
        if not hasattr(backend, "connect_tcp"):
            logger.debug("%s: its connections keep no time limit", type(pool).__name__)
        elif not isinstance(backend, _Limited):
            pool._network_backend = _Limited(backend)  # noqa: SLF001  # see above


class _Limited:
    """A network backend of httpcore, or a stream of one, that keeps the time limit."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def read(self, max_bytes: int, timeout: float | None = None) -> Any:
        if getattr(_limits, "left", None) is not None:
            max_bytes = max(max_bytes, _READ_BYTES)
        return self._inner.read(max_bytes, timeout=_left(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._inner.write(buffer, timeout=_left(timeout))

    def connect_tcp(
        self, host: str, port: int, timeout: float | None = None, **options: Any
    ) -> "_Limited":
        return _Limited(self._inner.connect_tcp(host, port, timeout=_left(timeout), **options))

    def connect_unix_socket(
        self, path: str, timeout: float | None = None, **options: Any
    ) -> "_Limited":
        return _Limited(self._inner.connect_unix_socket(path, timeout=_left(timeout), **options))

    def start_tls(
        self, ssl_context: Any, server_hostname: str | None = None, timeout: float | None = None
    ) -> "_Limited":
        return _Limited(self._inner.start_tls(ssl_context, server_hostname, _left(timeout)))


def _left(timeout: float | None) -> float | None:
    """Return the time-out of one operation, at most what is left of the request's time."""
    left = getattr(_limits, "left", None)
    if left is None:
        return timeout
    return float(left()) if timeout is None else min(timeout, float(left()))
