"""Ended tasks without a Celery result: their worker died between the ledger's ending and the result backend."""

from celery.backends.base import KeyValueStoreBackend
from celery.states import STARTED
from redis.asyncio import Redis

from api.backend import Backend
from shared.wire.schemas import ErrorEvent
from shared.wire.task_result import TaskResult

SETTLE_SECONDS = 5.0
"""A worker has this long to store the result itself."""
CHUNK = 200
"""Tasks per round trip."""
HEAD_BYTES = 64
"""A stored result begins with its state; an answer need not be read for it."""
NOT_YET = f'"status": "{STARTED}"'.encode()


class LostResults:
    """The search for them. A result that is stored twice is the same one."""

    def __init__(self, backend: Backend) -> None:
        self._redis: Redis = backend.redis
        self._ledger = backend.ledger
        self._lists = backend.lists
        self._publisher = backend.publisher

    async def find(self) -> list[str]:
        """Ids of tasks that ended a while ago and whose result is missing; `restore` them."""
        lost: list[str] = []
        while ended := await self._lists.ended(seconds_ago=SETTLE_SECONDS, count=CHUNK):
            pipeline = self._redis.pipeline(transaction=False)
            for task_id in ended:
                pipeline.getrange(KeyValueStoreBackend.task_keyprefix + task_id, 0, HEAD_BYTES - 1)
            heads = await pipeline.execute()
            missing = [task_id for task_id, head in zip(ended, heads, strict=True) if not head or NOT_YET in head]
            lost += missing
            await self._lists.settled([task_id for task_id in ended if task_id not in missing])
            if missing or len(ended) < CHUNK:
                break
        return lost

    async def restore(self, task_id: str) -> bool:
        """Stores the result that the ledger has; False when there is nothing to store, or it will be tried again."""
        record = await self._ledger.get(task_id)
        stored = False
        if record is not None:
            match record.wire_state:
                case "SUCCESS":
                    stored = await self._publisher.store_result(task_id, TaskResult.parse(record.result))
                case "REVOKED":
                    stored = await self._publisher.revoke_result(task_id)
                case _:
                    error = ErrorEvent.model_validate_json(record.outcome)
                    stored = await self._publisher.fail_result(task_id, f"{error.code}: {error.message}")
        if stored or record is None:
            await self._lists.settled([task_id])
        return stored
