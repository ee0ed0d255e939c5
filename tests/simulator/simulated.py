"""The simulator in this process and in simulated time, without sockets or waiting."""

import asyncio
import json
import selectors
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

from starlette.types import Message

from langchain_batch_embed.simulator import Scenario
from langchain_batch_embed.simulator.app import Connection, Embeddings

T = TypeVar("T")


class _Loop(asyncio.SelectorEventLoop):
    """An event loop whose time jumps to the next timer when nothing else is to do."""

    def __init__(self) -> None:
        self._jumping = _Selector()
        super().__init__(self._jumping)

    def time(self) -> float:
        """Return the simulated seconds."""
        return self._jumping.now


class _Selector(selectors.DefaultSelector):
    now = 0.0

    def select(self, timeout: float | None = None) -> Any:
        ready = super().select(0 if timeout is not None else None)
        if not ready and timeout is not None:
            self.now += timeout
        return ready


class _Transport(asyncio.Transport):
    """The server's end of a connection."""

    def __init__(self) -> None:
        super().__init__({"socket": self})
        self.ended = asyncio.Event()
        self.was_reset = False

    def setsockopt(self, *_: object) -> None:
        """Accept a socket option."""

    def abort(self) -> None:
        """Record a reset."""
        self.was_reset = True
        self.ended.set()

    def close(self) -> None:
        """Record an orderly end."""
        self.ended.set()


@dataclass(kw_only=True)
class Reply:
    """What a client has received.

    Attributes:
        start: when it sent its request, in simulated seconds.
        end: when it had its answer, or was reset.
        status: of the answer, or 0 if none has begun.
        headers: of the answer, with lower-case names.
        body: the part of the body that has arrived.
        is_whole: whether the whole body has arrived.
        was_reset: whether the connection was reset.
    """

    start: float
    end: float = 0.0
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytearray = field(default_factory=bytearray)
    is_whole: bool = False
    was_reset: bool = False


class Server:
    """The embeddings endpoint with a scenario, by default without latency."""

    def __init__(self, **options: Any) -> None:
        self._now = asyncio.get_running_loop().time
        self.embeddings = Embeddings(Scenario(**{"latency": 0, **options}), self._now)

    def stats(self) -> dict[str, Any]:
        """Return the server's counters."""
        return self.embeddings.run.stats()

    async def ask(
        self,
        texts: str | list[str] = "Hello world",
        *,
        leaves_after: float | None = None,
        pause: float = 0.0,
    ) -> Reply:
        """Send one request on a connection of its own.

        Args:
            texts: to be embedded.
            leaves_after: seconds after which the client leaves, or `None` if it stays.
            pause: seconds between the two halves of the request's body.
        """
        reply = Reply(start=self._now())
        transport = _Transport()
        body = json.dumps({"model": "text-embedding-3-small", "input": texts}).encode()
        halves = [body[:9], body[9:]]

        async def receive() -> Message:
            if halves:
                if len(halves) == 1:
                    await asyncio.sleep(reply.start + pause - self._now())
                return {"type": "http.request", "body": halves.pop(0), "more_body": bool(halves)}
            await transport.ended.wait()
            return {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            if message["type"] == "http.response.start":
                reply.status = message["status"]
                reply.headers = {
                    name.decode().lower(): value.decode() for name, value in message["headers"]
                }
            else:
                reply.body += message["body"]
                reply.is_whole = not message.get("more_body", False)

        if leaves_after is not None:
            asyncio.get_running_loop().call_later(leaves_after, transport.ended.set)
        scope = {
            "type": "http",
            "method": "POST",
            "path": "/v1/embeddings",
            "query_string": b"",
            "headers": [],
            "state": {"connection": Connection(transport)},
        }
        await self.embeddings(scope, receive, send)
        reply.end, reply.was_reset = self._now(), transport.was_reset
        return reply

    async def ask_together(self, count: int) -> list[Reply]:
        """Send equal requests at the same time."""
        return list(await asyncio.gather(*(self.ask() for _ in range(count))))


def simulate(clients: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run clients in simulated time and return their result."""

    async def run() -> T:
        return await clients()

    with asyncio.Runner(loop_factory=_Loop) as runner:
        return runner.run(run())
