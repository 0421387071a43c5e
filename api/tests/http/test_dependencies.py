"""Who is calling, by what an HTTP request brings."""

from typing import Any

import httpx
import pytest

from shared.store.task_ledger import TaskLedger
from testbed.api_app import Call, StartApp

KEYS = {"key-of-a": "a", "key-of-b": "b"}
LIST = {"jsonrpc": "2.0", "id": 1, "method": "tool_list"}
CREATE = {"jsonrpc": "2.0", "id": 1, "method": "create_message", "params": {"message": "hi"}}


async def tenant_of(ledger: TaskLedger, task_id: str) -> str:
    record = await ledger.get(task_id)
    assert record is not None
    return record.tenant


async def test_without_configured_keys_everybody_is_the_default_tenant(call: Call, ledger: TaskLedger) -> None:
    for key in ("", "whatever"):
        created = await call("create_message", key=key, message="hi")
        assert await tenant_of(ledger, created["result"]["taskId"]) == "default"


@pytest.mark.parametrize(("scheme", "tenant"), [("Bearer", "a"), ("bearer", "a"), ("BEARER ", "a")])
async def test_the_key_names_the_tenant(start_app: StartApp, ledger: TaskLedger, scheme: str, tenant: str) -> None:
    async with start_app(api_keys=KEYS) as http:
        reply = await http.post("/rpc", json=CREATE, headers={"Authorization": f"{scheme} key-of-a"})
    assert await tenant_of(ledger, reply.json()["result"]["taskId"]) == tenant


@pytest.mark.parametrize(
    "header", ["", "key-of-a", "Basic key-of-a", "Bearer", "Bearer ", "Bearer key-of-", "Bearer key-of-aa", "Bearer ÿ"]
)
async def test_anything_but_a_known_key_is_unauthorized(start_app: StartApp, header: str) -> None:
    async with start_app(api_keys=KEYS) as http:
        reply = await http.post("/rpc", json=LIST, headers={b"Authorization": header.encode("latin-1")})
    assert reply.status_code == 401
    assert reply.headers["WWW-Authenticate"] == 'Bearer realm="headrace"'
    assert reply.json()["error"]["code"] == -32001


async def status_of_stream(http: httpx.AsyncClient, task_id: str, **options: Any) -> int:
    async with http.stream("HEAD", f"/stream/{task_id}", **options) as reply:
        return reply.status_code


async def test_streams_take_the_key_from_the_header_or_the_query(start_app: StartApp) -> None:
    async with start_app(api_keys=KEYS) as http:
        created = await http.post("/rpc", json=CREATE, headers={"Authorization": "Bearer key-of-a"})
        task_id = created.json()["result"]["taskId"]
        assert await status_of_stream(http, task_id, headers={"Authorization": "Bearer key-of-a"}) == 200
        assert await status_of_stream(http, task_id, params={"access_token": "key-of-a"}) == 200
        assert await status_of_stream(http, task_id, params={"access_token": "key-of-b"}) == 404
        assert await status_of_stream(http, task_id, params={"access_token": "key-of-c"}) == 401
        assert await status_of_stream(http, task_id) == 401
        both = {"params": {"access_token": "key-of-a"}, "headers": {"Authorization": "Bearer wrong"}}
        assert await status_of_stream(http, task_id, **both) == 401


async def test_requests_do_not_take_the_key_from_the_query(start_app: StartApp) -> None:
    async with start_app(api_keys=KEYS) as http:
        reply = await http.post("/rpc", json=LIST, params={"access_token": "key-of-a"})
    assert reply.status_code == 401
