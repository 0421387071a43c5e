"""Tasks go where their prompts are warm; a warm worker that dies, freezes or leaves costs nobody more than that."""

import asyncio
import hashlib
import json
import signal
import time
from collections import Counter
from pathlib import Path

import httpx
import pytest
from pydantic import SecretStr
from redis.asyncio import Redis

from api.repair.lost_messages import MISSED_SECONDS
from shared.celery_app import MessageWriter, make_celery
from shared.settings import SharedSettings
from shared.store.beginnings import beginnings_of
from shared.store.keys import Keys
from shared.store.task_id import new_task_id
from shared.store.task_ledger import TaskLedger
from shared.wire.schemas import InferenceRequest
from testbed.history import History, follow
from testbed.stack import LEASE, MODEL, Process, Stack
from testbed.waiting import until

SOON = LEASE - 0.5
"""Seconds to a first token where no lease and no janitor is waited for."""


def conversation(number: int) -> str:
    """The beginning of all turns of one conversation: long enough to be known again."""
    return f"This is conversation {number}. " + "It begins with many words. " * 40


async def run(headrace: Stack, number: int, **params: int) -> History:
    return await headrace.run(conversation(number), words=20, **params)


def waited(history: History) -> float:
    """Seconds from the first event that the client saw to the first token."""
    return history.of("token")[0].at - history.seen[0].at


async def two_workers(headrace: Stack) -> Process:
    """The one of them where conversation 1 is warm."""
    for _ in range(2):
        await headrace.start_worker()
    return await headrace.holder(await run(headrace, 1))


async def test_conversations_are_sent_to_where_they_went_on_last(headrace: Stack, redis: Redis, keys: Keys) -> None:
    await two_workers(headrace)
    last = {number: (await headrace.holder(await run(headrace, number))).name for number in range(10)}
    for number in list(range(10)) * 2:
        history = await run(headrace, number)
        assert await redis.hget(keys.task(history.task_id), "home") == last[number].encode()
        assert waited(history) < SOON
        last[number] = (await headrace.holder(history)).name  # on a busy machine another one is sooner


async def test_a_warm_worker_that_is_killed_is_missed_by_nobody(headrace: Stack) -> None:
    warm = await two_workers(headrace)
    following = [await headrace.until_tokens(await headrace.submit(conversation(1), words=200), 3) for _ in range(2)]
    warm.kill()
    histories = [await run(headrace, 1) for _ in range(5)]
    assert [history.state for history in histories] == ["SUCCESS"] * 5
    assert max(map(waited, histories)) < SOON
    assert [history.state for history in await asyncio.gather(*following)] == ["SUCCESS"] * 2


async def test_a_warm_worker_that_is_frozen_is_waited_for_by_nobody(headrace: Stack) -> None:
    warm = await two_workers(headrace)
    warm.freeze()
    # The first message is swallowed by the frozen one, whose connection waits for it.
    histories = [await run(headrace, 1) for _ in range(5)]
    assert [history.state for history in histories] == ["SUCCESS"] * 5
    assert max(map(waited, histories)) < SOON
    warm.thaw()
    histories = [await run(headrace, number) for number in (1, 2, 3, 1, 2, 3)]
    assert [history.state for history in histories] == ["SUCCESS"] * 6


async def test_a_warm_worker_that_is_drained_leaves_nothing_behind(headrace: Stack, redis: Redis, keys: Keys) -> None:
    warm = await two_workers(headrace)
    running = [await headrace.submit(conversation(1), words=150) for _ in range(40)]
    following = [asyncio.create_task(headrace.follow(history)) for history in running]
    await until(lambda: any(history.of("token") for history in running), 10, "one of them streams")
    warm.send(signal.SIGTERM)
    more = [await headrace.submit(conversation(1), words=20) for _ in range(10)]
    await asyncio.gather(*following, *map(headrace.follow, more))
    assert {history.state for history in [*running, *more]} == {"SUCCESS"}
    await warm.wait(40)
    assert not await redis.exists(keys.home(f"{MODEL}:{warm.name}"), keys.load(MODEL))


