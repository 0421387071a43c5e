"""What the janitor puts right, with no worker alive."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from celery.exceptions import TaskRevokedError
from celery.result import AsyncResult
from redis.asyncio import Redis

import api.repair.lost_messages
import api.repair.lost_results
from api.app import create_app
from api.backend import Backend
from api.hub.reader_marks import ReaderMarks
from api.settings import Settings
from shared.celery_app import queue_for
from shared.store.event_stream import EventStream
from shared.store.keys import Keys
from shared.store.task_ledger import TaskLedger
from shared.wire.schemas import EndState, ErrorEvent, QueueClass, Usage
from shared.wire.task_result import TaskResult
from testbed.fake_worker import FakeWorker
from testbed.valkey import Valkey
from testbed.waiting import until

pytestmark = pytest.mark.filterwarnings("ignore:Call to deprecated setex:DeprecationWarning")  # Celery's backend

MODEL = "smollm2-135m-instruct"
RESULT = TaskResult(
    cleaned_response_text="hello",
    raw_response_text="hello",
    tool_calls=[],
    finish_reason="stop",
    usage=Usage(prompt_tokens=1, completion_tokens=2),
)


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """A janitor judges leases after one lease of grace."""
    return settings.model_copy(update={"lease_seconds": 1.0, "resume_window_seconds": 0.5})


@pytest.fixture(autouse=True)
def _resend_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api.repair.lost_messages, "RESEND_SECONDS", 1.0)


@pytest.fixture
async def queued(redis: Redis, keys: Keys) -> Callable[[QueueClass], Awaitable[list[str]]]:
    """`await queued("high")` -> ids of the tasks whose messages are in that queue."""

    async def queued(queue_class: QueueClass) -> list[str]:
        messages: list[Any] = await redis.lrange(keys.prefix + queue_for(MODEL, queue_class), 0, -1)
        return [json.loads(message)["headers"]["id"] for message in messages]

    return queued


Queued = Callable[[QueueClass], Awaitable[list[str]]]


async def wire_state(ledger: TaskLedger, task_id: str) -> str:
    record = await ledger.get(task_id)
    return record.wire_state if record else ""


def celery_result(backend: Backend, task_id: str) -> Exception:
    """What a Celery client is told about a task that failed."""
    error = AsyncResult(task_id, app=backend.celery).get(timeout=5, propagate=False)
    assert isinstance(error, RuntimeError)
    return error


def stored_result(backend: Backend, task_id: str) -> tuple[str, Any]:
    """State and result that a Celery client waits for."""
    result = AsyncResult(task_id, app=backend.celery)
    told = result.get(timeout=5, propagate=False)
    return result.state, told


@pytest.mark.parametrize("state", ["SUCCESS", "FAILURE", "REVOKED"])
async def test_a_result_that_a_dead_worker_did_not_store_is_stored(
    backend: Backend, worker: FakeWorker, ledger: TaskLedger, monkeypatch: pytest.MonkeyPatch, state: EndState
) -> None:
    monkeypatch.setattr(api.repair.lost_results, "SETTLE_SECONDS", 0.5)
    task_id = await worker.accept()
    await worker.claim(task_id)
    backend.celery.backend.store_result(task_id, {"hostname": "w"}, "STARTED")
    match state:
        case "SUCCESS":
            await ledger.end(task_id, 1, "SUCCESS", None, result=RESULT.as_json())
        case "FAILURE":
            error = ErrorEvent(task_id=task_id, code="engine_failed", message="broken", retryable=True)
            await ledger.end(task_id, 1, "FAILURE", error)
        case "REVOKED":
            await ledger.end(task_id, 1, "REVOKED", None)
    stored, told = await asyncio.to_thread(stored_result, backend, task_id)
    assert stored == state
    match state:
        case "SUCCESS":
            assert told == RESULT.as_dict()
        case "FAILURE":
            assert str(told) == "engine_failed: broken"
        case "REVOKED":
            assert isinstance(told, TaskRevokedError)


async def test_a_result_that_was_stored_stays(
    backend: Backend, worker: FakeWorker, redis: Redis, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api.repair.lost_results, "SETTLE_SECONDS", 0.5)
    task_id = await worker.accept()
    await worker.claim(task_id)
    await worker.end(task_id)
    backend.celery.backend.mark_as_done(task_id, "mine")

    async def settled() -> bool:
        return not await redis.zcard(keys.ended)

    await until(settled)
    assert await asyncio.to_thread(stored_result, backend, task_id) == ("SUCCESS", "mine")


async def test_a_task_whose_worker_died_is_handed_over(
    backend: Backend, worker: FakeWorker, ledger: TaskLedger, queued: Queued
) -> None:
    task_id = await worker.accept()
    await worker.claim(task_id, lease_seconds=0.5)
    await worker.say(task_id, "a")
    alive = await worker.accept()
    await worker.claim(alive, lease_seconds=60)

    async def handed_over() -> bool:
        return task_id in await queued("handover")

    await until(handed_over)
    assert await wire_state(ledger, task_id) == "RETRY"
    assert await wire_state(ledger, alive) == "STARTED"
    assert await worker.claim(task_id) == 2


async def test_a_task_that_kills_its_workers_ends_poisoned(
    backend: Backend, worker: FakeWorker, ledger: TaskLedger, stream: EventStream
) -> None:
    task_id = await worker.accept()
    for attempt in (1, 2, 3):
        assert await worker.claim(task_id, lease_seconds=0.05) == attempt

        async def taken_away() -> bool:
            return await wire_state(ledger, task_id) != "STARTED"

        await until(taken_away)
    assert [entry.type for entry in await stream.read(task_id)][-3:] == ["error", "status", "end"]
    assert "poisoned" in str(await asyncio.to_thread(celery_result, backend, task_id))


async def test_a_message_that_is_nowhere_is_sent_again(
    backend: Backend, worker: FakeWorker, queued: Queued, redis: Redis
) -> None:
    task_ids = [await worker.accept() for _ in range(3)]  # accepted, and never sent
    started_before = await worker.accept()
    await worker.claim(started_before)
    await backend.ledger.requeue(started_before, 1, "handover")

    async def all_sent() -> bool:
        return set(await queued("normal")) >= set(task_ids) and await queued("handover") == [started_before]

    await until(all_sent)
    await asyncio.sleep(2.5)  # more sweeps
    assert sorted(await queued("normal")) == sorted(task_ids)


async def test_a_vanished_message_is_found_behind_a_message_too_many(
    backend: Backend, worker: FakeWorker, queued: Queued, redis: Redis, keys: Keys
) -> None:
    ended, vanished = await worker.accept(), await worker.accept()
    await backend.publisher.send(ended, MODEL, "normal", {})
    await worker.end(ended, "REVOKED")  # its message is still in the queue: as many messages as waiting tasks
    await redis.lpush(keys.prefix + queue_for(MODEL, "low"), b"not a message of Celery's")

    async def sent() -> bool:
        return vanished in await queued("normal")

    await until(sent)


@pytest.mark.parametrize("state", ["waiting", "running"])
async def test_a_task_past_its_deadline_ends(
    backend: Backend, worker: FakeWorker, stream: EventStream, state: str
) -> None:
    task_id = await worker.accept(seconds=0.2)
    if state == "running":
        await worker.claim(task_id)

    async def ended() -> bool:
        return (await stream.read(task_id))[-1].type == "end"

    await until(ended)
    outcome = json.loads((await stream.read(task_id))[-3].data)
    assert (outcome["type"], outcome["code"]) == ("error", "deadline_exceeded")
    assert "deadline_exceeded" in str(await asyncio.to_thread(celery_result, backend, task_id))


async def test_a_task_whose_readers_died_with_their_replica_is_cancelled(
    backend: Backend, worker: FakeWorker, ledger: TaskLedger, redis: Redis, keys: Keys
) -> None:
    task_id = await worker.accept(cancel_on_disconnect=True)
    await ReaderMarks(redis, keys, window_seconds=0.5).renew([task_id])  # and never again

    async def cancelled() -> bool:
        return await wire_state(ledger, task_id) == "REVOKED"

    await until(cancelled)
    assert not await redis.zcard(keys.readers)


async def test_lists_forget_a_task_whose_record_is_gone(
    backend: Backend, worker: FakeWorker, redis: Redis, keys: Keys
) -> None:
    waiting, running, overdue = await worker.accept(), await worker.accept(), await worker.accept(seconds=0.1)
    await worker.claim(running, lease_seconds=0.1)
    await redis.delete(*(keys.task(task_id) for task_id in (waiting, running, overdue)))

    async def forgotten() -> bool:
        return not await redis.exists(keys.waiting(MODEL), keys.running(MODEL))

    await until(forgotten)


async def test_after_an_outage_workers_get_a_lease_of_time_to_renew(
    backend: Backend, worker: FakeWorker, ledger: TaskLedger, valkey: Valkey, caplog: pytest.LogCaptureFixture
) -> None:
    task_id = await worker.accept()
    attempt = await worker.claim(task_id, lease_seconds=1)
    await asyncio.to_thread(valkey.stop)
    await asyncio.sleep(2.5)  # the outage itself, longer than the lease
    await asyncio.to_thread(valkey.start)
    await asyncio.sleep(0.7)  # the janitor is back before the worker is
    assert not await ledger.heartbeat([(task_id, attempt)], lease_seconds=60)
    await asyncio.sleep(2.5)  # more sweeps, in which nothing shall happen
    assert await wire_state(ledger, task_id) == "STARTED"
    rests = [record for record in caplog.records if "the janitor rests" in record.message]
    assert len(rests) == 1
    assert rests[0].levelno == logging.WARNING


@pytest.fixture
async def other_backend(settings: Settings) -> AsyncIterator[Backend]:
    app = create_app(settings)
    async with app.router.lifespan_context(app):
        yield app.state.backend


async def test_one_janitor_works_and_another_takes_over_when_it_is_gone(
    backend: Backend, other_backend: Backend, worker: FakeWorker, queued: Queued, redis: Redis, keys: Keys
) -> None:
    async def somebody_holds_the_lock() -> bool:
        return bool(await redis.exists(keys.janitor))

    await until(somebody_holds_the_lock)
    # Whoever holds it is killed: nobody renews, and nobody releases.
    await redis.set(keys.janitor, "a janitor that is dead", px=3000)
    task_id = await worker.accept()
    await asyncio.sleep(1.5)  # sweeps of a janitor that has no lock
    assert not await queued("normal")

    async def sent() -> bool:
        return await queued("normal") == [task_id]

    await until(sent)
    await asyncio.sleep(2.5)  # more sweeps, in which it shall not be sent again
    assert await queued("normal") == [task_id]
