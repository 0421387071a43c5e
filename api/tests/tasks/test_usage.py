"""What callers are told of their tenant's use."""

from typing import Any

from api.tenants.key_file import sha256_of
from testbed.api_app import StartApp, rpc
from testbed.fake_worker import DEFAULT_MODEL, FakeWorker


def key(name: str, tenant: str, **fields: Any) -> dict[str, Any]:
    return {"id": name, "tenant": tenant, "sha256": sha256_of(f"hr_{name}"), **fields}


KEYS = {"keys": [key("a", "team-a"), key("b", "team-b"), key("ops", "ops", policy={"scopes": ["read", "admin"]})]}


async def test_a_tenant_learns_its_own_use_and_an_operator_everybody_s(start_app: StartApp, worker: FakeWorker) -> None:
    for _ in range(2):
        task_id = await worker.begin(tenant="team-a")
        await worker.end(task_id)
    used = {DEFAULT_MODEL: {"tasks": 2, "promptTokens": 2, "completionTokens": 2}}
    async with start_app(api_keys=KEYS) as http:
        mine = (await rpc(http, "usage", {}, key="hr_a"))["result"]
        assert (mine["tenant"], [day["models"] for day in mine["days"]]) == ("team-a", [used])
        theirs = (await rpc(http, "usage", {}, key="hr_b"))["result"]
        assert theirs == {"tenant": "team-b", "days": []}
        refused = await rpc(http, "usage", {"tenant": "team-a"}, key="hr_b")
        assert refused["error"]["code"] == -32011
        unknown = await rpc(http, "usage", {"tenant": "nobody"}, key="hr_b")
        assert unknown["error"] == refused["error"]
        told = (await rpc(http, "usage", {"tenant": "team-a", "days": 40}, key="hr_ops"))["result"]
        assert told == mine
        assert (await rpc(http, "usage", {"days": 41}, key="hr_a"))["error"]["code"] == -32602
