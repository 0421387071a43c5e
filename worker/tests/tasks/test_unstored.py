"""What tasks leave in Redis: of one that is not to be stored soon no word of what was asked and answered."""

from typing import Any

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from shared.store.task_ledger import TaskLedger
from shared.store.task_record import Resent
from shared.wire.chat import UserMessage
from shared.wire.schemas import InferenceRequest
from testbed.ledger_steps import failure
from testbed.task_client import SCRIPTED_MODEL, TaskClient
from testbed.waiting import until
from testbed.worker_process import StartWorker

WINDOW = 1.0
"""Seconds."""


async def holding(redis: Redis, words: bytes) -> set[str]:
    """Every key of the whole Redis that has these words in its name or anywhere in it."""
    found = set()
    async for key in redis.scan_iter():
        content: Any
        match await redis.type(key):
            case b"hash":
                content = await redis.hgetall(key)
            case b"stream":
                content = await redis.xrange(key)
            case b"list":
                content = await redis.lrange(key, 0, -1)
            case b"set":
                content = await redis.smembers(key)
            case b"zset":
                content = await redis.zrange(key, 0, -1)
            case _:
                try:
                    content = await redis.get(key)
                except ResponseError:
                    content = None
        if words in key or words in repr(content).encode():
            found.add(key.decode())
    return found


async def run(client: TaskClient, text: str, *, digest: str, **fields: Any) -> str:
    """A task from its acceptance to its result, by a request with an idempotency key that may be sent again."""
    ledger = TaskLedger(client.redis, client.keys, retention_seconds=60, unstored_seconds=WINDOW, max_failures=3)
    request = InferenceRequest(
        model=SCRIPTED_MODEL, messages=[UserMessage(role="user", content=f"!say {text}")], max_tokens=1000, **fields
    )
    accepted = await ledger.accept(
        digest,
        request,
        tenant="t",
        timeout_seconds=60,
        max_waiting=10,
        max_tenant_tasks=10,
        idempotency_key=f"key-{digest}",
        fingerprint=digest,
        resent=Resent(digest, joins=False),
    )
    await client.send(accepted.task_id)
    await client.result(accepted.task_id)
    return accepted.task_id


async def test_a_task_that_is_not_stored_leaves_no_word_behind(client: TaskClient, start_worker: StartWorker) -> None:
    redis, keys = client.redis, client.keys
    await start_worker(unstored_seconds=WINDOW)
    kept = await run(client, "porcupine", digest="a")
    gone = await run(client, "walrus", digest="b", store=False)
    stored = {keys.task(kept), keys.events(kept), f"celery-task-meta-{kept}"}
    assert await holding(redis, b"porcupine") == stored
    # Its readers can still fetch the end, but the request and the result are gone at once.
    record = await client.ledger.get(gone)
    if record is not None:  # not yet
        assert (record.wire_state, record.request) == ("SUCCESS", b"")
    result = await client.result(gone)
    assert (result["cleaned_response_text"], result["raw_response_text"], result["finish_reason"]) == ("", "", "stop")

    async def nothing_is_left() -> bool:
        return not await holding(redis, b"walrus")

    await until(nothing_is_left, WINDOW + 3)
    for name in (keys.task(gone), keys.events(gone), keys.idempotency("t", "key-b"), keys.resent("t", "b")):
        assert not await redis.exists(name), name
    assert await holding(redis, b"porcupine") == stored
    assert await redis.exists(keys.resent("t", "a"))


async def test_a_task_that_is_cancelled_or_late_leaves_no_word_either(client: TaskClient) -> None:
    ledger = TaskLedger(client.redis, client.keys, retention_seconds=60, unstored_seconds=0.05, max_failures=3)
    for end in ("cancel", "late"):
        task_id = await client.accept("a walrus", store=False)
        assert await holding(client.redis, b"walrus") == {client.keys.task(task_id)}
        if end == "cancel":
            await ledger.cancel(task_id, "tenant")
        else:
            await ledger.end(task_id, None, "FAILURE", failure(task_id))

        async def nothing_is_left() -> bool:
            return not await holding(client.redis, b"walrus")

        await until(nothing_is_left, 3)
