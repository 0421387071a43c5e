"""What a client of Celery sees of Headrace's tasks: their messages in the queues, and their results."""

import asyncio
import json
from typing import Any

from celery import Celery
from redis.asyncio import Redis

from shared.celery_app import queue_for
from shared.store.keys import Keys
from shared.wire.schemas import QueueClass
from testbed.fake_worker import DEFAULT_MODEL


class CeleryView:
    """The queues of one model and the result backend."""

    def __init__(self, redis: Redis, keys: Keys, celery: Celery) -> None:
        self._redis = redis
        self._keys = keys
        self._celery = celery

    async def queued(self, queue_class: QueueClass) -> list[str]:
        """Ids of the tasks whose messages are in the queue."""
        queue = self._keys.prefix + queue_for(DEFAULT_MODEL, queue_class)
        messages: list[Any] = await self._redis.lrange(queue, 0, -1)
        return [json.loads(message)["headers"]["id"] for message in messages]

    async def result_of(self, task_id: str) -> tuple[str, Any]:
        """State and result that `AsyncResult` waits for."""
        return await asyncio.to_thread(self._told, task_id)

    def _told(self, task_id: str) -> tuple[str, Any]:
        result = self._celery.AsyncResult(task_id)
        value = result.get(timeout=5, propagate=False)
        return result.state, value
