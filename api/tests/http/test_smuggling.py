"""Requests whose end or place can be read in two ways: a proxy must not see one where the server sees two."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import uvicorn

from api.http.bounded_head import BoundedHead
from api.tenants.key_file import sha256_of
from testbed.ambiguous import AMBIGUOUS, HIDDEN
from testbed.api_app import StartApp
from testbed.waiting import until

SECONDS = 10


class Seen:
    """An application that notes which requests it was asked, and reads their bodies."""

    def __init__(self) -> None:
        self.paths: list[str] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        self.paths.append(scope["path"])
        while (await receive()).get("more_body", False):
            pass
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})


@pytest.fixture
async def served() -> AsyncIterator[tuple[int, Seen]]:
    seen = Seen()
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(seen, log_config=None, lifespan="off", http=BoundedHead))
    task = asyncio.create_task(server._serve(sockets=[listener]))
    await until(lambda: server.started, SECONDS, "uvicorn listens")
    yield listener.getsockname()[1], seen
    server.should_exit = True
    await asyncio.wait_for(task, SECONDS)


async def sent(port: int, request: bytes) -> bytes:
    """All that comes back; what is sent ends with the request."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        async with asyncio.timeout(SECONDS):
            with contextlib.suppress(ConnectionError):
                writer.write(request)
                await writer.drain()
                writer.write_eof()
                return await reader.read()
            return b""
    finally:
        writer.close()


@pytest.mark.parametrize("name", AMBIGUOUS)
async def test_what_is_hidden_in_a_request_is_no_request(served: tuple[int, Seen], name: str) -> None:
    """It is a body, or the request is refused and the connection closed."""
    port, seen = served
    reply = await sent(port, AMBIGUOUS[name])
    assert HIDDEN not in seen.paths, reply


async def test_a_second_request_behind_a_whole_one_is_one(served: tuple[int, Seen]) -> None:
    """Pipelined as it may be: so the test above can fail."""
    port, seen = served
    whole = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"
    await sent(port, whole + b"GET %b HTTP/1.1\r\nHost: a\r\n\r\n" % HIDDEN.encode())
    assert seen.paths == ["/", HIDDEN]


KEYS = {
    "keys": [
        {"id": "k", "tenant": "t", "sha256": sha256_of("hr_k")},
        {"id": "u", "tenant": "u", "sha256": sha256_of("hr_of_another_tenant")},
    ]
}
PATHS = [
    "/rpc/../v1/models",
    "/v1/%2e%2e/v1/models",
    "/v1%2fmodels",
    "//v1/models",
    "/v1//models",
    "/%2e/v1/models",
    "/v1/models%00",
    "/stream/..%2f..%2fetc%2fpasswd",
    "/static/..%2f..%2fsettings.py",
    "/page/..%2froute.py",
]


@pytest.mark.parametrize("path", PATHS)
async def test_no_spelling_of_a_path_goes_past_the_key(start_app: StartApp, path: str) -> None:
    async with start_app(api_keys=KEYS) as http:
        reply = await http.get(httpx.URL("http://api").copy_with(raw_path=path.encode()))
        assert reply.status_code in (401, 404, 405), reply.text
        assert '"object":"list"' not in reply.text.replace(" ", "")


TWICE = [
    [("Authorization", "Bearer hr_k"), ("Authorization", "Bearer hr_other")],
    [("Authorization", "Bearer hr_other"), ("Authorization", "Bearer hr_k")],
    [("Authorization", "Bearer hr_k, Bearer hr_other")],
    [("Authorization", "Bearer hr_other"), ("x-api-key", "hr_k")],
    [("Authorization", "Bearer hr_of_another_tenant"), ("x-api-key", "hr_k")],
    [("X_API_KEY", "hr_k")],
    [("x_api-key", "hr_k"), ("Authorization_", "Bearer hr_k")],
    [("Authorization", "Basic hr_k")],
    [("Authorization", "Bearer hr_k\tx")],
    [("X-Forwarded-User", "t"), ("X-Tenant", "t")],
]


@pytest.mark.parametrize("sent", [{"x-api-key": "hr_k"}, {"Authorization": "Bearer hr_k", "x-api-key": "hr_k"}])
async def test_either_header_opens_every_door_and_so_do_both_of_one_key(
    start_app: StartApp, sent: dict[str, str]
) -> None:
    async with start_app(api_keys=KEYS) as http:
        assert (await http.get("/v1/models", headers=sent)).status_code == 200
        assert (await http.get("/stream/x", headers=sent)).status_code == 404
        assert (await http.post("/v1/messages", headers=sent, json={})).status_code == 400
        assert (await http.post("/rpc", headers=sent, json={})).status_code == 200


@pytest.mark.parametrize("headers", TWICE, ids=repr)
async def test_two_keys_or_a_key_under_another_name_are_none(start_app: StartApp, headers: list[Any]) -> None:
    """A proxy and the server must not each believe another one."""
    async with start_app(api_keys=KEYS) as http:
        assert (await http.get("/v1/models", headers=[("Authorization", "Bearer hr_k")])).status_code == 200
        for path in ("/v1/models", "/stream/x", "/stream/x?stream_token=y"):
            assert (await http.get(path, headers=headers)).status_code == 401, headers
        for path in ("/v1/messages", "/rpc"):
            assert (await http.post(path, headers=headers, json={})).status_code == 401, headers
