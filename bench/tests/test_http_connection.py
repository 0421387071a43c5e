"""The client connection, against a server that cuts its replies into awkward pieces."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from bench.http_connection import Disconnected, HttpConnection

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n7;x=y\r\n, world\r\n0\r\n\r\n"
PLAIN = b"HTTP/1.1 201 Created\r\ncontent-length: 5\r\n\r\nhello"
CUT = b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhello"
UNTIL_CLOSED = b"HTTP/1.1 200 OK\r\n\r\nhello"


@pytest.fixture
async def port() -> AsyncIterator[int]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            path = line.split()[1]
            while (await reader.readline()).strip():
                pass
            replies = {b"/chunked": CHUNKED, b"/cut": CUT, b"/until-closed": UNTIL_CLOSED}
            for byte in replies.get(path, PLAIN):
                writer.write(bytes([byte]))
                await writer.drain()
            if path in (b"/cut", b"/until-closed"):
                break
            if path == b"/leave":
                await reader.readline()
                break
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]


async def test_bodies_arrive_whole_however_they_are_framed(port: int) -> None:
    connection = HttpConnection("127.0.0.1", port)
    for _ in range(2):  # on one connection
        assert await connection.request("GET", "/chunked") == (200, b"hello, world")
        assert await connection.request("POST", "/plain") == (201, b"hello")
    assert await connection.request("GET", "/until-closed") == (200, b"hello")
    assert await connection.request("GET", "/plain") == (201, b"hello")
    connection.close()


async def test_a_reply_that_breaks_off_is_an_error(port: int) -> None:
    connection = HttpConnection("127.0.0.1", port)
    with pytest.raises(Disconnected):
        await connection.request("GET", "/cut")


async def test_a_request_is_sent_again_when_the_idle_connection_was_closed_under_it(port: int) -> None:
    connection = HttpConnection("127.0.0.1", port)
    assert await connection.request("GET", "/leave") == (201, b"hello")
    assert await connection.request("GET", "/plain") == (201, b"hello")
    connection.close()
