"""Requests that are not to be stored, by their own word or their key's, at every door."""

import json
from typing import Any

import httpx
import pytest

from api.tenants.caller import Caller
from shared.store.task_ledger import TaskLedger
from testbed.answering_doors import ANSWERING_DOORS, key_file
from testbed.api_app import StartApp, rpc
from testbed.api_replica import Replica, StartReplica
from testbed.fake_worker import DEFAULT_MODEL


async def asked(replica: Replica, path: str, body: dict[str, Any]) -> dict[str, Any]:
    """The request that a worker gets. Its client goes away when it has been accepted."""
    async with (
        httpx.AsyncClient(base_url=replica.url, headers={"Authorization": "Bearer hr_k"}, timeout=20) as http,
        http.stream("POST", path, json=body | {"stream": True}) as reply,
    ):
        assert reply.status_code == 200, await reply.aread()
        record = await replica.backend.own_tasks.record(Caller("t"), reply.headers["X-Headrace-Task-Id"])
    request: dict[str, Any] = json.loads(record.request)
    return request


@pytest.mark.parametrize(("path", "body"), ANSWERING_DOORS)
async def test_a_key_stores_nothing_at_any_door(start_replica: StartReplica, path: str, body: dict[str, Any]) -> None:
    replica = await start_replica(api_keys=key_file("k", store=False))
    request = await asked(replica, path, body)
    assert request["store"] is False
    assert "conversation_id" not in request


@pytest.mark.parametrize(("path", "body"), [door for door in ANSWERING_DOORS if door[0] != "/v1/messages"])
async def test_a_request_is_stored_unless_it_says_otherwise(
    start_replica: StartReplica, path: str, body: dict[str, Any]
) -> None:
    replica = await start_replica(api_keys=key_file("k"))
    assert "store" not in await asked(replica, path, body)
    assert (await asked(replica, path, body | {"store": False}))["store"] is False


async def test_a_key_that_stores_nothing_makes_no_conversations_and_no_background_responses(
    start_app: StartApp,
) -> None:
    async with start_app(api_keys=key_file("k", store=False)) as http:
        http.headers["Authorization"] = "Bearer hr_k"
        assert (await http.post("/v1/conversations", json={})).status_code == 403
        body = {"model": DEFAULT_MODEL, "input": "hi", "background": True}
        refused = await http.post("/v1/responses", json=body)
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "background")


async def test_rpc_says_it_too_and_takes_no_conversation_with_it(start_app: StartApp, ledger: TaskLedger) -> None:
    async with start_app() as http:
        reply = await rpc(http, "create_message", {"message": "hi", "store": False})
        record = await ledger.get(reply["result"]["taskId"])
        assert record is not None
        assert json.loads(record.request)["store"] is False
        kept = await rpc(
            http, "create_message", {"message": "hi", "history": [], "conversationId": "c", "store": False}
        )
        assert kept["error"]["code"] == -32602
        assert kept["error"]["data"]["errors"][0]["path"] == "conversationId"
