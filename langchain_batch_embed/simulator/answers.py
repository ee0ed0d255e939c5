"""How an answer leaves the server, and all the ways in which it can leave it badly."""

import asyncio
import socket
import struct
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import Final

from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

# Large answers leave in pieces, so that one of them never holds up the others.
_PIECE_BYTES: Final = 1 << 20

_END: Final = {"type": "http.response.body", "body": b"", "more_body": False}

NO_ANSWER: Final = 0  # the status of a request that was never answered


class Answer(Response):
    """A finished body, sent in pieces as fast as the client takes them."""

    media_type = "application/json"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        """Send the headers, then the pieces of the body."""
        await self.send_headers(send)
        view = memoryview(self.body)
        for start in range(0, len(view), _PIECE_BYTES):
            await send(_piece(view[start : start + _PIECE_BYTES]))
        await send(_END)

    async def send_headers(self, send: Send) -> None:
        """Send the status and the headers, with the length of the whole body."""
        start = {"type": "http.response.start", "status": self.status_code}
        await send({**start, "headers": self.raw_headers})


class Dripping(Answer):
    """The headers at once, then the body a byte at a time."""

    def __init__(self, content: bytes, headers: Mapping[str, str], seconds: float) -> None:
        super().__init__(content, headers=headers)
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        """Send the body byte by byte, unless there is nobody left to wait for."""
        await self.send_headers(send)
        view = memoryview(self.body)
        for start in range(len(view)):
            if await gone(receive, within=self._seconds):
                return
            await send(_piece(view[start : start + 1]))
        await send(_END)


class Truncated(Answer):
    """A third of the body that its content-length promises, then the end of the connection."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send a part, and close the connection once that is on its way."""
        await self.send_headers(send)
        await send(_piece(memoryview(self.body)[: len(self.body) // 3]))
        scope["state"]["connection"].transport.close()
        await gone(receive)


class Reset(Response):
    """No answer: the connection ends with a reset (RST)."""

    def __init__(self) -> None:
        super().__init__(status_code=NO_ANSWER)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        """Drop the connection."""
        transport = scope["state"]["connection"].transport
        # To linger for no time is how a socket is told to reset rather than to close.
        linger = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)
        with suppress(OSError):  # the client may have gone meanwhile
            connected = transport.get_extra_info("socket")
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        transport.abort()
        await gone(receive)


class Hanging(Reset):
    """No answer and no end, until the client gives up or the time is over."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Wait for the client to go, or drop the connection."""
        if not await gone(receive, within=self._seconds):
            await super().__call__(scope, receive, send)


def _piece(body: memoryview) -> Message:
    return {"type": "http.response.body", "body": body, "more_body": True}


async def gone(receive: Receive, *, within: float | None = None) -> bool:
    """Wait until the client has gone, or for this many seconds; return whether it has gone."""
    try:
        async with asyncio.timeout(within):
            while (await receive())["type"] != "http.disconnect":
                pass
    except TimeoutError:
        return False
    return True
