"""What a client of Celery sees of Headrace's tasks: their messages in the queues, and their results."""

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from celery import Celery
from redis.asyncio import Redis

from shared.celery_app import queue_for
from shared.store.keys import Keys
from shared.wire.schemas import QueueClass
from testbed.fake_worker import DEFAULT_MODEL


@contextmanager
def celery_client(url: str) -> Iterator[Celery]:
    """A Celery application that knows the URL of Headrace's Redis and nothing else of it."""
    app = Celery("client", broker=url, backend=url, set_as_current=False)
    app.conf.result_backend_thread_safe = True  # one for all threads
    try:
        yield app
    finally:
        app.close()
        # `close` leaves these connections to the garbage collector.
        app.backend.result_consumer.stop()
        app.backend.client.connection_pool.disconnect()


def told(client: Celery, task_id: str, seconds: float, *, propagate: bool) -> tuple[str, Any]:
    """State and result that `AsyncResult` waits for. It is not for several threads: one at a time.

    With `propagate` it raises what the task raised.
    """
    pending = client.AsyncResult(task_id)
    backend = pending.backend
    try:
        value = pending.get(timeout=seconds, propagate=propagate)
        return pending.state, value
    finally:
        backend.remove_pending_result(pending)
        pending.backend = None  # its __del__ would talk to Redis, whenever the garbage collector likes


class CeleryView:
    """The queues of one model and the results."""

    def __init__(self, redis: Redis, keys: Keys, client: Celery) -> None:
        self._redis = redis
        self._keys = keys
        self._client = client

    async def queued(self, queue_class: QueueClass) -> list[str]:
        """Ids of the tasks whose messages are in the queue."""
        queue = self._keys.prefix + queue_for(DEFAULT_MODEL, queue_class)
        messages: list[Any] = await self._redis.lrange(queue, 0, -1)
        return [json.loads(message)["headers"]["id"] for message in messages]

    async def result_of(self, task_id: str) -> tuple[str, Any]:
        """State and result that `AsyncResult` waits for."""
        return await asyncio.to_thread(told, self._client, task_id, 5, propagate=False)
