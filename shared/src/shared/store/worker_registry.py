"""Which workers a model has: heartbeats of ready ones, progress of starting ones, the model's card."""

import time
from typing import cast

from redis.asyncio import Redis

from shared.store.keys import Keys
from shared.store.redis_client import now_ms
from shared.wire.schemas import ModelCard

CARD_SECONDS = 1.0
"""Every request needs its model's card, which changes when a rollout does."""


class WorkerRegistry:
    """Presence of the workers; a worker that stops announcing itself disappears after the lease."""

    def __init__(self, redis: Redis, keys: Keys, *, lease_seconds: float) -> None:
        self._redis = redis
        self._keys = keys
        self._lease_ms = int(lease_seconds * 1000)
        self._cards: dict[str, tuple[float, ModelCard | None]] = {}
        """Of each model, when it was read."""

    async def announce(self, worker: str, card: ModelCard) -> None:
        """Says that the worker takes tasks; to be repeated within the lease."""
        now = await now_ms(self._redis)
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.zremrangebyscore(self._keys.workers(card.name), "-inf", now)
        pipeline.zadd(self._keys.workers(card.name), {worker: now + self._lease_ms})
        pipeline.hdel(self._keys.starting(card.name), worker)
        # The card outlives the last worker, so that a model scaled to zero still says what it can do.
        pipeline.set(self._keys.model(card.name), card.model_dump_json())
        await pipeline.execute()

    async def announce_starting(self, worker: str, model: str, detail: str) -> None:
        """Says what a worker that is not ready yet is doing, for the clients that wait for it."""
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.zrem(self._keys.workers(model), worker)
        pipeline.hset(self._keys.starting(model), worker, detail)
        pipeline.pexpire(self._keys.starting(model), 6 * self._lease_ms)
        await pipeline.execute()

    async def leave(self, worker: str, model: str) -> None:
        """Says that the worker takes no more tasks."""
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.zrem(self._keys.workers(model), worker)
        pipeline.hdel(self._keys.starting(model), worker)
        await pipeline.execute()

    async def ready(self, model: str) -> int:
        """Number of workers that take tasks of this model now."""
        return int(await self._redis.zcount(self._keys.workers(model), await now_ms(self._redis), "+inf"))

    async def starting(self, model: str) -> list[str]:
        """What each worker that is starting says of itself."""
        details = cast(list[bytes], await self._redis.hvals(self._keys.starting(model)))
        return [detail.decode() for detail in details]

    async def card(self, model: str) -> ModelCard | None:
        """What the model's workers said of it last, or up to CARD_SECONDS ago; None before the first one was ready."""
        read_at, card = self._cards.get(model, (0.0, None))
        if card is None or time.monotonic() - read_at > CARD_SECONDS:
            stored = await self._redis.get(self._keys.model(model))
            card = ModelCard.model_validate_json(stored) if stored else None
            self._cards[model] = time.monotonic(), card
        return card
