"""Waiting tasks whose Celery message is nowhere: a worker took it and died before its claim, or it was never sent."""

import asyncio
import json
from typing import cast

from redis.asyncio import Redis

from shared.celery_app import QUEUE_CLASSES, queue_for
from shared.store.keys import Keys
from shared.store.task_lists import TaskLists
from shared.store.task_record import Message

RESEND_SECONDS = 5.0
"""A message that was last sent as long ago, is in no queue and was not claimed, is sent again."""
CERTAIN_SECONDS = 30.0
"""How often the queues are read even if as many messages are there as tasks wait."""
SCAN_SHARE = 0.05
"""Most of its time that the search may spend on reading queues."""
CHUNK = 500
"""Messages per read of a queue, and tasks per round trip."""


class LostMessages:
    """The search for them. A message that a worker holds unclaimed counts as lost; sending it twice does no harm."""

    def __init__(self, redis: Redis, keys: Keys, lists: TaskLists, *, resend_seconds: float = RESEND_SECONDS) -> None:
        self._redis = redis
        self._keys = keys
        self._lists = lists
        self._resend_seconds = resend_seconds
        self._not_before: dict[str, float] = {}
        self._certain_at: dict[str, float] = {}

    async def find(self, model: str) -> list[Message]:
        """Messages of the model to send again; the ledger has noted that they are."""
        clock = asyncio.get_running_loop().time
        began = clock()
        if began < self._not_before.get(model, 0.0):
            return []
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.zcard(self._keys.waiting(model))
        for queue in self._queues(model):
            pipeline.llen(queue)
        waiting, *lengths = await pipeline.execute()
        if not waiting or (waiting == sum(lengths) and began < self._certain_at.get(model, 0.0)):
            return []
        queued: set[str] = set()
        for queue in self._queues(model):
            queued |= await self._task_ids(queue)
        missing = [task_id for task_id in await self._lists.waiting(model) if task_id not in queued]
        messages: list[Message] = []
        for at in range(0, len(missing), CHUNK):
            some = missing[at : at + CHUNK]
            messages += await self._lists.resend(some, model=model, after_seconds=self._resend_seconds)
        ended = clock()
        self._not_before[model] = ended + (ended - began) / SCAN_SHARE
        self._certain_at[model] = ended + CERTAIN_SECONDS
        return messages

    def _queues(self, model: str) -> list[str]:
        """Redis keys of the model's queues: kombu puts `global_keyprefix` before the name of a queue."""
        return [self._keys.prefix + queue_for(model, queue_class) for queue_class in QUEUE_CLASSES]

    async def _task_ids(self, queue: str) -> set[str]:
        """Messages are pushed on the left: what moves while it is read is read twice, not missed."""
        found: set[str] = set()
        at = 0
        while True:
            messages = cast(list[bytes], await self._redis.lrange(queue, at, at + CHUNK - 1))
            found |= {_task_id(message) for message in messages}
            if len(messages) < CHUNK:
                return found
            at += CHUNK
            await asyncio.sleep(0)


def _task_id(message: bytes) -> str:
    """Empty for what no Celery client has sent."""
    try:
        return str(json.loads(message)["headers"]["id"])
    except (ValueError, KeyError, TypeError):
        return ""
