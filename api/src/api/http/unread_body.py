"""Replies that are sent before the request's body has arrived: the rest is read and dropped, then it hangs up.

A client that writes its whole request before it reads (Python's urllib and many others) would meet a reset in the
middle of it, and never see why it was refused: closing a socket that holds unread bytes makes the kernel throw away, at
the other end, what was sent there. nginx calls the remedy `lingering_close`.
"""

import asyncio
from contextlib import suppress

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

DROPPED_BYTES = 64 * 2**20
"""Most that is read after a reply. Who sends more is cut off."""


class UnreadBody:
    """ASGI middleware for all routes, around everything that answers."""

    def __init__(self, app: ASGIApp, seconds: float, most_bytes: int = DROPPED_BYTES) -> None:
        """`seconds`: how long the rest of a body is waited for."""
        self._app = app
        self._seconds = seconds
        self._most_bytes = most_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not _has_body(Headers(scope=scope)):
            await self._app(scope, receive, send)
            return
        body = _Body(receive)
        closes = False

        async def reply(message: Message) -> None:
            nonlocal closes
            if message["type"] == "http.response.start":
                headers = MutableHeaders(raw=message.setdefault("headers", []))
                # Reading tells a client that waits for "100 Continue" to send what nobody wants.
                if "100-continue" not in Headers(scope=scope).get("expect", "").lower():
                    await body.drop(0, self._most_bytes)
                # A reply of unknown length ends with its last chunk, which must not wait for the request.
                closes = body.unread and "content-length" in headers
                if closes:
                    headers["Connection"] = "close"
            elif closes and message["type"] == "http.response.body" and not message.get("more_body", False):
                await send({**message, "more_body": True})
                await body.drop(self._seconds, self._most_bytes)
                message = {"type": "http.response.body", "body": b""}
            await send(message)

        await self._app(scope, body.receive, reply)


def _has_body(headers: Headers) -> bool:
    return "transfer-encoding" in headers or headers.get("content-length", "0") != "0"


class _Body:
    """The body of one request, and whether all of it has been read."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self.unread = True

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.disconnect" or not message.get("more_body", False):
            self.unread = False
        return message

    async def drop(self, seconds: float, most_bytes: int) -> None:
        """Reads to the end of the body, or within these bounds. 0 seconds: what has arrived."""
        dropped = 0
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self.unread and dropped < most_bytes:
                    dropped += len((await self.receive()).get("body", b""))
