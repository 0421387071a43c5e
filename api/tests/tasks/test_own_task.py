"""Looking up and cancelling tasks of one's own, without a door."""

import json
import time
import uuid

import pytest
from celery.exceptions import TaskRevokedError
from redis.asyncio import Redis

from api.errors import ApiError, TaskExpired, TaskNotFound
from api.metrics import Metrics
from api.tasks.own_task import OwnTasks
from api.tenants.caller import Caller
from shared.store.event_stream import EventStream
from shared.store.keys import Keys
from shared.store.task_id import new_task_id
from shared.store.task_ledger import TaskLedger
from shared.store.task_lists import TaskLists
from shared.store.task_record import Claim
from shared.wire.schemas import ErrorEvent, FinalText, Timings, ToolCall, ToolCalls, ToolCallsEvent, Usage
from shared.wire.task_view import Cancellation, TaskView
from testbed.celery_view import CeleryView
from testbed.fake_worker import DEFAULT_MODEL, FakeWorker

ME, ANOTHER = Caller("default"), Caller("another")


@pytest.fixture
def own_tasks(ledger: TaskLedger, lists: TaskLists, stream: EventStream, metrics: Metrics) -> OwnTasks:
    return OwnTasks(
        ledger=ledger,
        lists=lists,
        stream=stream,
        ended=metrics.ended,
        redis_timeout=2,
        retention_seconds=3600,
    )


async def test_a_waiting_task_has_its_place_in_the_queue(own_tasks: OwnTasks, worker: FakeWorker) -> None:
    first, second = await worker.accept(), await worker.accept()
    view = await own_tasks.view(ME, second)
    assert view == TaskView(task_id=second, state="PENDING", position=2, text="", index=0)
    await worker.claim(first)
    assert (await own_tasks.view(ME, second)).position == 1


async def test_a_running_task_has_the_text_so_far(own_tasks: OwnTasks, worker: FakeWorker) -> None:
    task_id = await worker.begin()
    await worker.say(task_id, "Hel", "", "lo")
    assert await own_tasks.view(ME, task_id) == TaskView(task_id=task_id, state="STARTED", text="Hello", index=3)


async def test_reasoning_so_far_is_beside_the_text(own_tasks: OwnTasks, worker: FakeWorker) -> None:
    task_id = await worker.begin()
    await worker.think(task_id, "Hm.")
    await worker.say(task_id, "Hello")
    view = await own_tasks.view(ME, task_id)
    assert (view.text, view.reasoning) == ("Hello", "Hm.")


async def test_the_text_before_a_restart_is_void(own_tasks: OwnTasks, worker: FakeWorker, ledger: TaskLedger) -> None:
    task_id = await worker.begin()
    await worker.say(task_id, "Old", " text")
    await ledger.requeue(task_id, 1, "handover")
    assert (await own_tasks.view(ME, task_id)).text == "Old text"
    claim = await ledger.claim(task_id, worker="w2", lease_seconds=60, revision="another revision")
    assert isinstance(claim, Claim)
    assert claim.restart
    view = await own_tasks.view(ME, task_id)
    assert (view.text, view.index) == ("", 0)


async def test_a_task_that_succeeded_has_its_result(own_tasks: OwnTasks, worker: FakeWorker) -> None:
    task_id = await worker.begin()
    await worker.say(task_id, "do", "ne")
    await worker.end(task_id)
    view = await own_tasks.view(ME, task_id)
    assert (view.state, view.text, view.index, view.error) == ("SUCCESS", "done", 1, None)
    assert isinstance(view.result, FinalText)
    assert view.result.finish_reason == "stop"


async def test_tool_calls_are_a_result(own_tasks: OwnTasks, worker: FakeWorker, ledger: TaskLedger) -> None:
    task_id = await worker.begin()
    event = ToolCallsEvent(
        task_id=task_id,
        tool_calls=[ToolCall(id="c1", name="time", arguments={"zone": None})],
        text="Let me see.",
        usage=Usage(prompt_tokens=1, completion_tokens=5),
        timings=Timings(queued=0, first_token=0, total=0),
    )
    await ledger.end(task_id, 1, "SUCCESS", event)
    view = await own_tasks.view(ME, task_id)
    assert (view.text, view.index) == ("Let me see.", 5)
    assert isinstance(view.result, ToolCalls)
    assert view.result.tool_calls == event.tool_calls


async def test_a_task_that_failed_has_its_error_and_the_text_until_then(
    own_tasks: OwnTasks, worker: FakeWorker, ledger: TaskLedger
) -> None:
    task_id = await worker.begin()
    await worker.say(task_id, "Hel")
    error = ErrorEvent(task_id=task_id, code="internal", message="Oh.", retryable=False)
    await ledger.end(task_id, 1, "FAILURE", error)
    view = await own_tasks.view(ME, task_id)
    assert (view.state, view.text, view.index, view.result) == ("FAILURE", "Hel", 1, None)
    assert view.error == error


async def test_what_only_a_newer_worker_says_is_left_out(
    own_tasks: OwnTasks, worker: FakeWorker, redis: Redis, keys: Keys
) -> None:
    task_id = await worker.begin()
    await worker.end(task_id)
    outcome = json.loads(await redis.hget(keys.task(task_id), "outcome") or b"")
    outcome["usage"]["reasoningTokens"] = 3
    await redis.hset(keys.task(task_id), "outcome", json.dumps(outcome | {"later": True}))
    assert (await own_tasks.view(ME, task_id)).text == "done"


