"""What the janitor works with, without an application."""

from collections.abc import AsyncIterator

import pytest
from celery import Celery
from redis.asyncio import Redis

from api.metrics import Metrics, make_metrics
from api.publisher import Publisher
from shared.celery_app import make_celery
from shared.settings import SharedSettings
from shared.store.keys import Keys
from shared.store.task_lists import TaskLists
from testbed.fake_worker import DEFAULT_MODEL


@pytest.fixture
def metrics() -> Metrics:
    return make_metrics([DEFAULT_MODEL])


@pytest.fixture
def celery(shared_settings: SharedSettings) -> Celery:
    return make_celery(shared_settings)


@pytest.fixture
async def publisher(celery: Celery, metrics: Metrics) -> AsyncIterator[Publisher]:
    publisher = Publisher(celery, timeout=10, failures=metrics.publish_failures)
    yield publisher
    publisher.close()


@pytest.fixture
def lists(redis: Redis, keys: Keys) -> TaskLists:
    return TaskLists(redis, keys)
