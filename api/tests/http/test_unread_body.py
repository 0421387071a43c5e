"""A refusal reaches clients that write their whole request before they read."""

import asyncio
import http.client
import json
import socket
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import httpx
import pytest
import uvicorn
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from api.http.unread_body import UnreadBody
from testbed.api_replica import Replica, StartReplica

JSON = {"Content-Type": "application/json"}
MEGABYTES = 20
"""More than all buffers between a client and a server that does not read."""
BODY = b" " * (MEGABYTES * 2**20)

REFUSED = [
    ("/rpc", JSON, 413),
    ("/rpc", {"Content-Type": "text/plain"}, 415),
    ("/rpc", JSON | {"Content-Encoding": "gzip"}, 415),
    ("/rpc", JSON | {"Authorization": "Bearer nobody"}, 401),
    ("/nothing", JSON, 404),
    ("/stream/a-task", JSON, 405),
]


@pytest.fixture
async def replica(start_replica: StartReplica) -> Replica:
    return await start_replica(api_keys={"sesame": "a"})


def authorized(headers: dict[str, str]) -> dict[str, str]:
    return {"Authorization": "Bearer sesame"} | headers


@pytest.mark.parametrize(("path", "headers", "status"), REFUSED)
async def test_urllib_reads_why_it_was_refused(
    replica: Replica, path: str, headers: dict[str, str], status: int
) -> None:
    def post() -> tuple[int, bytes]:
        request = urllib.request.Request(replica.url + path, BODY, authorized(headers))
        with pytest.raises(urllib.error.HTTPError) as refusal, urllib.request.urlopen(request, timeout=20):
            pass
        with refusal.value as reply:
            return reply.code, reply.read()

    code, body = await asyncio.to_thread(post)
    assert code == status
    assert json.loads(body)


@pytest.mark.parametrize(("path", "headers", "status"), REFUSED)
async def test_a_kept_connection_of_http_client_reads_it_too_and_in_chunks(
    replica: Replica, path: str, headers: dict[str, str], status: int
) -> None:
    def post() -> int:
        connection = http.client.HTTPConnection("127.0.0.1", replica.port, timeout=20)
        chunks = (BODY[:65536] for _ in range(MEGABYTES * 16))
        connection.request("POST", path, chunks, authorized(headers), encode_chunked=True)
        with connection.getresponse() as reply:
            reply.read()
        connection.close()
        return reply.status

    assert await asyncio.to_thread(post) == status


@pytest.mark.needs("curl")
@pytest.mark.parametrize("expect", ["Expect: 100-continue", "Expect:"])
@pytest.mark.parametrize(("path", "headers", "status"), REFUSED)
async def test_curl_reads_it_whether_or_not_it_asks_first(
    replica: Replica, path: str, headers: dict[str, str], status: int, expect: str
) -> None:
    options = [word for name, value in authorized(headers).items() for word in ("-H", f"{name}: {value}")]
    curl = await asyncio.create_subprocess_exec(
        "curl", "-sS", "--max-time", "20", "-H", expect, *options, "--data-binary", "@-", "-w", "\n%{http_code}",
        replica.url + path, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    output, _ = await curl.communicate(BODY)
    body, _, code = output.rpartition(b"\n")
    assert (curl.returncode, int(code)) == (0, status)
    assert json.loads(body)


async def test_a_small_body_that_has_arrived_leaves_the_connection_open(replica: Replica) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", replica.port)
    request = b"POST /nothing HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}"
    async with asyncio.timeout(5):
        for _ in range(2):
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            assert b" 404 " in head
            assert b"connection: close" not in head
            await reader.readexactly(len(b'{"detail":"Not Found"}'))
    writer.close()


async def refuse(scope: Scope, receive: Receive, send: Send) -> None:
    await JSONResponse({"refused": True}, 401)(scope, receive, send)


@asynccontextmanager
async def served(app: Any) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection to the application in a real server."""
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off"))
    listener = socket.create_server(("127.0.0.1", 0))
    task = asyncio.create_task(server._serve(sockets=[listener]))
    reader, writer = await asyncio.open_connection(*listener.getsockname())
    try:
        async with asyncio.timeout(10):
            yield reader, writer
    finally:
        writer.close()
        server.should_exit = True
        await task


ENDLESS = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"


async def test_who_sends_nothing_more_is_answered_at_once_and_cut_off_after_the_time() -> None:
    async with served(UnreadBody(refuse, seconds=0.1)) as (reader, writer):
        writer.write(ENDLESS)
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        assert b" 401 " in head
        assert b"connection: close" in head
        assert json.loads(body) == {"refused": True}


async def test_who_goes_on_and_on_is_cut_off_after_so_many_bytes() -> None:
    async with served(UnreadBody(refuse, seconds=3600, most_bytes=2**20)) as (_, writer):
        writer.write(ENDLESS)
        sent = 0
        with suppress(ConnectionError):
            while True:
                writer.write(b"10000\r\n" + b" " * 0x10000 + b"\r\n")
                await writer.drain()
                sent += 0x10000
        assert sent >= 2**20


async def test_a_client_that_waits_for_100_continue_is_not_told_to_go_on() -> None:
    async with served(UnreadBody(refuse, seconds=0.1)) as (reader, writer):
        writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 401 ")


async def test_a_reply_to_a_body_that_was_read_changes_nothing(replica: Replica) -> None:
    async with httpx.AsyncClient(base_url=replica.url, headers=authorized({})) as client:
        body = {"jsonrpc": "2.0", "id": "x" * 100_000, "method": "tool_list"}
        reply = await client.post("/rpc", json=body)
    assert reply.json()["result"] == []
    assert "connection" not in reply.headers
