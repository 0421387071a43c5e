"""Which workers there are, on a real Valkey."""

import pytest
from redis.asyncio import Redis

from shared.store import worker_registry
from shared.store.keys import Keys
from shared.store.worker_registry import WorkerRegistry
from shared.wire.schemas import ModelAbilities, ModelCard
from testbed.waiting import until

CARD = ModelCard(
    name="m", revision="r", context_length=100, max_token_bytes=10, slots=4, abilities=ModelAbilities(tools="prompt")
)


@pytest.fixture
def registry(redis: Redis, keys: Keys) -> WorkerRegistry:
    return WorkerRegistry(redis, keys, lease_seconds=10)


async def test_a_model_that_nobody_ever_served_has_nothing(registry: WorkerRegistry) -> None:
    assert (await registry.ready("m"), await registry.starting("m"), await registry.card("m")) == (0, [], None)


async def test_a_worker_is_starting_then_ready_then_gone(registry: WorkerRegistry) -> None:
    await registry.announce_starting("w1", "m", "loading, 40 %")
    assert (await registry.ready("m"), await registry.starting("m")) == (0, ["loading, 40 %"])
    await registry.announce("w1", CARD)
    await registry.announce("w1", CARD)
    assert (await registry.ready("m"), await registry.starting("m")) == (1, [])
    await registry.announce("w2", CARD)
    assert await registry.ready("m") == 2
    await registry.announce_starting("w2", "m", "restarting the engine")
    assert (await registry.ready("m"), await registry.starting("m")) == (1, ["restarting the engine"])
    await registry.leave("w1", "m")
    await registry.leave("w2", "m")
    assert (await registry.ready("m"), await registry.starting("m")) == (0, [])


async def test_workers_of_one_model_are_not_those_of_another(registry: WorkerRegistry) -> None:
    await registry.announce("w1", CARD)
    await registry.announce_starting("w2", "another", "loading")
    assert (await registry.ready("another"), await registry.starting("m")) == (0, [])


async def test_one_that_is_silent_for_its_lease_is_gone_and_its_models_card_stays(redis: Redis, keys: Keys) -> None:
    registry = WorkerRegistry(redis, keys, lease_seconds=0.2)
    await registry.announce("w1", CARD)

    async def gone() -> bool:
        return await registry.ready("m") == 0

    await until(gone)
    assert await registry.card("m") == CARD
    await registry.announce("w2", CARD)
    assert await redis.zrange(keys.workers("m"), 0, -1) == [b"w2"]


async def test_a_card_is_read_again_after_its_time_and_one_that_is_missing_at_once(
    registry: WorkerRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_registry, "CARD_SECONDS", 600)
    assert await registry.card("m") is None
    await registry.announce("w1", CARD)
    assert await registry.card("m") == CARD
    another = CARD.model_copy(update={"revision": "s"})
    await registry.announce("w2", another)
    assert await registry.card("m") == CARD
    monkeypatch.setattr(worker_registry, "CARD_SECONDS", 0)
    assert await registry.card("m") == another


async def test_one_that_dies_while_it_starts_is_forgotten(redis: Redis, keys: Keys) -> None:
    registry = WorkerRegistry(redis, keys, lease_seconds=0.05)
    await registry.announce_starting("w1", "m", "loading")

    async def forgotten() -> bool:
        return await registry.starting("m") == []

    await until(forgotten)


async def test_the_newest_worker_says_what_its_model_is(registry: WorkerRegistry) -> None:
    await registry.announce("w1", CARD)
    newer = CARD.model_copy(update={"revision": "r2", "context_length": 200})
    await registry.announce("w2", newer)
    assert await registry.card("m") == newer
