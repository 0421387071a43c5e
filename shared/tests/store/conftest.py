"""The parts of the store, on a real Valkey."""

import pytest
from redis.asyncio import Redis

from shared.store.conversations import Conversations
from shared.store.event_stream import EventStream
from shared.store.keys import Keys
from shared.store.task_ledger import TaskLedger
from shared.store.task_lists import TaskLists
from shared.store.usage import UsageRecords


@pytest.fixture
def ledger(redis: Redis, keys: Keys) -> TaskLedger:
    return TaskLedger(redis, keys, retention_seconds=60, max_failures=3)


@pytest.fixture
def lists(redis: Redis, keys: Keys) -> TaskLists:
    return TaskLists(redis, keys)


@pytest.fixture
def stream(redis: Redis, keys: Keys) -> EventStream:
    return EventStream(redis, keys)


@pytest.fixture
def conversations(redis: Redis, keys: Keys) -> Conversations:
    return Conversations(redis, keys)


@pytest.fixture
def usage(redis: Redis, keys: Keys) -> UsageRecords:
    return UsageRecords(redis, keys)
