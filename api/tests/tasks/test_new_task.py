"""Starting tasks, without a door."""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from redis.asyncio import Redis

from api.errors import ApiError, InternalError, InvalidParams, ModelQueueFull, TooManyTasks, Unavailable, UnknownModel
from api.metrics import Metrics
from api.tasks.new_task import NewTasks
from api.tenants.caller import Caller, Policy
from shared.celery_app import queue_for
from shared.store.keys import Keys
from shared.store.task_ledger import TaskLedger
from shared.wire.schemas import CreateMessageParams, Priority, QueueClass
from testbed.celery_view import CeleryView
from testbed.fake_worker import DEFAULT_MODEL
from testbed.valkey import Valkey

MakeNewTasks = Callable[..., NewTasks]

ME = Caller("me")


def said(**fields: Any) -> Callable[[], Awaitable[CreateMessageParams]]:
    """A door that has read these parameters."""

    async def read() -> CreateMessageParams:
        return CreateMessageParams.model_validate({"message": "hi"} | fields)

    return read


def raising(error: Exception) -> Callable[[], Awaitable[CreateMessageParams]]:
    """A door that cannot read what its client sent."""

    async def read() -> CreateMessageParams:
        raise error

    return read


async def test_a_task_waits_in_the_ledger_for_its_caller_and_its_message_is_sent(
    new_tasks: NewTasks, ledger: TaskLedger, celery_view: CeleryView, metrics: Metrics
) -> None:
    task_id = (await new_tasks.start(ME, said(priority="high"))).task_id
    record = await ledger.get(task_id)
    assert record is not None
    assert (record.state, record.tenant, record.model) == ("waiting", "me", DEFAULT_MODEL)
    assert await celery_view.queued("high") == [task_id]
    value = metrics.registry.get_sample_value
    assert value("headrace_tasks_accepted_total", {"model": DEFAULT_MODEL}) == 1
    assert value("headrace_tenant_tasks_accepted_total", {"tenant": "me"}) == 1


@pytest.mark.parametrize(
    ("highest", "wanted", "given"),
    [("high", "high", "high"), ("normal", "high", "normal"), ("low", "normal", "low"), ("normal", "low", "low")],
)
async def test_no_task_has_a_higher_priority_than_its_key_may_give(
    new_tasks: NewTasks, ledger: TaskLedger, celery_view: CeleryView, highest: Priority, wanted: str, given: QueueClass
) -> None:
    caller = Caller("me", "k", Policy(highest_priority=highest))
    task_id = (await new_tasks.start(caller, said(priority=wanted))).task_id
    record = await ledger.get(task_id)
    assert record is not None
    assert record.priority == given
    assert await celery_view.queued(given) == [task_id]


async def test_a_large_request_is_made_beside_the_event_loop(new_tasks: NewTasks, ledger: TaskLedger) -> None:
    task_id = (await new_tasks.start(ME, said(message="x" * 500_000), large=True)).task_id
    record = await ledger.get(task_id)
    assert record is not None
    assert len(record.request) > 500_000


async def test_the_same_idempotency_key_gives_the_same_task_once(
    new_tasks: NewTasks, celery_view: CeleryView, metrics: Metrics
) -> None:
    keyed = said(idempotencyKey="k")
    first, second = await asyncio.gather(*(new_tasks.start(ME, keyed) for _ in range(2)))
    assert first == second
    assert await celery_view.queued("normal") == [first.task_id]
    assert metrics.registry.get_sample_value("headrace_tasks_accepted_total", {"model": DEFAULT_MODEL}) == 1
    assert await new_tasks.start(Caller("another"), keyed) != first
    with pytest.raises(InvalidParams) as refused:
        await new_tasks.start(ME, said(idempotencyKey="k", message="else"))
    assert refused.value.place == ("idempotency_key",)


async def test_the_deadline_is_the_caller_s_within_the_bound(make_new_tasks: MakeNewTasks, ledger: TaskLedger) -> None:
    new_tasks = make_new_tasks(default_timeout_seconds=900, max_timeout_seconds=600)
    seconds = []
    for read in (said(), said(timeoutSeconds=12.5)):
        record = await ledger.get((await new_tasks.start(ME, read)).task_id)
        assert record is not None
        seconds.append((record.deadline - record.accepted_at) / 1000)
    assert seconds == [600, 12.5]
    with pytest.raises(InvalidParams) as refused:
        await new_tasks.start(ME, said(timeoutSeconds=601))
    assert (refused.value.place, refused.value.message) == (("timeout_seconds",), "must be at most 600")


@pytest.mark.parametrize(
    ("changes", "read", "kind"),
    [
        ({}, raising(InvalidParams("the door's own")), InvalidParams),
        ({}, said(message=None), InvalidParams),
        ({}, said(model="no such"), UnknownModel),
        ({"max_waiting": 0}, said(), ModelQueueFull),
        ({"max_tenant_tasks": 0}, said(), TooManyTasks),
        ({}, raising(RuntimeError("secret")), InternalError),
    ],
)
async def test_whatever_refuses_a_task_is_counted_once_whichever_door_it_came_through(
    make_new_tasks: MakeNewTasks,
    metrics: Metrics,
    changes: dict[str, Any],
    read: Callable[[], Awaitable[CreateMessageParams]],
    kind: type[ApiError],
) -> None:
    with pytest.raises(kind) as refused:
        await make_new_tasks(**changes).start(ME, read)
    assert "secret" not in refused.value.message
    value = metrics.registry.get_sample_value
    assert value("headrace_tasks_refused_total", {"reason": kind.__name__}) == 1
    assert value("headrace_tenant_tasks_refused_total", {"tenant": "me"}) == 1
    assert not value("headrace_tasks_accepted_total", {"model": DEFAULT_MODEL})


async def test_a_silent_redis_refuses_within_the_bound(
    make_new_tasks: MakeNewTasks, metrics: Metrics, valkey: Valkey
) -> None:
    new_tasks = make_new_tasks(redis_timeout=1)
    await new_tasks.start(ME, said())
    os.kill(valkey.pid, signal.SIGSTOP)
    try:
        with pytest.raises(Unavailable):
            await new_tasks.start(ME, said())
    finally:
        os.kill(valkey.pid, signal.SIGCONT)
    assert metrics.registry.get_sample_value("headrace_tasks_refused_total", {"reason": "Unavailable"}) == 1


async def test_a_task_whose_message_cannot_be_sent_is_accepted_all_the_same(
    new_tasks: NewTasks, ledger: TaskLedger, redis: Redis, keys: Keys
) -> None:
    await redis.set(keys.prefix + queue_for(DEFAULT_MODEL, "normal"), "no list")
    record = await ledger.get((await new_tasks.start(ME, said())).task_id)
    assert record is not None
    assert record.state == "waiting"
