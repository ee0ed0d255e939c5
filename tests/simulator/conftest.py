"""One simulator for a module's tests, each of which gives it a scenario."""

import json
import socket
import ssl
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from langchain_batch_embed.simulator import Scenario, Simulator

MODEL = "text-embedding-3-small"

Ask = Callable[..., httpx.Response]


@pytest.fixture(scope="module")
def simulator() -> Iterator[Simulator]:
    """Run a simulator for the module."""
    with Simulator(Scenario(latency=0)) as simulator:
        yield simulator


@pytest.fixture
def client() -> Iterator[httpx.Client]:
    """Return a client whose connections end with the test."""
    # No certificates, because loading them would take longer than the tests.
    no_tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    with httpx.Client(timeout=60, trust_env=False, verify=no_tls) as client:
        yield client


@pytest.fixture
def ask(simulator: Simulator, client: httpx.Client) -> Ask:
    """Return a function that sends one embeddings request, by default for 8 dimensions."""

    def ask(inputs: Any, **options: Any) -> httpx.Response:
        headers = options.pop("headers", {"authorization": "Bearer any"})
        body = {"model": MODEL, "input": inputs, "dimensions": 8, **options}
        body = {name: value for name, value in body.items() if value is not None}
        return client.post(f"{simulator.url}/embeddings", json=body, headers=headers)

    return ask


@pytest.fixture
def raw_request(simulator: Simulator) -> Callable[..., socket.socket]:
    """Return a function that sends a request without its last `cut` bytes on a new socket."""
    body = json.dumps({"model": MODEL, "input": "Hello world"}).encode()
    request = b"POST /v1/embeddings HTTP/1.1\r\nhost: simulator\r\ncontent-length: %d\r\n\r\n%b" % (
        len(body),
        body,
    )

    def raw_request(cut: int = 0) -> socket.socket:
        url = httpx.URL(simulator.url)
        connection = socket.create_connection((url.host, url.port or 0), timeout=60)
        connection.sendall(request[: len(request) - cut])
        return connection

    return raw_request


@pytest.fixture
def configure(simulator: Simulator) -> Callable[..., None]:
    """Return a function that gives the simulator a scenario, by default without latency."""

    def configure(**options: Any) -> None:
        simulator.configure(Scenario(**{"latency": 0, **options}))

    return configure
