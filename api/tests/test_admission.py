"""Who may start new work, and when the others should come back."""

from typing import Any

import httpx
import pytest
from redis.asyncio import Redis

from api.admission import LONGEST_RETRY_SECONDS, UNKNOWN_WAIT_SECONDS
from shared.store.keys import Keys
from shared.store.worker_registry import WorkerRegistry
from shared.wire.schemas import ModelCard
from testbed.api_app import StartApp

MODEL = "smollm2-135m-instruct"
CREATE = {"jsonrpc": "2.0", "id": 1, "method": "create_message", "params": {"message": "hi"}}


async def create(http: httpx.AsyncClient, key: str = "") -> dict[str, Any]:
    reply = await http.post("/rpc", json=CREATE, headers={"Authorization": f"Bearer {key}"} if key else {})
    answered: dict[str, Any] = reply.json()
    return answered


async def test_a_full_queue_is_retried_after_about_a_tenth_of_it_has_drained(
    start_app: StartApp, redis: Redis, keys: Keys, registry: WorkerRegistry, card: ModelCard
) -> None:
    for worker in ("w1", "w2"):
        await registry.announce(worker, card)
    await redis.hset(keys.done(MODEL), mapping={"tasks": 10, "busy_ms": 10 * 80_000})
    async with start_app(max_waiting=20) as http:
        for _ in range(20):
            assert "result" in await create(http)
        error = (await create(http))["error"]
    # Two of twenty tasks, 80 seconds each, on two workers with four slots.
    assert error["data"] == {"retryable": True, "retryAfterSeconds": 20}


@pytest.mark.parametrize(
    ("mean_ms", "seconds"), [(None, UNKNOWN_WAIT_SECONDS), (10, 1), (10**8, LONGEST_RETRY_SECONDS)]
)
async def test_the_time_to_come_back_is_bounded(
    start_app: StartApp,
    redis: Redis,
    keys: Keys,
    registry: WorkerRegistry,
    card: ModelCard,
    mean_ms: int | None,
    seconds: float,
) -> None:
    await registry.announce("w1", card)
    if mean_ms is not None:
        await redis.hset(keys.done(MODEL), mapping={"tasks": 1, "busy_ms": mean_ms})
    async with start_app(max_waiting=0) as http:
        assert (await create(http))["error"]["data"]["retryAfterSeconds"] == seconds


async def test_queues_are_bounded_per_model_and_tasks_per_tenant(start_app: StartApp) -> None:
    keys = {"key-of-a": "a", "key-of-b": "b"}
    async with start_app(api_keys=keys, max_tenant_tasks=1) as http:
        assert "result" in await create(http, "key-of-a")
        assert (await create(http, "key-of-a"))["error"]["code"] == -32004
        assert "result" in await create(http, "key-of-b")


async def test_rates_are_counted_per_tenant_and_over_all_replicas(start_app: StartApp) -> None:
    options = {"api_keys": {"key-of-a": "a", "key-of-b": "b"}, "tenant_rate": "2/hour"}
    async with start_app(**options) as one, start_app(**options) as other:
        assert "result" in await create(one, "key-of-a")
        assert "result" in await create(other, "key-of-a")
        error = (await create(one, "key-of-a"))["error"]
        assert error["code"] == -32004
        assert 1 <= error["data"]["retryAfterSeconds"] <= 7200
        assert "result" in await create(one, "key-of-b")


async def test_only_new_work_is_refused_when_memory_runs_out(start_app: StartApp, redis: Redis) -> None:
    async with start_app() as http:
        task_id = (await create(http))["result"]["taskId"]
    used = (await redis.info("memory"))["used_memory"]
    await redis.config_set("maxmemory", int(used * 1.1))
    try:
        async with start_app() as http:
            refused = await create(http)
            body = {"jsonrpc": "2.0", "id": 1, "method": "get_message", "params": {"taskId": task_id}}
            read = (await http.post("/rpc", json=body)).json()
    finally:
        await redis.config_set("maxmemory", 0)
    assert refused["error"]["code"] == -32007
    assert refused["error"]["data"]["retryAfterSeconds"] >= 1
    assert read["result"]["state"] == "PENDING"
