"""A rolling upgrade: records and messages of another version are read, or refused with an error event."""

import base64
import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from redis.asyncio import Redis

from api.repair.lost_messages import MISSED_SECONDS
from shared.celery_app import queue_for
from shared.settings import SharedSettings
from shared.store.keys import Keys
from shared.wire.schemas import SCHEMA_VERSION
from testbed.stack import MODEL, Stack

QUEUE = SharedSettings().key_prefix + queue_for(MODEL, "normal")


async def test_a_record_of_an_older_version_is_read_and_of_a_newer_one_refused(
    headrace: Stack, redis: Redis, keys: Keys
) -> None:
    older, newer = await headrace.submit(), await headrace.submit()
    await redis.hset(keys.task(older.task_id), "v", str(SCHEMA_VERSION - 1))
    await redis.hdel(keys.task(older.task_id), "context")
    await redis.hset(keys.task(newer.task_id), "v", str(SCHEMA_VERSION + 1))
    await redis.hset(keys.task(newer.task_id), "request", "of a form that is still to be invented")
    await headrace.start_worker()
    began = time.monotonic()
    await headrace.follow(older)
    await headrace.follow(newer)
    assert (older.started, older.state) == ([1], "SUCCESS")
    assert (newer.started, newer.state) == ([], "FAILURE")
    assert newer.of("error")[0].data["code"] == "version_unsupported"
    assert newer.seen[-1].at - began <= 2


def with_another_argument(message: dict[str, Any]) -> None:
    arguments, keywords, embed = json.loads(base64.b64decode(message["body"]))
    keywords["hint"] = 1
    message["body"] = base64.b64encode(json.dumps([arguments, keywords, embed]).encode()).decode()


def of_another_task(message: dict[str, Any]) -> None:
    message["headers"]["task"] = "run_llm_inference_task_v2"


@pytest.mark.slow
@pytest.mark.parametrize("change", [with_another_argument, of_another_task])
async def test_a_message_that_the_worker_cannot_read_is_replaced_by_one_that_it_can(
    headrace: Stack, redis: Redis, change: Callable[[dict[str, Any]], None]
) -> None:
    history = await headrace.submit()
    raw = await redis.lpop(QUEUE)
    assert isinstance(raw, bytes)
    message = json.loads(raw)
    change(message)
    await redis.lpush(QUEUE, json.dumps(message))
    await headrace.start_worker()
    began = time.monotonic()
    await headrace.follow(history)
    assert (history.started, history.state) == ([1], "SUCCESS")
    assert history.seen[-1].at - began <= MISSED_SECONDS + 5
