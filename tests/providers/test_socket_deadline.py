"""A request's time-out holds down to the socket, whatever the server sends in between."""

import itertools
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from langchain_openai import OpenAIEmbeddings
from pydantic import SecretStr

from langchain_batch_embed.limits import limits_of
from langchain_batch_embed.providers.openai import OpenAIProvider
from langchain_batch_embed.providers.socket_deadline import limit_reads, time_limit

DRIP = 0.05


@contextmanager
def dripping(beginning: bytes, drop: bytes) -> Iterator[str]:
    """Serve on a real socket, first a beginning and then a drop every 50 ms without end."""
    listener = socket.create_server(("127.0.0.1", 0))
    ended = threading.Event()

    def answer(connection: socket.socket) -> None:
        with connection:
            connection.recv(65536)
            try:
                connection.sendall(beginning)
                while not ended.wait(DRIP):
                    connection.sendall(drop)
            except OSError:  # the client has given up
                pass

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=answer, args=(connection,), daemon=True).start()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
    finally:
        ended.set()
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(5)


def provider_on(url: str, **options: Any) -> OpenAIProvider:
    """Return a provider that sends to this address."""
    wrapped = OpenAIEmbeddings(base_url=url, api_key=SecretStr("x"))
    return OpenAIProvider(wrapped, limits=limits_of(wrapped), **options)


@pytest.mark.parametrize(
    ("beginning", "drop"),
    [
        pytest.param(b"", b"H", id="status line"),
        pytest.param(b"HTTP/1.1 200 OK\r\n", b"x: y\r\n", id="headers"),
        pytest.param(b"", b"HTTP/1.1 103 Early Hints\r\n\r\n", id="informational answers"),
        pytest.param(b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n", b"x" * 10, id="body"),
    ],
)
def test_a_server_that_drips_is_left_at_the_time_out(beginning: bytes, drop: bytes) -> None:
    """A request ends at its time-out even if the server sends a byte now and then."""
    with dripping(beginning, drop) as url:
        provider = provider_on(url)
        began = time.monotonic()
        with pytest.raises(Exception, match=r"(?i)time|not complete") as caught:
            provider.send(["a"], timeout=0.3)
        assert 0.2 < time.monotonic() - began < 20
    assert "timeout" in type(caught.value).__name__.lower()


@pytest.mark.parametrize("library", ["httpx", "httpx2"])
def test_the_client_of_either_sdk_keeps_the_time_limit(library: str) -> None:
    """The time-out works with httpx, which openai 2 uses, and httpx2, which openai 3 uses."""
    http = pytest.importorskip(library)
    with dripping(b"HTTP/1.1 200 OK\r\n", b"x: y\r\n") as url, http.Client() as client:
        limit_reads(client)
        began = time.monotonic()
        with pytest.raises(http.ReadTimeout), time_limit(began + 0.2):
            client.get(url, timeout=30)
        assert time.monotonic() - began < 20


class Stream:
    """A stand-in for httpcore's stream that records its sizes and time-outs."""

    def __init__(self) -> None:
        self.timeouts: list[float | None] = []
        self.sizes: list[int] = []
        self.inner = "socket"

    def connect_tcp(
        self,
        host: str,  # noqa: ARG002
        port: int,  # noqa: ARG002
        timeout: float | None = None,
        **options: Any,  # noqa: ARG002
    ) -> "Stream":
        """Record the time-out of a connection."""
        self.timeouts.append(timeout)
        return self

    def connect_unix_socket(self, path: str, timeout: float | None = None) -> "Stream":  # noqa: ARG002
        """Record the time-out of a connection."""
        self.timeouts.append(timeout)
        return self

    def start_tls(self, context: object, name: str | None, timeout: float | None) -> "Stream":  # noqa: ARG002
        """Record the time-out of the encryption."""
        self.timeouts.append(timeout)
        return self

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Record the size and the time-out of a read."""
        self.sizes.append(max_bytes)
        self.timeouts.append(timeout)
        return b""

    def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ARG002
        """Record the time-out of a write."""
        self.timeouts.append(timeout)


def client_with(backend: object, proxy: object = None) -> Any:
    """Return an object with the inner structure of httpx's client."""

    def transport(inner: object) -> Any:
        return SimpleNamespace(_pool=SimpleNamespace(_network_backend=inner))

    return SimpleNamespace(_transport=transport(backend), _mounts={"all://": transport(proxy)})


@pytest.mark.parametrize("through", ["_transport", "_mounts"])
def test_every_operation_is_allowed_what_is_left_of_the_time(through: str) -> None:
    """Every operation gets the remaining time as its limit, directly and through a proxy."""
    stream = Stream()
    client = client_with(stream, stream)
    limit_reads(client)
    limit_reads(client)  # a second object on the same client changes nothing
    found = getattr(client, through)
    backend = (found["all://"] if through == "_mounts" else found)._pool._network_backend
    now = itertools.count()
    with time_limit(10, clock=lambda: next(now)):
        backend.connect_unix_socket("/x", timeout=30)
        connected = backend.connect_tcp("host", 1, timeout=30)
        secure = connected.start_tls(None, "host", 30)
        secure.write(b"x", timeout=30)
        secure.read(1, timeout=30)
        secure.read(1, timeout=2.5)
        secure.read(1)
    assert stream.timeouts == [10, 9, 8, 7, 6, 2.5, 4]
    assert secure.inner == "socket"  # all other attributes are the stream's own


def test_when_the_time_is_over_what_has_arrived_may_still_be_read() -> None:
    """After the time limit a read gets a millisecond, so that arrived data can be read.

    A time-out of 0 would not wait at all and raise another error.
    """
    stream = Stream()
    limit_reads(client := client_with(stream))
    with time_limit(1, clock=lambda: 2):
        client._transport._pool._network_backend.read(1, timeout=30)
    assert stream.timeouts == [0.001]


def test_others_on_the_same_client_are_not_limited() -> None:
    """Other threads and other code on the same client are not limited."""
    stream = Stream()
    limit_reads(client := client_with(stream))
    backend = client._transport._pool._network_backend

    def read() -> None:
        backend.read(1, timeout=30)

    with time_limit(1, clock=lambda: 0):
        other = threading.Thread(target=read)
        other.start()
        other.join()
    read()
    backend.read(1)
    assert stream.timeouts == [30, 30, None]


def test_much_is_read_at_a_time_but_not_for_others() -> None:
    """Only limited reads are enlarged, as each read waits for its turn among all threads.

    An answer has half a megabyte.
    """
    stream = Stream()
    limit_reads(client := client_with(stream))
    backend = client._transport._pool._network_backend
    with time_limit(1, clock=lambda: 0):
        backend.read(65_536)
        backend.read(1_000_000)
    backend.read(65_536)
    assert stream.sizes == [262_144, 1_000_000, 65_536]


@pytest.mark.parametrize(
    "client",
    [
        None,
        SimpleNamespace(),
        SimpleNamespace(_transport=None, _mounts={"all://": None}),
        SimpleNamespace(_transport=SimpleNamespace(_pool=None)),
        client_with(None),
    ],
)
def test_a_client_of_another_form_is_left_as_it_is(client: object) -> None:
    """A client of an unknown form is left as it is, so the time-out holds for each read only.

    It may be the user's own transport or that of a later httpx.
    """
    before = repr(client)
    limit_reads(client)
    assert repr(client) == before
