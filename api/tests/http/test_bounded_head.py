"""Heads of requests that are too long or too slow, over real sockets."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
import uvicorn

from api.http.bounded_head import MOST_BYTES, BoundedHead
from api.metrics import make_metrics
from testbed.waiting import until

SECONDS = 10


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Answers with the length of the body."""
    if scope["type"] != "http":
        return
    length, more = 0, True
    while more:
        message = await receive()
        length += len(message.get("body", b""))
        more = message.get("more_body", False)
    body = str(length).encode()
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


@pytest.fixture
async def port() -> AsyncIterator[int]:
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(echo, log_config=None, lifespan="off", http=BoundedHead))
    task = asyncio.create_task(server._serve(sockets=[listener]))
    await until(lambda: server.started, SECONDS, "uvicorn listens")
    yield listener.getsockname()[1]
    server.should_exit = True
    await asyncio.wait_for(task, SECONDS)


async def answer_to(port: int, *parts: bytes) -> bytes:
    """All that comes back until the server closes the connection, or has answered."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        async with asyncio.timeout(SECONDS):
            with contextlib.suppress(ConnectionError):
                for part in parts:
                    writer.write(part)
                    await writer.drain()
            with contextlib.suppress(ConnectionError):
                return await reader.read(65536)
            return b""
    finally:
        writer.close()


@pytest.mark.parametrize(
    "parts",
    [
        [b"GET /" + b"a" * (4 * MOST_BYTES)],
        [b"GET / HTTP/1.1\r\nX: " + b"a" * (4 * MOST_BYTES)],
        [b"GET / HTTP/1.1\r\n", *[b"X: " + b"a" * 1000 + b"\r\n"] * 400],
    ],
    ids=["a long URL", "a long header", "many headers"],
)
async def test_a_head_that_does_not_end_is_refused(port: int, parts: list[bytes]) -> None:
    assert (await answer_to(port, *parts)).startswith(b"HTTP/1.1 431 ")


async def test_a_head_below_the_bound_and_a_body_beyond_it_pass(port: int) -> None:
    length = 8 * MOST_BYTES
    head = b"POST / HTTP/1.1\r\nX: " + b"a" * (MOST_BYTES // 2) + b"\r\nContent-Length: %d\r\n\r\n" % length
    for parts in ([head + b"b" * length], [head, b"b" * length], [head[:100], head[100:], b"b" * length]):
        answered = await answer_to(port, *parts)
        assert answered.startswith(b"HTTP/1.1 200 ")
        assert answered.endswith(str(length).encode())


async def test_a_connection_that_says_nothing_or_too_little_is_ended(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.http.bounded_head.MOST_SECONDS", 0.2)
    for said in (b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: x\r\n"):
        assert (await answer_to(port, said)).startswith(b"HTTP/1.1 408 ")


async def test_a_second_request_on_the_connection_is_bounded_too(port: int) -> None:
    first = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    async with asyncio.timeout(SECONDS):
        writer.write(first)
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
        assert await reader.readexactly(1) == b"0"
        with contextlib.suppress(ConnectionError):
            for _ in range(400):
                writer.write(b"GET / HTTP/1.1\r\nX: " + b"a" * 1000 if _ == 0 else b"a" * 1000)
                await writer.drain()
        assert (await reader.read(65536)).startswith(b"HTTP/1.1 431 ")
    writer.close()


SMUGGLED = b"GET /admin HTTP/1.1\r\nHost: x\r\n\r\n"
SPLITS = {
    "two lengths": b"Content-Length: 5\r\nContent-Length: 0\r\n\r\nhello",
    "a list of lengths": b"Content-Length: 5, 0\r\n\r\nhello",
    "length and chunks": b"Content-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    "chunks that are not last": b"Transfer-Encoding: chunked, identity\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    "a space before the colon": b"Content-Length : 5\r\n\r\nhello",
    "a signed length": b"Content-Length: +5\r\n\r\nhello",
    "a length in hexadecimal": b"Content-Length: 0x5\r\n\r\nhello",
    "a folded header": b"X: a\r\n Content-Length: 5\r\n\r\n",
    "a bare carriage return": b"X: a\rContent-Length: 5\r\n\r\n",
    "a zero byte": b"X: a\0b\r\n\r\n",
    "a chunk size with a sign": b"Transfer-Encoding: chunked\r\n\r\n-5\r\nhello\r\n0\r\n\r\n",
}
"""Heads that two servers may read as different requests: what one takes for a body is the next request to the other."""


@pytest.mark.parametrize("head", SPLITS.values(), ids=SPLITS)
async def test_a_request_that_could_be_read_in_two_ways_is_refused_and_nothing_behind_it_is_read(
    port: int, head: bytes
) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    async with asyncio.timeout(SECONDS):
        writer.write(b"POST / HTTP/1.1\r\nHost: x\r\n" + head + SMUGGLED)
        with contextlib.suppress(ConnectionError):
            answered = await reader.read()
    writer.close()
    assert answered.startswith(b"HTTP/1.1 400 ")
    assert answered.count(b"HTTP/1.1 ") == 1


async def test_a_head_that_is_refused_is_counted() -> None:
    class Counted:
        state = SimpleNamespace(backend=SimpleNamespace(metrics=make_metrics()))

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            await echo(scope, receive, send)

    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(Counted(), log_config=None, lifespan="off", http=BoundedHead))
    task = asyncio.create_task(server._serve(sockets=[listener]))
    await until(lambda: server.started, SECONDS, "uvicorn listens")
    reply = await answer_to(listener.getsockname()[1], b"GET /" + b"x" * (2 * MOST_BYTES))
    assert b" 431 " in reply
    errors = Counted.state.backend.metrics.registry
    assert errors.get_sample_value("headrace_request_errors_total", {"reason": "HeadTooLarge"}) == 1
    server.should_exit = True
    await asyncio.wait_for(task, SECONDS)
