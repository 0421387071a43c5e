"""Readers of streams on a real Valkey, without a connection."""

from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from api.hub.event_hub import EventHub
from shared.store.event_stream import EventStream
from shared.store.keys import Keys
from shared.store.task_lists import TaskLists


@pytest.fixture
async def hub(redis: Redis, stream: EventStream) -> AsyncIterator[EventHub]:
    hub = EventHub(redis, stream)
    await hub.start()
    yield hub
    await hub.stop()


@pytest.fixture
def lists(redis: Redis, keys: Keys) -> TaskLists:
    return TaskLists(redis, keys)
