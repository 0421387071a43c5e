"""Ended tasks without a Celery result: their worker died between the ledger's ending and the result backend."""

import logging

from celery.backends.base import KeyValueStoreBackend
from celery.states import STARTED
from pydantic_core import from_json
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from api.publisher import Publisher
from shared.store.redis_client import replies_of
from shared.store.task_ledger import TaskLedger
from shared.store.task_lists import TaskLists
from shared.store.task_record import TaskRecord
from shared.wire.task_result import TaskResult

log = logging.getLogger(__name__)

SETTLE_SECONDS = 5.0
"""A worker has this long to store the result itself."""
CHUNK = 200
"""Tasks per round trip."""
HEAD_BYTES = 64
"""A stored result begins with its state; an answer need not be read for it."""
NOT_YET = f'"status": "{STARTED}"'.encode()


class LostResults:
    """The search for them. A result that is stored twice is the same one."""

    def __init__(
        self,
        redis: Redis,
        ledger: TaskLedger,
        lists: TaskLists,
        publisher: Publisher,
        *,
        settle_seconds: float = SETTLE_SECONDS,
    ) -> None:
        self._redis = redis
        self._ledger = ledger
        self._lists = lists
        self._publisher = publisher
        self._settle_seconds = settle_seconds

    async def find(self) -> list[str]:
        """Ids of tasks that ended a while ago and whose result is missing; `restore` them."""
        lost: list[str] = []
        while ended := await self._lists.ended(seconds_ago=self._settle_seconds, count=CHUNK):
            pipeline = self._redis.pipeline(transaction=False)
            for task_id in ended:
                pipeline.getrange(KeyValueStoreBackend.task_keyprefix + task_id, 0, HEAD_BYTES - 1)
            heads = await replies_of(pipeline)
            missing = [task_id for task_id, head in zip(ended, heads, strict=True) if not _is_result(head)]
            lost += missing
            await self._lists.settled([task_id for task_id in ended if task_id not in missing])
            if missing or len(ended) < CHUNK:
                break
        return lost

    async def restore(self, task_id: str) -> bool:
        """Stores the result that the ledger has; False when there is nothing to store, or it will be tried again."""
        record = await self._ledger.get(task_id)
        stored = False
        try:
            stored = record is not None and await self._store(record)
        except (ValueError, KeyError) as error:
            # A worker of another version wrote it. Who waits for this result waits in vain, but nobody else does.
            log.error("the result of task %s cannot be read: %s", task_id, type(error).__name__)
            record = None
        if stored or record is None:
            await self._lists.settled([task_id])
        return stored

    async def _store(self, record: TaskRecord) -> bool:
        match record.wire_state:
            case "SUCCESS":
                return await self._publisher.store_result(record.task_id, TaskResult.parse(record.result))
            case "REVOKED":
                return await self._publisher.revoke_result(record.task_id)
            case _:
                error = from_json(record.outcome)  # not by its type: a newer worker may know more codes
                return await self._publisher.fail_result(record.task_id, f"{error['code']}: {error['message']}")


def _is_result(head: bytes | ResponseError) -> bool:
    """By how it begins; what is no text at all is overwritten."""
    return isinstance(head, bytes) and head != b"" and NOT_YET not in head
