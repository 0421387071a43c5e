import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from redis.asyncio import Redis
from redis.exceptions import RedisError

from shared.cancellation import cancel_and_wait
from shared.store.keys import Keys
from shared.store.outage import Outage
from shared.store.worker_registry import WorkerRegistry
from shared.wire.schemas import ModelAbilities, ModelCard
from testbed.valkey import Valkey
from testbed.waiting import until
from worker.status.registration import Registration

LEASE_SECONDS = 1.5
CARD = ModelCard(
    name="m", revision="r", context_length=100, max_token_bytes=10, slots=4, abilities=ModelAbilities(tools="prompt")
)


@pytest.fixture
def registry(redis: Redis, keys: Keys) -> WorkerRegistry:
    return WorkerRegistry(redis, keys, lease_seconds=LEASE_SECONDS)


class Worker:
    """What there is to tell of it."""

    def __init__(self, registry: WorkerRegistry) -> None:
        self.card: ModelCard | str = CARD
        self.registration = Registration(registry, "w1", "m", LEASE_SECONDS, lambda: self.card, Outage())

    def becomes(self, card: ModelCard | str) -> None:
        self.card = card
        self.registration.refresh()

    @asynccontextmanager
    async def here(self) -> AsyncIterator[None]:
        announcing = asyncio.create_task(self.registration.run())
        try:
            yield
        finally:
            await cancel_and_wait(announcing)
            assert announcing.cancelled(), announcing.exception()


async def test_each_change_is_told_at_once(registry: WorkerRegistry) -> None:
    worker = Worker(registry)

    async def told(ready: int, *starting: str) -> bool:
        return (await registry.ready("m"), await registry.starting("m")) == (ready, [*starting])

    worker.card = "loading the model, 40 %"
    async with worker.here():
        await until(lambda: told(0, "loading the model, 40 %"))
        worker.becomes(CARD)
        await until(lambda: told(1), LEASE_SECONDS / 6)
        assert await registry.card("m") == CARD
        worker.becomes("restarting the engine")
        await until(lambda: told(0, "restarting the engine"), LEASE_SECONDS / 6)
        worker.becomes("")
        await until(lambda: told(0), LEASE_SECONDS / 6)


async def test_it_is_repeated_within_the_lease_and_ends_with_the_worker(
    registry: WorkerRegistry, redis: Redis, keys: Keys
) -> None:
    worker = Worker(registry)

    async def announced_after(expiry: float) -> float | None:
        now = await redis.zscore(keys.workers("m"), "w1")
        return now if now is not None and now > expiry else None

    async with worker.here():
        first = await until(lambda: announced_after(0))
        await until(lambda: announced_after(first), LEASE_SECONDS)

    async def gone() -> bool:
        return await registry.ready("m") == 0

    await until(gone)


async def test_an_outage_is_survived_and_told_by_how_long_redis_answers(
    registry: WorkerRegistry, valkey: Valkey, caplog: pytest.LogCaptureFixture
) -> None:
    worker = Worker(registry)
    assert worker.registration.redis_up_seconds == 0
    async with worker.here():
        await until(lambda: worker.registration.redis_up_seconds > 0)
        await asyncio.to_thread(valkey.stop)
        worker.registration.refresh()
        await until(lambda: worker.registration.redis_up_seconds == 0)
        assert "does not hear" not in caplog.text  # the outage is told
        await asyncio.to_thread(valkey.start)
        await until(lambda: worker.registration.redis_up_seconds > 0)

        async def ready() -> bool:
            try:
                return await registry.ready("m") == 1
            except RedisError:
                return False

        await until(ready)
