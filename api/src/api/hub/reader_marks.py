"""Who reads the tasks that want to be cancelled when nobody does: one sorted set for all API replicas.

A replica renews the mark of each such task that it has a reader for. A mark that nobody renewed runs out, and the
janitor cancels its task: that also covers replicas that died.
"""

from collections.abc import Iterable
from typing import cast

from redis.asyncio import Redis

from shared.store.keys import Keys
from shared.store.redis_client import now_ms


class ReaderMarks:
    """The marks: until when a task may be without a reader, in milliseconds of Redis's clock."""

    def __init__(self, redis: Redis, keys: Keys, *, window_seconds: float) -> None:
        self._redis = redis
        self._key = keys.readers
        self._window_ms = int(window_seconds * 1000)
        self.renew_seconds = window_seconds / 3
        """A mark is to be renewed as often as this."""

    async def renew(self, task_ids: Iterable[str]) -> None:
        """The tasks have readers: their marks run out a window after they should have been renewed."""
        until = await now_ms(self._redis) + self._window_ms + int(self.renew_seconds * 1000)
        if marks := dict.fromkeys(task_ids, until):
            await self._redis.zadd(self._key, marks)

    async def left(self, task_id: str) -> None:
        """A reader has gone. If there is another one, its replica renews the mark in time."""
        await self._redis.zadd(self._key, {task_id: await now_ms(self._redis) + self._window_ms})

    async def abandoned(self, now: int) -> list[str]:
        """Tasks whose marks ran out. `now`: by `redis_client.now_ms`."""
        expired = cast(list[bytes], await self._redis.zrangebyscore(self._key, "-inf", now))
        return [task_id.decode() for task_id in expired]

    async def forget(self, task_ids: Iterable[str]) -> None:
        """The tasks have ended, or are being cancelled."""
        if members := list(task_ids):
            await self._redis.zrem(self._key, *members)
