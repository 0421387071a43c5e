"""Fewer Celery messages than waiting tasks: a worker took one and died before its claim, or it was never sent."""

from redis.asyncio import Redis

from shared.celery_app import QUEUE_CLASSES, queue_for
from shared.store.keys import Keys
from shared.store.task_lists import TaskLists
from shared.store.task_record import Message

RESEND_SECONDS = 5.0
"""For a task whose message was last sent as long ago, another one is sent when one is missing."""
CHUNK = 500
"""Tasks per round trip."""


class LostMessages:
    """The search for them. Any message takes the task that is next, so that only their number counts. One that a worker
    holds and has not claimed a task with counts as lost; one too many does no harm.
    """

    def __init__(self, redis: Redis, keys: Keys, lists: TaskLists, *, resend_seconds: float = RESEND_SECONDS) -> None:
        self._redis = redis
        self._keys = keys
        self._lists = lists
        self._resend_seconds = resend_seconds

    async def find(self, model: str) -> list[Message]:
        """Messages of the model to send again; the ledger has noted that they are."""
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.zcard(self._keys.waiting(model))
        for queue in self._queues(model):
            pipeline.llen(queue)
        waiting, *lengths = await pipeline.execute()
        missing = waiting - sum(lengths)
        if missing <= 0:
            return []
        oldest = await self._lists.waiting(model, missing)
        messages: list[Message] = []
        for at in range(0, len(oldest), CHUNK):
            some = oldest[at : at + CHUNK]
            messages += await self._lists.resend(some, model=model, after_seconds=self._resend_seconds)
        return messages

    def _queues(self, model: str) -> list[str]:
        """Redis keys of the model's queues: kombu puts `global_keyprefix` before the name of a queue."""
        return [self._keys.prefix + queue_for(model, queue_class) for queue_class in QUEUE_CLASSES]
