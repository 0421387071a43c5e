"""Ended tasks whose Celery result nobody stored."""

import logging

import pytest
from celery import Celery
from celery.exceptions import TaskRevokedError
from redis.asyncio import Redis
from redis.exceptions import RedisError

from api.publisher import Publisher
from api.repair.lost_results import LostResults
from shared.store.keys import Keys
from shared.store.task_ledger import TaskLedger
from shared.store.task_lists import TaskLists
from shared.wire.schemas import EndState, ErrorEvent, Usage
from shared.wire.task_result import TaskResult
from testbed.celery_view import CeleryView
from testbed.fake_worker import FakeWorker

pytestmark = pytest.mark.filterwarnings("ignore:Call to deprecated setex:DeprecationWarning")  # Celery's backend

RESULT = TaskResult(
    cleaned_response_text="hello",
    raw_response_text="hello",
    tool_calls=[],
    finish_reason="stop",
    usage=Usage(prompt_tokens=1, completion_tokens=2),
)


@pytest.fixture
def lost_results(redis: Redis, ledger: TaskLedger, lists: TaskLists, publisher: Publisher) -> LostResults:
    return LostResults(redis, ledger, lists, publisher, settle_seconds=0)


async def ended(ledger: TaskLedger, worker: FakeWorker, state: EndState) -> str:
    """A task that has ended in this state, without a result."""
    task_id = await worker.begin()
    match state:
        case "SUCCESS":
            await ledger.end(task_id, 1, "SUCCESS", None, result=RESULT.as_json())
        case "FAILURE":
            error = ErrorEvent(task_id=task_id, code="engine_failed", message="broken", retryable=True)
            await ledger.end(task_id, 1, "FAILURE", error)
        case "REVOKED":
            await ledger.end(task_id, 1, "REVOKED", None)
    return task_id


@pytest.mark.parametrize("state", ["SUCCESS", "FAILURE", "REVOKED"])
@pytest.mark.parametrize("begun", [True, False], ids=["STARTED", "nothing"])
async def test_a_result_that_a_dead_worker_did_not_store_is_stored(
    lost_results: LostResults,
    worker: FakeWorker,
    ledger: TaskLedger,
    celery: Celery,
    celery_view: CeleryView,
    redis: Redis,
    keys: Keys,
    state: EndState,
    begun: bool,
) -> None:
    task_id = await ended(ledger, worker, state)
    if begun:
        celery.backend.store_result(task_id, {"hostname": "w"}, "STARTED")
    assert await lost_results.find() == [task_id]
    assert await lost_results.restore(task_id)
    assert not await redis.zcard(keys.ended)
    stored, told = await celery_view.result_of(task_id)
    assert stored == state
    match state:
        case "SUCCESS":
            assert told == RESULT.as_dict()
        case "FAILURE":
            assert str(told) == "engine_failed: broken"
        case "REVOKED":
            assert isinstance(told, TaskRevokedError)


async def test_a_result_that_was_stored_stays(
    lost_results: LostResults,
    worker: FakeWorker,
    ledger: TaskLedger,
    celery: Celery,
    celery_view: CeleryView,
    redis: Redis,
    keys: Keys,
) -> None:
    task_id = await ended(ledger, worker, "SUCCESS")
    celery.backend.mark_as_done(task_id, "mine")
    assert await lost_results.find() == []
    assert not await redis.zcard(keys.ended)
    assert await celery_view.result_of(task_id) == ("SUCCESS", "mine")


async def test_a_worker_has_its_time_to_store_the_result_itself(
    redis: Redis, ledger: TaskLedger, lists: TaskLists, publisher: Publisher, worker: FakeWorker, keys: Keys
) -> None:
    await ended(ledger, worker, "REVOKED")
    assert await LostResults(redis, ledger, lists, publisher, settle_seconds=60).find() == []
    assert await redis.zcard(keys.ended) == 1


async def test_a_result_that_cannot_be_stored_is_tried_again(
    lost_results: LostResults,
    worker: FakeWorker,
    ledger: TaskLedger,
    celery: Celery,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    task_id = await ended(ledger, worker, "SUCCESS")

    def refuse(*_: object) -> None:
        raise RedisError("away")

    monkeypatch.setattr(type(celery.backend), "mark_as_done", refuse)  # of all threads
    assert not await lost_results.restore(task_id)
    assert await lost_results.find() == [task_id]


async def test_the_error_of_a_newer_worker_is_told_by_its_code(
    lost_results: LostResults, worker: FakeWorker, ledger: TaskLedger, celery_view: CeleryView, redis: Redis, keys: Keys
) -> None:
    task_id = await ended(ledger, worker, "FAILURE")
    await redis.hset(keys.task(task_id), "outcome", '{"type":"error","code":"of later","message":"Oh.","new":1}')
    assert await lost_results.restore(task_id)
    assert str((await celery_view.result_of(task_id))[1]) == "of later: Oh."


@pytest.mark.parametrize(("state", "field"), [("SUCCESS", "result"), ("FAILURE", "outcome")])
@pytest.mark.parametrize("text", ["", "{", "{}", '{"secret": 1}'])
async def test_what_cannot_be_read_is_logged_once_and_given_up(
    lost_results: LostResults,
    worker: FakeWorker,
    ledger: TaskLedger,
    redis: Redis,
    keys: Keys,
    caplog: pytest.LogCaptureFixture,
    state: EndState,
    field: str,
    text: str,
) -> None:
    task_id = await ended(ledger, worker, state)
    await redis.hset(keys.task(task_id), field, text)
    assert not await lost_results.restore(task_id)
    assert await lost_results.find() == []
    errors = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert [task_id in record.getMessage() for record in errors] == [True]
    assert "secret" not in caplog.text


async def test_a_task_whose_record_is_gone_is_forgotten(
    lost_results: LostResults, worker: FakeWorker, ledger: TaskLedger, redis: Redis, keys: Keys
) -> None:
    task_id = await ended(ledger, worker, "SUCCESS")
    await redis.delete(keys.task(task_id))
    assert not await lost_results.restore(task_id)
    assert await lost_results.find() == []
