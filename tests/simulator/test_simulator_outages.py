"""A server that is away or slow for a while, in simulated time."""

import asyncio
import socket
from collections.abc import Callable

import httpx
import pytest

from langchain_batch_embed.simulator import Simulator

from .simulated import Reply, Server, simulate
from .test_simulator_process import eventually

Ask = Callable[..., httpx.Response]
Configure = Callable[..., None]
RawRequest = Callable[..., socket.socket]


@pytest.mark.parametrize("outage", ["reset", "503"])
def test_a_server_is_away_and_comes_back(outage: str) -> None:
    """Requests during an outage are not answered and cost nothing; others are answered."""

    async def clients() -> tuple[list[Reply], dict[str, object]]:
        server = Server(outages=((10, 20),), outage=outage)
        replies = []
        for _ in range(3):
            replies.append(await server.ask("x" * 30_000))
            await asyncio.sleep(15)
        return replies, server.stats()

    (before, away, after), stats = simulate(clients)
    assert (before.status, after.status) == (200, 200)
    assert (away.status, away.was_reset) == ((0, True) if outage == "reset" else (503, False))
    if outage == "503":
        assert away.body.startswith(b"<html>")
        assert "x-request-id" not in away.headers
    assert stats["by_status"] == {"200": 2, "0" if outage == "reset" else "503": 1}
    assert stats["inputs_billed"] == 2


def test_an_outage_resets_the_requests_in_flight() -> None:
    """An outage resets the requests in flight and discards their work and the queue."""

    async def clients() -> tuple[list[Reply], Reply, dict[str, object]]:
        server = Server(outages=((20, 10),), workers=1, seconds_per_request=25)
        lost = await server.ask_together(3)
        computed = server.stats()["inputs_computed"]
        await asyncio.sleep(10)
        return lost, await server.ask(), {"computed": computed}

    lost, after, stats = simulate(clients)
    assert [(reply.end, reply.status, reply.was_reset) for reply in lost] == [(20, 0, True)] * 3
    assert stats["computed"] == 0
    assert (after.start, after.end, after.status) == (30, 55, 200)


def test_an_outage_resets_an_answer_on_its_way() -> None:
    """An outage resets an answer whose headers have already arrived."""
    reply = simulate(lambda: Server(outages=((10, 1),), script=("drip",), drip_seconds=3600).ask())
    assert (reply.status, reply.is_whole, reply.was_reset, reply.end) == (200, False, True, 10)


def test_a_proxy_answers_for_the_requests_in_flight() -> None:
    """A proxy answers requests in flight at the outage, or when their body is complete."""

    async def clients() -> list[Reply]:
        server = Server(outages=((10, 3600),), outage="503", seconds_per_request=3600)
        return list(await asyncio.gather(server.ask(), server.ask(pause=30)))

    whole, halved = simulate(clients)
    assert [(reply.status, reply.end) for reply in (whole, halved)] == [(503, 10), (503, 30)]


def test_an_answer_that_has_begun_cannot_become_a_page() -> None:
    """An answer that has begun continues through the outage."""
    reply = simulate(
        lambda: Server(
            outages=((10, 3600),), outage="503", script=("drip",), drip_seconds=1, dimensions=8
        ).ask()
    )
    assert (reply.status, reply.is_whole) == (200, True)
    assert reply.end > 10


def test_a_server_that_hangs_answers_when_it_is_back() -> None:
    """A hanging server answers old and new requests correctly when it is back."""

    async def clients() -> list[Reply]:
        server = Server(outages=((10, 30),), outage="hang", seconds_per_request=15)

        async def ask_later() -> Reply:
            await asyncio.sleep(20)
            return await server.ask()

        return list(await asyncio.gather(server.ask(), ask_later()))

    in_flight, new = simulate(clients)
    assert (in_flight.status, in_flight.end) == (200, 40)
    assert (new.status, new.end) == (200, 55)


def test_a_server_is_slow_for_a_while() -> None:
    """In a slow period the latency is longer, in the header and in fact."""

    async def clients() -> list[Reply]:
        server = Server(latency=0.01, slow_periods=((0, 30, 100),), seed=3)
        slow = await server.ask()
        await asyncio.sleep(30)
        return [slow, await server.ask()]

    slow, later = simulate(clients)
    told = [int(reply.headers["openai-processing-ms"]) / 1000 for reply in (slow, later)]
    assert slow.end - slow.start > told[0] + 0.04
    assert told[0] > 10 * told[1]


class TestSockets:
    """An outage as a client sees it over real sockets, begun or still to come."""

    def test_requests_in_flight_are_reset(
        self, simulator: Simulator, configure: Configure, raw_request: RawRequest
    ) -> None:
        """Requests in flight are reset, and so are later ones."""
        configure(outages=((0.2, 3600),), seconds_per_request=3600)
        for client in [raw_request() for _ in range(3)]:
            with client, pytest.raises(ConnectionResetError):
                client.recv(1)
        assert eventually(simulator, "in_flight", 0)["by_status"] == {"0": 3}

    def test_requests_are_reset_in_the_midst_of_a_large_body(
        self, ask: Ask, configure: Configure
    ) -> None:
        """A request is reset even in the middle of a large body."""
        configure(outages=((0, 3600),))
        with pytest.raises(httpx.TransportError):
            ask("x" * 300_000)

    def test_a_proxy_shows_its_page(self, ask: Ask, configure: Configure) -> None:
        """A proxy shows its page, even to a client that sends a large body."""
        configure(outages=((0, 3600),), outage="503")
        response = ask("x" * 300_000)
        assert response.status_code == 503
        assert response.text.startswith("<html>")