async def test_of_an_outcome_of_a_kind_that_only_a_newer_worker_knows_the_state_and_the_text_are_told(
    own_tasks: OwnTasks, worker: FakeWorker, redis: Redis, keys: Keys
) -> None:
    task_id = await worker.begin()
    await worker.say(task_id, "Hel")
    await worker.end(task_id)
    outcome = json.loads(await redis.hget(keys.task(task_id), "outcome") or b"")
    await redis.hset(keys.task(task_id), "outcome", json.dumps(outcome | {"finishReason": "of later"}))
    assert await own_tasks.view(ME, task_id) == TaskView(task_id=task_id, state="SUCCESS", text="Hel", index=1)


async def test_a_waiting_task_is_cancelled_at_once_also_for_celery_clients(
    own_tasks: OwnTasks, worker: FakeWorker, celery_view: CeleryView
) -> None:
    task_id = await worker.accept()
    assert await own_tasks.cancel(ME, task_id) == Cancellation(cancelled=True, state="REVOKED")
    state, told = await celery_view.result_of(task_id)
    assert state == "REVOKED"
    assert isinstance(told, TaskRevokedError)
    assert (await own_tasks.view(ME, task_id)).state == "REVOKED"
    assert await own_tasks.cancel(ME, task_id) == Cancellation(cancelled=True, state="REVOKED")


async def test_a_running_task_is_asked_to_stop(own_tasks: OwnTasks, worker: FakeWorker, ledger: TaskLedger) -> None:
    task_id = await worker.begin()
    assert await own_tasks.cancel(ME, task_id) == Cancellation(cancelled=True, state="STARTED")
    assert await ledger.heartbeat([(task_id, 1)], lease_seconds=60) == ["cancel"]


async def test_a_task_that_succeeded_cannot_be_cancelled(own_tasks: OwnTasks, worker: FakeWorker) -> None:
    task_id = await worker.begin()
    await worker.end(task_id)
    assert await own_tasks.cancel(ME, task_id) == Cancellation(cancelled=False, state="SUCCESS")


def long_ago() -> str:
    """An id of a task that was accepted before the retention."""
    made = int((time.time() - 7200) * 1000)
    return str(uuid.UUID(int=made << 80 | (uuid.UUID(new_task_id()).int & (1 << 80) - 1)))


@pytest.mark.parametrize("act", [OwnTasks.record, OwnTasks.view, OwnTasks.cancel])
async def test_a_task_of_another_tenant_is_as_unknown_as_none(
    own_tasks: OwnTasks, worker: FakeWorker, act: object
) -> None:
    theirs = await worker.accept()
    for task_id in (theirs, new_task_id(), "nobody"):
        with pytest.raises(TaskNotFound):
            await act(own_tasks, ANOTHER, task_id)  # type: ignore[operator]  # one of the three above
    with pytest.raises(TaskExpired):
        await act(own_tasks, ANOTHER, long_ago())  # type: ignore[operator]
    assert (await own_tasks.view(ME, theirs)).state == "PENDING"


async def test_who_has_seen_events_of_a_task_is_told_that_it_was_there_whosever_it_is(
    own_tasks: OwnTasks, worker: FakeWorker
) -> None:
    for task_id in (new_task_id(), await worker.accept()):
        with pytest.raises(TaskExpired):
            await own_tasks.record(ANOTHER, task_id, seen=True)
    with pytest.raises(TaskNotFound):
        await own_tasks.record(ANOTHER, "nobody", seen=True)


async def test_a_task_that_is_cancelled_before_it_ran_is_counted(
    own_tasks: OwnTasks, worker: FakeWorker, metrics: Metrics
) -> None:
    await own_tasks.cancel(ME, await worker.accept())
    labels = {"model": DEFAULT_MODEL, "state": "REVOKED", "reason": "cancelled"}
    assert metrics.registry.get_sample_value("headrace_tasks_ended_total", labels) == 1


async def test_another_s_task_costs_and_tells_what_one_that_never_was_costs_and_tells(
    own_tasks: OwnTasks, worker: FakeWorker, redis: Redis
) -> None:
    """Its long request and its answer are not read: neither time nor traffic tells that it is there."""
    task_id = await worker.begin()
    await worker.say(task_id, "x" * 1_000_000)

    async def met(kind: str, wanted: str) -> tuple[str, str, int, dict[str, int]]:
        """The error, and what Redis was asked and sent for it."""
        await redis.config_resetstat()
        with pytest.raises(ApiError) as refused:
            await getattr(own_tasks, kind)(ANOTHER, wanted)
        sent = int((await redis.info("stats"))["total_net_output_bytes"])
        calls = {name: one["calls"] for name, one in (await redis.info("commandstats")).items()}
        return type(refused.value).__name__, refused.value.message, sent, calls

    for kind in ("record", "view", "cancel"):
        await met(kind, new_task_id())  # the script is known to Redis from here on
        theirs, none = await met(kind, task_id), await met(kind, new_task_id())
        assert theirs[:2] == none[:2]
        assert theirs[3] == none[3]
        assert abs(theirs[2] - none[2]) < 100, kind
