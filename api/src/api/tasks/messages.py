"""The Celery message of an accepted task: for the model's workers, or first for the one where its prompt is warm."""

import asyncio
import logging
from typing import cast

from redis.asyncio import Redis
from redis.exceptions import RedisError

from api.publisher import Publisher
from shared.celery_app import own_queue_for
from shared.store.keys import Keys
from shared.store.outage import level
from shared.store.task_record import Acceptance, TaskMessage
from shared.wire.schemas import Priority

log = logging.getLogger(__name__)

HOME_SECONDS = 0.03
"""So long a task waits for one worker alone, although others may be free: ten times what it takes to get there."""
OWN_QUEUE_MS = 60_000
"""After which what is still in a worker's own queue is forgotten: its tasks have had other messages long since."""


class Messages:
    """Writes them, and sends what follows. What gets lost, `repair/lost_messages.py` sends again."""

    def __init__(self, redis: Redis, keys: Keys, publisher: Publisher) -> None:
        self._redis = redis
        self._keys = keys
        self._publisher = publisher
        self._following: set[asyncio.Task[None]] = set()

    def write(self, task_id: str, model: str, priority: Priority, headers: dict[str, str]) -> TaskMessage:
        """The message of a task that is about to be accepted: the ledger sends it in that step."""
        return self._publisher.writer.write(task_id, model, priority, headers)

    def follow(self, accepted: Acceptance, priority: Priority, headers: dict[str, str]) -> None:
        """Where the message went to one worker and that does not take it at once, another goes to all of them."""
        if accepted.home is None:
            return
        following = asyncio.create_task(self._follow(accepted, accepted.home, priority, headers))
        self._following.add(following)
        following.add_done_callback(self._following.discard)

    async def sent(self) -> None:
        """Returns when nothing is left to be sent."""
        await asyncio.gather(*self._following)

    async def _follow(self, accepted: Acceptance, home: str, priority: Priority, headers: dict[str, str]) -> None:
        await asyncio.sleep(HOME_SECONDS)
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.hget(self._keys.task(accepted.task_id), "state")
        pipeline.pexpire(self._keys.prefix + own_queue_for(accepted.model, home), OWN_QUEUE_MS)
        try:
            state, _ = cast(tuple[bytes | None, int], await pipeline.execute())
        except RedisError as error:
            log.log(level(error), "Nobody knows whether task %s has been taken: %s", accepted.task_id, error)
            return
        if state == b"waiting":
            await self._publisher.send(accepted.task_id, accepted.model, priority, headers)
