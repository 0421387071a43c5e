"""The Celery result of a task: there for whoever waits in `AsyncResult.get`, also when its worker died over it."""

import asyncio
import json
import sys
import time

import pytest
from redis.asyncio import Redis

from api.repair.lost_results import SETTLE_SECONDS
from shared.settings import SharedSettings
from shared.store.keys import Keys
from testbed.stack import Stack

RESULTS_REFUSED = [f"{SharedSettings().key_prefix}*", "_kombu*"]
"""The keys that everybody may still use: all of Headrace's and no Celery result."""
CLIENT = """
import json, sys
from celery import Celery
url, task_id, seconds = sys.argv[1:]
result = Celery(broker=url, backend=url).AsyncResult(task_id)
print(json.dumps([result.state, result.get(timeout=float(seconds))]))
"""
"""Any Celery client, in a process of its own: there, a result ends before the Redis that it listens to."""


async def state_and_result(headrace: Stack, task_id: str) -> list[object]:
    client = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", CLIENT, headrace.redis_url, task_id, str(SETTLE_SECONDS + 5)),
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await client.communicate()
    return list(json.loads(output))


@pytest.mark.slow
async def test_a_result_that_its_worker_could_not_store_any_more_is_stored_by_the_janitor(
    headrace: Stack, redis: Redis, keys: Keys
) -> None:
    worker = await headrace.start_worker()
    history = await headrace.submit(words=100)
    following = await headrace.until_tokens(history, 3)
    await redis.acl_setuser("default", enabled=True, keys=RESULTS_REFUSED, reset_keys=True)
    await following
    ended_at = time.monotonic()
    assert history.state == "SUCCESS"
    worker.kill()
    await redis.acl_setuser("default", enabled=True, keys=["*"], reset_keys=True)

    state, result = await state_and_result(headrace, history.task_id)
    assert state == "STARTED"
    assert isinstance(result, dict)
    assert result["cleaned_response_text"] == history.text
    assert time.monotonic() - ended_at <= SETTLE_SECONDS + 3
    assert await redis.zcard(keys.ended) == 0