@pytest.mark.slow
async def test_a_replica_that_dies_behind_its_message_to_a_frozen_worker_loses_no_task(headrace: Stack) -> None:
    warm = await two_workers(headrace)
    await headrace.start_api()
    warm.freeze()
    history = await headrace.submit(conversation(1), words=20)
    headrace.apis[0].kill()  # before or behind its second message: both happen
    sent_at = time.monotonic()
    await headrace.follow(history, replicas=headrace.urls[1:])
    assert history.state == "SUCCESS"
    assert history.of("token")[0].at - sent_at < MISSED_SECONDS + LEASE + SOON


@pytest.mark.slow
async def test_a_task_whose_only_message_a_frozen_worker_has_swallowed_is_found_by_the_janitor(
    headrace: Stack, redis: Redis, keys: Keys
) -> None:
    """What a replica leaves behind that dies between its two messages; here nobody sends the second one."""
    warm = await two_workers(headrace)
    warm.freeze()
    message = {"role": "user", "content": f"{conversation(1)}\n!tokens 20"}
    request = InferenceRequest.model_validate({"model": MODEL, "messages": [message]})
    app = make_celery(SharedSettings(redis_url=SecretStr(headrace.redis_url)))
    task_id = new_task_id()
    accepted = await TaskLedger(redis, keys, retention_seconds=60, max_failures=3).accept(
        task_id, request, tenant="default", timeout_seconds=60, max_waiting=10, max_tenant_tasks=10,
        beginnings=beginnings_of(request, "default"), slots=8,
        message=MessageWriter(app).write(task_id, MODEL, "normal", {}),
    )  # fmt: skip
    assert accepted.home == warm.name
    app.close()
    sent_at = time.monotonic()
    history = History(accepted.task_id, sent_at + 60)
    headrace.histories.append(history)
    await headrace.follow(history)
    assert history.state == "SUCCESS"
    assert MISSED_SECONDS < history.of("token")[0].at - sent_at < MISSED_SECONDS + LEASE + SOON


@pytest.mark.slow
async def test_a_weight_that_changes_under_load_changes_shares_and_loses_nothing(
    headrace: Stack, tmp_path: Path
) -> None:
    file = tmp_path / "keys.json"

    def write(**weights: float) -> None:
        keys = [
            {
                "id": name,
                "tenant": name,
                "sha256": hashlib.sha256(name.encode()).hexdigest(),
                "policy": {"weight": weight},
            }
            for name, weight in weights.items()
        ]
        file.write_text(json.dumps({"keys": keys}))

    write(a=1, b=1)
    headrace.apis.pop().stop()
    headrace.urls.clear()
    await headrace.start_api(HEADRACE_API_KEYS=str(file))
    for _ in range(2):
        await headrace.start_worker(HEADRACE_SLOTS="2")
    ended: list[str] = []
    stopped = asyncio.Event()

    async def user(name: str, number: int) -> None:
        async with httpx.AsyncClient(headers={"Authorization": f"Bearer {name}"}, timeout=40) as client:
            while not stopped.is_set():
                params = {"message": f"{conversation(number)}\n!tokens 20", "maxTokens": 30}
                body = {"jsonrpc": "2.0", "id": 1, "method": "create_message", "params": params}
                reply = (await client.post(f"{headrace.urls[0]}/rpc", json=body)).json()
                history = History(reply["result"]["taskId"], time.monotonic() + 60)
                headrace.histories.append(history)
                await follow(client, headrace.urls, history, time.monotonic() + 60)
                assert history.state == "SUCCESS"
                ended.append(name)

    users = [asyncio.create_task(user(name, number)) for number, name in enumerate("aaaaaabbbbbb")]
    await until(lambda: len(ended) >= 40, 60, "some tasks have ended")
    before = Counter(ended[-30:])
    write(a=9, b=1)
    mark = len(ended)
    await until(lambda: len(ended) >= mark + 120, 60, "tasks of the new weight have ended")
    after = Counter(ended[-40:])
    stopped.set()
    await asyncio.gather(*users)
    assert abs(before["a"] - before["b"]) <= 8
    assert after["a"] >= 3 * after["b"]
