"""Request lines and headers within bounds: uvicorn's fast parser has none, and would keep whatever comes.

What is wrong here is answered in plain bytes: no route, and no reply of its own form, is known yet.
"""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MOST_BYTES = 64 * 1024
"""Of request line and headers, to within one read of the socket."""
MOST_SECONDS = 30.0
"""From a request's first byte, or from the connection, to the end of its headers."""


class BoundedHead(HttpToolsProtocol):
    """A connection that ends when a request's head is too long or too slow."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._head_bytes = 0
        self._in_head = False
        self._slow: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as its base
        """Waits for the first request."""
        super().connection_made(transport)
        self._begin_to_wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Waits no more."""
        self._end_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Feeds the parser; whatever comes before the headers are complete is counted."""
        super().data_received(data)
        if self._in_head and not self.transport.is_closing():
            self._head_bytes += len(data)
            if self._head_bytes > MOST_BYTES:
                self._refuse(
                    "HeadTooLarge",
                    b"431 Request Header Fields Too Large",
                    b"URL and headers are longer than 65536 bytes",
                )

    def on_message_begin(self) -> None:
        """The parser has met the first byte of a request."""
        super().on_message_begin()
        self._in_head, self._head_bytes = True, 0
        self._begin_to_wait()

    def on_headers_complete(self) -> None:
        """The head is there."""
        self._in_head = False
        self._end_waiting()
        super().on_headers_complete()

    def _begin_to_wait(self) -> None:
        self._end_waiting()
        self._slow = self.loop.call_later(
            MOST_SECONDS,
            self._refuse,
            "HeadTooSlow",
            b"408 Request Timeout",
            b"the headers did not arrive within 30 seconds",
        )

    def _end_waiting(self) -> None:
        if self._slow is not None:
            self._slow.cancel()
            self._slow = None

    def _refuse(self, name: str, status: bytes, why: bytes) -> None:
        if not self.transport.is_closing():
            if backend := getattr(getattr(self.config.app, "state", None), "backend", None):
                backend.metrics.errors.labels(name).inc()
            self.transport.write(
                b"HTTP/1.1 %b\r\nContent-Type: text/plain\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%b"
                % (status, len(why), why)
            )
            self.transport.close()
