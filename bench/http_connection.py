"""A raw HTTP/1.1 client connection: as little work per byte as the load generator can get away with."""

import asyncio
import re
import time
from collections.abc import Callable

OnData = Callable[[bytes, float], None]
"""Gets each piece of a body and the time at which it arrived."""

LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
CHUNKED = re.compile(rb"\r\ntransfer-encoding: *chunked", re.IGNORECASE)
CLOSE = re.compile(rb"\r\nconnection: *close", re.IGNORECASE)


class Disconnected(Exception):
    """The server closed the connection in the middle of a reply."""


class HttpConnection(asyncio.Protocol):
    """One keep-alive connection, one request at a time; opens itself again when the server has closed it."""

    def __init__(self, host: str, port: int, key: str = "") -> None:
        """`key`: an API key; empty for none."""
        self._host, self._port = host, port
        self._key = key
        self._transport: asyncio.Transport | None = None
        self._reset()

    def _reset(self) -> None:
        self._buffer = b""
        self._status = 0
        self._left: int | None = None
        """Bytes of the body, or of the chunk, still to come; None before the head, -1 until the connection closes."""
        self._chunked = self._close = False

    async def request(self, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
        """Status and body."""
        parts: list[bytes] = []
        status = await self.stream(method, path, body, lambda data, _: parts.append(data))
        return status, b"".join(parts)

    async def stream(self, method: str, path: str, body: bytes, on_data: OnData) -> int:
        """Hands on the body as it arrives; the status, once it is complete. Raises Disconnected or OSError."""
        reused = self._transport is not None
        try:
            return await self._exchange(method, path, body, on_data)
        except Disconnected:
            # A server may close an idle connection in the moment in which it is used again.
            if not reused or self._left is not None or self._buffer:
                raise
        return await self._exchange(method, path, body, on_data)

    async def _exchange(self, method: str, path: str, body: bytes, on_data: OnData) -> int:
        if self._transport is None:
            await asyncio.get_running_loop().create_connection(lambda: self, self._host, self._port)
        assert self._transport is not None
        self._reset()
        self._on_data = on_data
        self._done: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        head = f"{method} {path} HTTP/1.1\r\nHost: {self._host}\r\n"
        if self._key:
            head += f"Authorization: Bearer {self._key}\r\n"
        if body:
            head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        self._transport.write(head.encode() + b"\r\n" + body)
        return await self._done

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()
            self._transport = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        if hasattr(self, "_done") and not self._done.done():
            if self._left == -1:
                self._done.set_result(self._status)
            else:
                self._done.set_exception(Disconnected(str(error or "")))

    def data_received(self, data: bytes) -> None:
        now = time.perf_counter()
        if self._left is None:
            data = self._head(self._buffer + data)
            if self._left is None:
                return
        if self._chunked:
            self._chunks(data, now)
            return
        if data:
            self._on_data(data, now)
        if self._left != -1:
            self._left -= len(data)
            if self._left <= 0:
                self._complete()

    def _head(self, data: bytes) -> bytes:
        """Reads status and framing; returns what follows the head."""
        head, blank, rest = data.partition(b"\r\n\r\n")
        if not blank:
            self._buffer = data
            return b""
        self._buffer = b""
        self._status = int(head[9:12])
        self._close = CLOSE.search(head) is not None
        length = LENGTH.search(head)
        self._chunked = CHUNKED.search(head) is not None
        self._left = 0 if self._chunked or self._status == 204 else int(length[1]) if length else -1
        return rest

    def _chunks(self, data: bytes, now: float) -> None:
        data = self._buffer + data
        at, body = 0, []
        while (line := data.find(b"\r\n", at)) >= 0:
            size = int(data[at:line].partition(b";")[0], 16)
            if len(data) < line + 2 + size + 2:
                break
            body.append(data[line + 2 : line + 2 + size])
            at = line + 2 + size + 2
            if size == 0:
                self._complete()
                break
        self._buffer = data[at:]
        if body and (piece := b"".join(body)):
            self._on_data(piece, now)

    def _complete(self) -> None:
        if not self._done.done():
            self._done.set_result(self._status)
        if self._close and self._transport is not None:
            self._transport.close()
            self._transport = None
