"""Fewer Celery messages than waiting tasks: a worker took one and died before its claim, or it was never sent."""

from time import monotonic

from redis.asyncio import Redis

from shared.celery_app import QUEUE_CLASSES, queue_for
from shared.store.keys import Keys
from shared.store.task_lists import TaskLists
from shared.store.task_record import Message

MISSED_SECONDS = 4.0
"""A message that is missing at every look of so long is lost."""
CHUNK = 500
"""Tasks per round trip."""


class LostMessages:
    """The search for them. Any message takes the task that is next: it counts how many are missing, and for how long.

    One that a worker holds and has not claimed a task with is missing; one too many does no harm.
    """

    def __init__(self, redis: Redis, keys: Keys, lists: TaskLists, *, missed_seconds: float = MISSED_SECONDS) -> None:
        self._redis = redis
        self._keys = keys
        self._lists = lists
        self._missed_seconds = missed_seconds
        self._looks: dict[str, list[tuple[float, int]]] = {}
        """Of each model: when somebody looked, and how many were missing."""

    async def find(self, model: str) -> list[Message]:
        """One look: messages of the model that are to be sent again now."""
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.zcard(self._keys.waiting(model))
        for queue in self._queues(model):
            pipeline.llen(queue)
        waiting, *lengths = await pipeline.execute()
        lost = self._lost(model, waiting - sum(lengths))
        oldest = await self._lists.waiting(model, lost) if lost else []
        messages: list[Message] = []
        for at in range(0, len(oldest), CHUNK):
            messages += await self._lists.resend(oldest[at : at + CHUNK], model=model)
        return messages

    def _lost(self, model: str, missing: int) -> int:
        """How many were missing at every look of the last seconds; once: they are as good as sent."""
        now = monotonic()
        looks = [*self._looks.get(model, []), (now, missing)] if missing > 0 else []
        while len(looks) > 1 and now - looks[1][0] >= self._missed_seconds:
            del looks[0]
        lost = 0
        if looks and now - looks[0][0] >= self._missed_seconds:
            lost = min(missing for _, missing in looks)
        self._looks[model] = [(at, missing - lost) for at, missing in looks]
        return lost

    def _queues(self, model: str) -> list[str]:
        """Redis keys of the model's queues: kombu puts `global_keyprefix` before the name of a queue."""
        return [self._keys.prefix + queue_for(model, queue_class) for queue_class in QUEUE_CLASSES]
