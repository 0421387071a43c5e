"""Which tasks there are: by model, by state, by deadline."""

from collections.abc import Sequence
from typing import Any, cast

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from shared.store.keys import Keys
from shared.store.redis_client import replies_of
from shared.store.scripts import Scripts
from shared.store.task_record import Load, Message

PLACES_AT_ONCE = 100
"""Places in one run of a script, during which Redis does nothing else."""


class TaskLists:
    """The lists that the ledger's scripts keep. They may name a task whose record is gone: `forget` it."""

    def __init__(self, redis: Redis, keys: Keys) -> None:
        self._redis = redis
        self._keys = keys
        self._scripts = Scripts(redis, keys, "resend", "places")

    async def position(self, task_id: str, model: str) -> int | None:
        """Place among the model's waiting tasks, 1 is next; None when the task does not wait."""
        return (await self.positions([(task_id, model)]))[0]

    async def positions(self, tasks: Sequence[tuple[str, str]]) -> list[int | None]:
        """As `position`, for many (task id, model) in one round trip; of a model whose lists are none, None.

        Exact as long as no task comes and all need the same number of tokens.
        """
        by_model: dict[str, list[str]] = {}
        for task_id, model in tasks:
            by_model.setdefault(model, []).append(task_id)
        pipeline = self._redis.pipeline(transaction=False)
        asked: list[Sequence[str]] = []
        for model, of_model in by_model.items():
            for at in range(0, len(of_model), PLACES_AT_ONCE):
                asked.append(of_model[at : at + PLACES_AT_ONCE])
                await self._scripts.add_to(pipeline, "places", "", model=model, tasks=" ".join(asked[-1]))
        places: dict[str, int | None] = {}
        for some, reply in zip(asked, await replies_of(pipeline), strict=True):
            if not isinstance(reply, ResponseError):
                places.update(zip(some, reply, strict=True))
        return [places.get(task_id) for task_id, _ in tasks]

    async def load(self, model: str) -> Load:
        """Waiting and running tasks of the model."""
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.zcard(self._keys.waiting(model))
        pipeline.zcard(self._keys.running(model))
        pipeline.hmget(self._keys.done(model), "tasks", "busy_ms")
        waiting, running, (tasks, busy) = cast(tuple[int, int, list[bytes | None]], await pipeline.execute())
        return Load(waiting, running, int(busy) / int(tasks) / 1000 if tasks and busy else None)

    async def waiting(self, model: str, most: int | None = None) -> list[str]:
        """Waiting tasks of the model, oldest first; at most so many."""
        return _ids(await self._redis.zrange(self._keys.waiting(model), 0, -1 if most is None else most - 1))

    async def expired(self, model: str, now: int) -> list[str]:
        """Running tasks of the model whose lease has run out. `now`: by `redis_client.now_ms`."""
        return _ids(await self._redis.zrangebyscore(self._keys.running(model), "-inf", now))

    async def overdue(self, now: int, *, running_grace_seconds: float) -> list[str]:
        """Tasks past their deadline; running ones only after the grace, because their worker ends them itself."""
        found = await self._redis.zrangebyscore(self._keys.deadlines, "-inf", now, withscores=True)
        late = cast(list[tuple[bytes, float]], found)
        pipeline = self._redis.pipeline(transaction=False)
        for task_id, _ in late:
            pipeline.hget(self._keys.task(task_id.decode()), "state")
        states = zip(late, await replies_of(pipeline), strict=True)
        very_late = now - running_grace_seconds * 1000
        return [
            task_id.decode() for (task_id, deadline), state in states if state != b"running" or deadline <= very_late
        ]

    async def resend(self, task_ids: Sequence[str], *, model: str) -> list[Message]:
        """Messages to send again: of those that still wait.

        A task whose record is gone, or is none, is forgotten.
        """
        pipeline = self._redis.pipeline(transaction=False)
        for task_id in task_ids:
            await self._scripts.add_to(pipeline, "resend", task_id)
        messages = []
        for task_id, reply in zip(task_ids, await replies_of(pipeline), strict=True):
            if not isinstance(reply, ResponseError) and reply[0] == b"send":
                messages.append(Message(task_id, *(part.decode() for part in reply[1:])))
            elif isinstance(reply, ResponseError) or reply[0] == b"missing":
                await self.forget(task_id, [model])
        return messages

    async def forget(self, task_id: str, models: Sequence[str]) -> None:
        """Takes a task whose record is gone out of every list."""
        pipeline = self._redis.pipeline(transaction=False)
        for model in models:
            pipeline.zrem(self._keys.waiting(model), task_id)
            pipeline.zrem(self._keys.running(model), task_id)
        pipeline.zrem(self._keys.deadlines, task_id)
        await pipeline.execute()


def _ids(members: Any) -> list[str]:
    return [member.decode() for member in members]
