"""JSON-RPC over HTTP: what the transport adds."""

import asyncio
import json
from typing import Any

import httpx
import pytest

from testbed.api_replica import StartReplica
from testbed.waiting import until

JSON = {"Content-Type": "application/json"}


def request(method: str, request_id: int | None = 1, **params: Any) -> dict[str, Any]:
    body = {"jsonrpc": "2.0", "method": method, "params": params}
    return body if request_id is None else body | {"id": request_id}


async def waiting(http: httpx.AsyncClient) -> int:
    reply = await http.post("/rpc", json=request("model_list"))
    count: int = reply.json()["result"]["models"][0]["waiting"]
    return count


async def test_a_notification_runs_and_gets_204_without_a_body(http: httpx.AsyncClient) -> None:
    reply = await http.post("/rpc", json=request("create_message", None, message="hi"))
    assert (reply.status_code, reply.content) == (204, b"")
    assert await waiting(http) == 1


async def test_a_batch_of_nothing_but_notifications_gets_204(http: httpx.AsyncClient) -> None:
    reply = await http.post("/rpc", json=[request("create_message", None, message="hi")] * 3)
    assert (reply.status_code, reply.content) == (204, b"")
    assert await waiting(http) == 3


async def test_a_batch_gets_its_replies_in_its_order(http: httpx.AsyncClient) -> None:
    batch = [
        request("create_message", 1, message="one"),
        request("create_message", None, message="two"),
        {"jsonrpc": "2.0"},
        request("create_message", 3, message=""),
        request("tool_list", 4),
    ]
    reply = await http.post("/rpc", json=batch)
    assert reply.status_code == 200
    one, invalid, empty, tools = reply.json()
    assert one["id"] == 1
    assert set(one["result"]) == {"taskId"}
    assert (invalid["id"], invalid["error"]["code"]) == (None, -32600)
    assert (empty["id"], empty["error"]["code"]) == (3, -32602)
    assert tools == {"jsonrpc": "2.0", "id": 4, "result": []}
    assert await waiting(http) == 2


async def test_the_media_type_may_have_parameters_and_any_case(http: httpx.AsyncClient) -> None:
    body = json.dumps(request("tool_list"))
    reply = await http.post("/rpc", content=body, headers={"Content-Type": "Application/JSON; charset=utf-8"})
    assert reply.json()["result"] == []
    assert reply.headers["Content-Type"] == "application/json"


async def test_text_beyond_ascii_comes_back_as_it_was_sent(http: httpx.AsyncClient) -> None:
    body = {"jsonrpc": "2.0", "id": "größe 😀", "method": "tool_list"}
    reply = await http.post("/rpc", json=body)
    assert reply.json()["id"] == "größe 😀"


async def test_only_post_is_allowed(http: httpx.AsyncClient) -> None:
    assert (await http.get("/rpc")).status_code == 405


async def test_a_body_that_is_too_long_is_refused_and_the_server_goes_on(start_replica: StartReplica) -> None:
    replica = await start_replica(max_body_bytes=10_000)

    async def chunks() -> Any:
        for _ in range(2_000):
            yield b" " * 1_000

    async with httpx.AsyncClient(base_url=replica.url) as http:
        for content in (b" " * 2_000_000, chunks()):
            reply = await http.post("/rpc", content=content, headers=JSON)
            assert reply.status_code == 413
            assert reply.json()["id"] is None
        assert (await http.post("/rpc", json=request("tool_list"))).status_code == 200


async def test_a_body_that_stops_half_way_is_answered_with_408(start_replica: StartReplica) -> None:
    replica = await start_replica(body_timeout=0.2)
    reader, writer = await asyncio.open_connection("127.0.0.1", replica.port)
    writer.write(b"POST /rpc HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{")
    async with asyncio.timeout(5):
        assert b" 408 " in await reader.readline()
    writer.close()
    await writer.wait_closed()


async def test_a_client_that_goes_away_in_mid_body_leaves_nothing_behind(
    start_replica: StartReplica, caplog: pytest.LogCaptureFixture
) -> None:
    replica = await start_replica()
    _, writer = await asyncio.open_connection("127.0.0.1", replica.port)
    writer.write(b"POST /rpc HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{")
    await writer.drain()
    running = replica.server.server_state.tasks
    await until(lambda: running, 5, "the request runs")
    writer.close()
    await writer.wait_closed()
    await until(lambda: not running, 5, "nothing runs")
    assert "Traceback" not in caplog.text


async def test_the_page_about_the_routes_is_made(http: httpx.AsyncClient) -> None:
    assert {"/rpc", "/stream/{task_id}"} <= set((await http.get("/openapi.json")).json()["paths"])
