"""Enforces a time limit for one whole request at its socket.

The SDK's time-out applies to each read. A server that sends its headers one byte at a time never
exceeds it, and none of our code runs before the headers are complete. So each read and write gets
only the remaining time of the request, and the library's own time-out error ends the request.

httpcore, under httpx, and httpcore2, under httpx2, have an interface for this, the network backend.
httpx has no option for it, so this module uses private attributes. Where one of them is missing, as
in a user's own transport, the time-out applies only to each read.

Such a request also reads more bytes at a time than httpcore does by default.
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
"""Time-out in seconds of an operation that starts after the time limit. 0 would make the
socket non-blocking, and bytes that have arrived may still be read."""

_READ_BYTES = 256 * 1024
"""Smallest size of a read, in bytes. httpcore reads 64 KB, so the vectors of 64 texts take it nine
reads, and between two reads a thread waits for its turn among all others."""

_limits = threading.local()


@contextmanager
def time_limit(end: float, clock: Callable[[], float] = time.monotonic) -> Iterator[None]:
    """End this thread's operations at `end`, on connections that `limit_reads` has prepared.

    Args:
        end: the time on `clock` at which they end.
        clock: returns seconds; must follow real time, because sockets wait in real time.
    """
    before = getattr(_limits, "left", None)
    _limits.left = lambda: max(_LEAST, end - clock())
    try:
        yield
    finally:
        _limits.left = before


def limit_reads(http_client: Any) -> None:
    """Make all connections that an httpx client opens from now on obey `time_limit`.

    Outside a `time_limit` block nothing changes for other users of the client.
    """
    transports = [getattr(http_client, "_transport", None)]
    transports += (getattr(http_client, "_mounts", None) or {}).values()  # proxies
    for transport in transports:
        pool: Any = getattr(transport, "_pool", None)
        backend = getattr(pool, "_network_backend", None)
        if not hasattr(backend, "connect_tcp"):
            logger.debug("%s: its connections cannot obey a time limit", type(pool).__name__)
        elif not isinstance(backend, _Limited):
            pool._network_backend = _Limited(backend)  # noqa: SLF001  # see above


class _Limited:
    """A network backend of httpcore, or one of its streams, that obeys the time limit."""

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
    """Return the time-out of one operation, at most the remaining time of the request."""
    left = getattr(_limits, "left", None)
    if left is None:
        return timeout
    return float(left()) if timeout is None else min(timeout, float(left()))
