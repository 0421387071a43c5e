import asyncio
import signal
import time

import pytest
from celery.exceptions import TaskRevokedError

from shared.celery_app import MessageWriter
from shared.store.task_record import Claim
from shared.wire.schemas import ErrorEvent
from testbed.task_client import SCRIPTED_MODEL, TaskClient
from testbed.worker_process import StartWorker


async def test_any_celery_client_gets_the_result_dict(client: TaskClient, start_worker: StartWorker) -> None:
    await start_worker()
    task_id = await client.submit("!say hello")

    assert await client.get(task_id) == {
        "cleaned_response_text": "hello",
        "raw_response_text": "hello",
        "tool_calls": [],
        "finish_reason": "stop",
        "usage": {"prompt_tokens": 17, "completion_tokens": 6, "cached_tokens": 0},
    }
    assert client.celery_client.AsyncResult(task_id).state == "SUCCESS"


async def test_a_failed_and_a_cancelled_task_raise_at_the_celery_client(
    client: TaskClient, start_worker: StartWorker
) -> None:
    await start_worker()
    failing, endless = await client.submit("!fail no luck today"), await client.submit("!tokens 1000")
    await client.streaming(endless)
    await client.ledger.cancel(endless, "tenant")
    cancelled_while_queued = await client.accept("!tokens 1")
    await client.ledger.cancel(cancelled_while_queued, "tenant")
    await client.send(cancelled_while_queued)

    with pytest.raises(Exception, match="no luck today") as raised:
        await client.get(failing)
    assert type(raised.value).__name__ == "TaskFailed"
    for task_id in (endless, cancelled_while_queued):
        with pytest.raises(TaskRevokedError):
            await client.get(task_id)


async def test_a_message_for_one_worker_alone_is_taken_by_it(client: TaskClient, start_worker: StartWorker) -> None:
    for _ in range(2):
        await start_worker()
    for name in ("worker-1", "worker-2") * 3:
        task_id = await client.accept("!say hello")
        message = MessageWriter(client.app).write(task_id, SCRIPTED_MODEL, "normal", {})
        await client.redis.lpush(client.keys.prefix + message.own_queues + name, message.text)
        await client.result(task_id)
        assert await client.redis.hget(client.keys.task(task_id), "worker") == name.encode()


async def test_many_tasks_share_the_batch(client: TaskClient, start_worker: StartWorker) -> None:
    await start_worker()
    begin = time.monotonic()
    task_ids = [await client.submit("!tokens 100") for _ in range(16)]
    results = await asyncio.gather(*map(client.result, task_ids))

    # One after the other would take 16 s.
    assert time.monotonic() - begin < 8
    assert {result["usage"]["completion_tokens"] for result in results} == {101}


async def test_handed_over_tasks_come_before_the_backlog_and_any_message_brings_the_next(
    client: TaskClient, start_worker: StartWorker
) -> None:
    backlog = [await client.accept("!tokens 10") for _ in range(4)]
    urgent = await client.accept("!tokens 10", priority="high")
    begun = await client.accept("!tokens 10")
    claim = await client.ledger.claim(begun, worker="dead", lease_seconds=30, revision="scripted")
    assert isinstance(claim, Claim)
    await client.ledger.requeue(begun, claim.attempt, "handover")
    sent = [*backlog, urgent, begun]
    for task_id in sent:
        await client.send(task_id)

    await start_worker(slots=1)
    started = {task_id: (await client.ended(task_id)).started_at or 0 for task_id in sent}

    assert sorted(started, key=lambda task_id: started[task_id]) in (
        [begun, urgent, *backlog],
        [begun, backlog[0], urgent, *backlog[1:]],
    )
    for task_id in sent:  # whichever message it came by
        assert (await client.get(task_id))["usage"]["completion_tokens"] == 11


async def test_a_task_that_waits_has_no_result_of_the_one_that_its_message_brought(
    client: TaskClient, start_worker: StartWorker
) -> None:
    later = await client.accept("!say later")
    sooner = await client.accept("!say sooner", priority="high")
    worker = await start_worker()
    await client.send(later)
    assert (await client.get(sooner))["cleaned_response_text"] == "sooner"
    worker.signal(signal.SIGTERM)  # it leaves when Celery is done with the message
    assert await worker.exit_code(8) == 0
    assert client.celery_client.AsyncResult(later).state == "PENDING"

    await start_worker()
    await client.send(later)
    assert (await client.get(later))["cleaned_response_text"] == "later"


async def test_an_engine_crash_is_told_to_celery_clients_as_poisoned(
    client: TaskClient, start_worker: StartWorker
) -> None:
    await start_worker()
    poison, mate = await client.submit("!slow 100\n!crash"), await client.submit("!tokens 60")

    with pytest.raises(Exception, match="not tried again"):
        await client.result(poison)
    assert (await client.result(mate))["usage"]["completion_tokens"] == 61
    record = await client.ended(poison)
    assert ErrorEvent.model_validate_json(record.outcome).code == "poisoned"
