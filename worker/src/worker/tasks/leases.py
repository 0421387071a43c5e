"""Keeps the leases of the held tasks, hears of cancellations, and says that this worker is here."""

import asyncio
import logging
from contextlib import aclosing

from redis.asyncio import Redis
from redis.exceptions import RedisError

from shared.store.keys import Keys
from shared.store.outage import level
from shared.store.task_ledger import TaskLedger
from worker.tasks.outcomes import Cancelled, Lost
from worker.tasks.redis_retry import pauses
from worker.tasks.task_runner import TaskRunner

log = logging.getLogger(__name__)


class Leases:
    """The worker's standing with Redis, as seen from this side."""

    def __init__(self, runner: TaskRunner, ledger: TaskLedger, redis: Redis, keys: Keys, lease_seconds: float) -> None:
        self._runner = runner
        self._ledger = ledger
        self._redis = redis
        self._channel = keys.cancel
        self._lease_seconds = lease_seconds

    async def renew(self) -> None:
        """Renews the leases three times per lease, for ever. After a freeze this is the first thing that happens."""
        while True:
            attempts = list(self._runner.held)
            held = [(attempt.task_id, attempt.number) for attempt in attempts]
            try:
                replies = await self._ledger.heartbeat(held, lease_seconds=self._lease_seconds)
            except RedisError as error:
                log.log(level(error), "The leases of %d tasks could not be renewed: %s", len(held), error)
                await asyncio.sleep(min(0.5, self._lease_seconds / 10))
                continue
            for attempt, reply in zip(attempts, replies, strict=True):
                if reply != "ok":
                    attempt.end(Cancelled() if reply == "cancel" else Lost())
            await asyncio.sleep(self._lease_seconds / 3)

    async def hear_cancellations(self) -> None:
        """Ends held tasks as soon as somebody cancels them, for ever. What is missed here the next heartbeat tells."""
        pause = pauses()
        while True:
            try:
                async with aclosing(self._redis.pubsub(ignore_subscribe_messages=True)) as pubsub:
                    await pubsub.subscribe(self._channel)
                    pause = pauses()
                    while True:
                        message = await pubsub.get_message(timeout=10)
                        if message is not None:
                            self._cancel(message["data"].decode())
            except RedisError as error:
                log.log(level(error), "The cancel channel is cut: %s", error)
                await asyncio.sleep(next(pause))

    def _cancel(self, task_id: str) -> None:
        for attempt in self._runner.held:
            if attempt.task_id == task_id:
                attempt.end(Cancelled())
