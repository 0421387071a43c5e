"""The Celery result of a task: there for whoever waits in `AsyncResult.get`, also when its worker died over it."""

import asyncio
import time
from typing import Any

import pytest
from celery import Celery
from celery.result import AsyncResult
from redis.asyncio import Redis

from api.lost_results import SETTLE_SECONDS
from faults.history import History
from faults.stack import Stack
from shared.celery_app import make_celery
from shared.keys import Keys
from shared.settings import SharedSettings

RESULTS_REFUSED = [f"{SharedSettings().key_prefix}*", "_kombu*"]
"""The keys that everybody may still use: all of Headrace's and no Celery result."""


def state(app: Celery, history: History) -> str:
    return str(AsyncResult(history.task_id, app=app).state)


def wait(app: Celery, history: History) -> Any:
    """As any Celery client does."""
    return AsyncResult(history.task_id, app=app).get(timeout=SETTLE_SECONDS + 5)


@pytest.mark.filterwarnings("ignore:Call to deprecated setex:DeprecationWarning")  # Celery's backend
@pytest.mark.slow
async def test_a_result_that_its_worker_could_not_store_any_more_is_stored_by_the_janitor(
    headrace: Stack, redis: Redis, keys: Keys
) -> None:
    app = make_celery(SharedSettings.model_validate({"redis_url": headrace.redis_url}))
    worker = await headrace.start_worker()
    history = await headrace.submit(words=100)
    following = await headrace.until_tokens(history, 3)
    await redis.acl_setuser("default", enabled=True, keys=RESULTS_REFUSED, reset_keys=True)
    await following
    ended_at = time.monotonic()
    assert history.state == "SUCCESS"
    worker.kill()
    await redis.acl_setuser("default", enabled=True, keys=["*"], reset_keys=True)

    assert await asyncio.to_thread(state, app, history) == "STARTED"
    assert (await asyncio.to_thread(wait, app, history))["cleaned_response_text"] == history.text
    assert time.monotonic() - ended_at <= SETTLE_SECONDS + 3
    assert await redis.zcard(keys.ended) == 0
    app.close()
