"""Readers of streams on a real Valkey, without a connection."""

from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from api.hub.event_hub import EventHub
from api.models import Models
from shared.store.event_stream import EventStream
from shared.store.keys import Keys
from shared.store.task_lists import TaskLists
from shared.store.worker_registry import WorkerRegistry
from testbed.fake_worker import DEFAULT_MODEL


@pytest.fixture
async def hub(redis: Redis, stream: EventStream) -> AsyncIterator[EventHub]:
    hub = EventHub(redis, stream)
    await hub.start()
    yield hub
    await hub.stop()


@pytest.fixture
def lists(redis: Redis, keys: Keys) -> TaskLists:
    return TaskLists(redis, keys)


@pytest.fixture
def models(lists: TaskLists, registry: WorkerRegistry) -> Models:
    return Models((DEFAULT_MODEL,), None, lists=lists, registry=registry, redis_timeout=2)
