"""What a scrape learns from Redis."""

import pytest
from prometheus_client import CollectorRegistry
from redis.asyncio import Redis

from api.snapshot import Snapshot
from shared.store.keys import Keys
from shared.store.task_lists import TaskLists
from shared.store.worker_registry import WorkerRegistry
from shared.wire.schemas import ModelCard
from testbed.fake_worker import DEFAULT_MODEL, FakeWorker
from testbed.valkey import Valkey


@pytest.fixture
def metrics() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def snapshot(redis: Redis, keys: Keys, registry: WorkerRegistry, metrics: CollectorRegistry) -> Snapshot:
    return Snapshot(redis, TaskLists(redis, keys), registry, [DEFAULT_MODEL, "other"], metrics)


async def test_it_tells_each_model_s_work_and_workers_and_how_redis_is(
    snapshot: Snapshot, metrics: CollectorRegistry, worker: FakeWorker, registry: WorkerRegistry, card: ModelCard
) -> None:
    await registry.announce("w1", card)
    await worker.begin()
    await worker.accept()
    await worker.accept()
    await snapshot.take()
    of_model = {"model": DEFAULT_MODEL}
    assert metrics.get_sample_value("headrace_redis_up") == 1
    assert (metrics.get_sample_value("headrace_redis_memory_used_bytes") or 0) > 0
    assert metrics.get_sample_value("headrace_tasks_waiting", of_model) == 2
    assert metrics.get_sample_value("headrace_tasks_running", of_model) == 1
    assert metrics.get_sample_value("headrace_workers_ready", of_model) == 1
    assert metrics.get_sample_value("headrace_tasks_waiting", {"model": "other"}) == 0


async def test_of_a_redis_that_is_away_nothing_else_is_told(
    snapshot: Snapshot, metrics: CollectorRegistry, valkey: Valkey
) -> None:
    await snapshot.take()
    valkey.stop()
    await snapshot.take()
    assert metrics.get_sample_value("headrace_redis_up") == 0
    assert metrics.get_sample_value("headrace_tasks_waiting", {"model": DEFAULT_MODEL}) is None
