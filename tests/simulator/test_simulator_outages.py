"""A server that is away for a while, and one that is slow for a while."""

import socket
import time
from collections.abc import Callable

import httpx
import pytest

from langchain_batch_embed.simulator import Simulator

from .test_simulator_process import eventually

Ask = Callable[..., httpx.Response]
Configure = Callable[..., None]
RawRequest = Callable[..., socket.socket]


def wait_until(simulator: Simulator, seconds: float) -> None:
    """Wait until the server's first request, which has ended, is this many seconds ago."""
    start, end = simulator.stats()["log"][0][:2]
    time.sleep(seconds - (end - start))


@pytest.mark.parametrize("outage", ["reset", "503"])
def test_a_server_is_away_and_comes_back(
    simulator: Simulator, ask: Ask, configure: Configure, outage: str
) -> None:
    """Requests before and after are answered, those in between are not, and cost nothing."""
    configure(outages=((0.1, 0.2),), outage=outage)
    assert ask("x").status_code == 200
    wait_until(simulator, 0.15)

    if outage == "reset":
        with pytest.raises(httpx.TransportError):
            ask("x" * 300_000)
    else:
        response = ask("x" * 300_000)
        assert response.status_code == 503
        assert response.text.startswith("<html>")
        assert "x-request-id" not in response.headers

    time.sleep(0.2)
    assert ask("x").status_code == 200
    stats = simulator.stats()
    assert stats["by_status"] == {"200": 2, "0" if outage == "reset" else "503": 1}
    assert stats["inputs_billed"] == 2


def test_an_outage_resets_the_requests_in_flight(
    simulator: Simulator, configure: Configure, raw_request: RawRequest
) -> None:
    """What was computed of them is lost, and so is the queue."""
    configure(outages=((0.2, 0.1),), workers=1, seconds_per_request=0.25)
    clients = [raw_request() for _ in range(3)]
    for client in clients:
        with client, pytest.raises(ConnectionResetError):
            client.recv(1)
    assert eventually(simulator, "in_flight", 0)["inputs_computed"] == 0

    time.sleep(0.1)
    with raw_request() as client:
        assert client.recv(15) == b"HTTP/1.1 200 OK"
    assert eventually(simulator, "in_flight", 0)["log"][-1][1] < 0.9


def test_an_outage_resets_an_answer_on_its_way(
    configure: Configure, raw_request: RawRequest
) -> None:
    """The headers have come, the rest never does."""
    configure(outages=((0.1, 1),), script=("drip",), drip_seconds=3600)

    with raw_request() as client:
        assert client.recv(15) == b"HTTP/1.1 200 OK"
        with pytest.raises(ConnectionResetError):
            client.makefile("rb").read()


def test_a_proxy_answers_for_the_requests_in_flight(
    ask: Ask, configure: Configure, raw_request: RawRequest
) -> None:
    """They get the page when the outage begins, also those whose body is not there yet."""
    configure(outages=((0.1, 3600),), outage="503", seconds_per_request=3600)

    with raw_request(cut=5) as client:
        assert ask("x").status_code == 503
        client.sendall(b'rld"}')
        assert client.recv(12) == b"HTTP/1.1 503"


def test_an_answer_that_has_begun_cannot_become_a_page(ask: Ask, configure: Configure) -> None:
    """A slow answer goes on through the outage."""
    configure(outages=((0.05, 3600),), outage="503", script=("drip",), drip_seconds=0.0005)

    assert ask("x").json()["object"] == "list"


def test_a_server_that_hangs_answers_when_it_is_back(
    simulator: Simulator, ask: Ask, configure: Configure, raw_request: RawRequest
) -> None:
    """Requests in flight and new ones wait for its return, and are right then."""
    configure(outages=((0.1, 0.3),), outage="hang", seconds_per_request=0.15)
    with raw_request() as client:
        eventually(simulator, "in_flight", 1)
        time.sleep(0.1)

        response = ask("x")

        assert client.recv(15) == b"HTTP/1.1 200 OK"
    assert response.status_code == 200
    in_flight, new = (row[1] for row in simulator.stats()["log"])
    assert 0.39 <= in_flight < 0.55
    assert new >= 0.55


def test_a_server_is_slow_for_a_while(simulator: Simulator, ask: Ask, configure: Configure) -> None:
    """The latency of requests that arrive in the period is longer, told and kept."""
    configure(latency=0.01, slow_periods=((0, 0.3, 100),), seed=3)
    slow = ask("x")
    wait_until(simulator, 0.5)
    later = ask("x")

    told = [int(answer.headers["openai-processing-ms"]) for answer in (slow, later)]
    start, end = simulator.stats()["log"][0][:2]
    assert end - start > told[0] / 1000 + 0.04
    assert told[0] > 10 * told[1]
