"""Celery results, as Celery's own client reads them, on a real Valkey."""

import asyncio
import json
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any, Literal, get_args

import pytest
from celery import Celery
from celery.app.task import Context
from celery.exceptions import TaskRevokedError
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from shared.settings import SharedSettings
from shared.store.event_stream import EventStream
from shared.store.keys import Keys
from shared.store.outage import Kind, kind_of
from shared.store.task_ledger import TaskLedger
from shared.wire.schemas import EndState, ErrorEvent
from testbed.celery_view import CeleryView, celery_client
from testbed.ledger_steps import accept, answer, claim
from testbed.waiting import until

pytestmark = pytest.mark.filterwarnings("ignore:Call to deprecated setex:DeprecationWarning")  # Celery's backend

HARD_TEXT = 'Tab\t, "quotes", \\, </script>, \x7f\x00, é, 🙂 and %s'
STATES: tuple[EndState, ...] = get_args(EndState)


@pytest.fixture
def client(shared_settings: SharedSettings) -> Iterator[Celery]:
    with celery_client(shared_settings.redis_url.get_secret_value()) as client:
        yield client


@pytest.fixture
def celery_view(redis: Redis, keys: Keys, client: Celery) -> CeleryView:
    return CeleryView(redis, keys, client)


async def end(ledger: TaskLedger, task_id: str, state: EndState) -> None:
    outcome = {
        "SUCCESS": answer(task_id),
        "FAILURE": ErrorEvent(task_id=task_id, code="engine_failed", message=HARD_TEXT, retryable=True),
        "REVOKED": None,
    }[state]
    result = json.dumps({"text": HARD_TEXT}, ensure_ascii=False) if state == "SUCCESS" else "null"
    assert await ledger.end(task_id, 1, state, outcome, result=result)


async def meta(redis: Redis, task_id: str) -> Any:
    return json.loads(await redis.get(f"celery-task-meta-{task_id}") or b"")


@pytest.mark.parametrize("state", STATES)
async def test_who_waits_for_a_result_gets_it_when_the_task_ends(
    ledger: TaskLedger, celery_view: CeleryView, redis: Redis, state: EndState
) -> None:
    task_id = await accept(ledger)
    await claim(ledger, task_id)
    waiting = asyncio.create_task(celery_view.result_of(task_id))
    await until(lambda: redis.pubsub_channels(f"celery-task-meta-{task_id}"), 5, "the client listens")
    await end(ledger, task_id, state)
    told, value = await waiting
    assert told == state
    match state:
        case "SUCCESS":
            assert value == {"text": HARD_TEXT}
        case "FAILURE":
            assert (type(value).__name__, value.args) == ("TaskFailed", (f"engine_failed: {HARD_TEXT}",))
        case "REVOKED":
            assert isinstance(value, TaskRevokedError)


@pytest.mark.parametrize("state", [*STATES, "STARTED"])
async def test_a_result_is_written_as_celery_writes_it(
    ledger: TaskLedger, client: Celery, redis: Redis, state: EndState | Literal["STARTED"]
) -> None:
    """The same fields in the same order, and the same forms of values."""
    task_id = await accept(ledger)
    await claim(ledger, task_id, worker="w1")
    if state != "STARTED":
        await end(ledger, task_id, state)
    ours = await meta(redis, task_id)
    raised = {"FAILURE": RuntimeError("x"), "REVOKED": TaskRevokedError("cancelled")}
    value = {"STARTED": {"hostname": "m@w1"}, "SUCCESS": {"text": HARD_TEXT}}.get(state)
    request = Context(id="theirs")  # as in a worker
    await asyncio.to_thread(client.backend.store_result, "theirs", value or raised[state], state, request=request)
    theirs = await meta(redis, "theirs")
    assert [*ours] == [*theirs]
    if state in ("FAILURE", "REVOKED"):
        assert [*ours["result"]] == [*theirs["result"]]
    else:
        assert ours["result"] == theirs["result"]
    assert (ours["status"], ours["task_id"]) == (state, task_id)
    assert (ours["traceback"], ours["children"]) == (theirs["traceback"], theirs["children"])
    if state == "STARTED":
        assert ours["date_done"] is theirs["date_done"] is None
    else:
        our_time, their_time = (datetime.fromisoformat(each["date_done"]) for each in (ours, theirs))
        assert timedelta(0) <= their_time - our_time < timedelta(minutes=1)
        assert our_time.tzinfo == their_time.tzinfo


@pytest.mark.parametrize("state", STATES)
async def test_a_result_is_kept_as_long_as_its_task(
    ledger: TaskLedger, redis: Redis, keys: Keys, state: EndState
) -> None:
    task_id = await accept(ledger)
    await claim(ledger, task_id)
    assert 0 < await redis.pttl(f"celery-task-meta-{task_id}") <= 60_000
    await end(ledger, task_id, state)
    ends = [await redis.pexpiretime(name) for name in (keys.task(task_id), f"celery-task-meta-{task_id}")]
    assert max(ends) - min(ends) <= 5


async def test_a_deleted_task_leaves_no_result_and_another_tenant_s_stays(ledger: TaskLedger, redis: Redis) -> None:
    mine, theirs = await accept(ledger, note="n"), await accept(ledger, tenant="u", note="n")
    for task_id in (mine, theirs):
        await claim(ledger, task_id)
        await end(ledger, task_id, "SUCCESS")
        await ledger.delete(task_id, "t", conversation_id="c")
    assert await redis.exists(f"celery-task-meta-{mine}") == 0
    assert await redis.exists(f"celery-task-meta-{theirs}") == 1


async def test_where_redis_refuses_results_a_task_begins_and_does_not_end_by_half(
    ledger: TaskLedger, stream: EventStream, celery_view: CeleryView, redis: Redis, keys: Keys
) -> None:
    task_id = await accept(ledger)
    await redis.acl_setuser("default", enabled=True, keys=[f"{keys.prefix}*"], reset_keys=True)
    try:
        await claim(ledger, task_id)
        begun = await stream.read(task_id), await ledger.get(task_id)
        with pytest.raises(ResponseError) as raised:
            await end(ledger, task_id, "SUCCESS")
        assert (await stream.read(task_id), await ledger.get(task_id)) == begun
    finally:
        await redis.acl_setuser("default", enabled=True, keys=["*"], reset_keys=True)
    assert kind_of(raised.value) is Kind.PERMISSION, "it is tried again, and told"
    await end(ledger, task_id, "SUCCESS")
    assert await celery_view.result_of(task_id) == ("SUCCESS", {"text": HARD_TEXT})
