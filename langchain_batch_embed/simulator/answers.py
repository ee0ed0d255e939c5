"""How the server sends an answer: whole, or spoiled by one of the transport faults."""

import asyncio
import socket
import struct
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import Final

from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

# Large answers are sent in pieces, so that one of them never delays the others.
_PIECE_BYTES: Final = 1 << 20

_END: Final = {"type": "http.response.body", "body": b"", "more_body": False}

NO_ANSWER: Final = 0  # recorded as the status of a request that was never answered


class Answer(Response):
    """A complete body, sent in pieces as fast as the client reads them."""

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
    """An answer that sends its headers at once, then its body one byte at a time."""

    def __init__(self, content: bytes, headers: Mapping[str, str], seconds: float) -> None:
        super().__init__(content, headers=headers)
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        """Send the body byte by byte, and stop if the client disconnects."""
        await self.send_headers(send)
        view = memoryview(self.body)
        for start in range(len(view)):
            if await gone(receive, within=self._seconds):
                return
            await send(_piece(view[start : start + 1]))
        await send(_END)


class Truncated(Answer):
    """An answer that sends a third of the promised body and then closes the connection."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the first third of the body, then close the connection."""
        await self.send_headers(send)
        await send(_piece(memoryview(self.body)[: len(self.body) // 3]))
        scope["state"]["connection"].transport.close()
        await gone(receive)


class Reset(Response):
    """No answer; the connection ends with a reset (RST)."""

    def __init__(self) -> None:
        super().__init__(status_code=NO_ANSWER)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        """Reset the connection."""
        transport = scope["state"]["connection"].transport
        # With a linger time of 0 the socket sends a reset instead of closing normally.
        linger = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)
        with suppress(OSError):  # the client may have disconnected already
            connected = transport.get_extra_info("socket")
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        transport.abort()
        await gone(receive)


class Hanging(Reset):
    """No answer; the connection stays open until the client gives up or the time is over."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Wait for the client to disconnect, and reset the connection when the time is over."""
        if not await gone(receive, within=self._seconds):
            await super().__call__(scope, receive, send)


def _piece(body: memoryview) -> Message:
    return {"type": "http.response.body", "body": body, "more_body": True}


async def gone(receive: Receive, *, within: float | None = None) -> bool:
    """Wait until the client disconnects, for at most `within` seconds; return whether it did."""
    try:
        async with asyncio.timeout(within):
            while (await receive())["type"] != "http.disconnect":
                pass
    except TimeoutError:
        return False
    return True
