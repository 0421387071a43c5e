"""What starts, looks up and cancels tasks, without a door."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from celery import Celery
from redis.asyncio import Redis

from api.admission import Admission
from api.metrics import Metrics, make_metrics
from api.models import Models
from api.publisher import Publisher
from api.settings import Settings
from api.tasks.messages import Messages
from api.tasks.new_task import NewTasks
from shared.celery_app import make_celery
from shared.store.conversations import Conversations
from shared.store.keys import Keys
from shared.store.task_ledger import TaskLedger
from shared.store.task_lists import TaskLists
from shared.store.worker_registry import WorkerRegistry
from testbed.fake_worker import DEFAULT_MODEL

MakeNewTasks = Callable[..., NewTasks]


@pytest.fixture
def metrics() -> Metrics:
    return make_metrics([DEFAULT_MODEL])


@pytest.fixture
def celery(settings: Settings) -> Celery:
    return make_celery(settings)


@pytest.fixture
async def publisher(celery: Celery, metrics: Metrics) -> AsyncIterator[Publisher]:
    publisher = Publisher(celery, timeout=10, failures=metrics.publish_failures)
    yield publisher
    publisher.close()


@pytest.fixture
def lists(redis: Redis, keys: Keys) -> TaskLists:
    return TaskLists(redis, keys)


@pytest.fixture
def make_new_tasks(
    redis: Redis,
    keys: Keys,
    ledger: TaskLedger,
    lists: TaskLists,
    registry: WorkerRegistry,
    publisher: Publisher,
    metrics: Metrics,
    settings: Settings,
) -> MakeNewTasks:
    """`make_new_tasks(max_waiting=0)`: with these settings."""

    def make(**changes: Any) -> NewTasks:
        changed = settings.model_copy(update=changes)
        return NewTasks(
            changed,
            models=Models(changed.models, None, lists=lists, registry=registry, redis_timeout=changed.redis_timeout),
            admission=Admission(changed, redis, lists, registry),
            conversations=Conversations(redis, keys),
            ledger=ledger,
            registry=registry,
            messages=Messages(redis, keys, publisher),
            metrics=metrics,
        )

    return make


@pytest.fixture
def new_tasks(make_new_tasks: MakeNewTasks) -> NewTasks:
    return make_new_tasks()
