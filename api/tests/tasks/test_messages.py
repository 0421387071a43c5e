"""Where the message of an accepted task goes, on a real Valkey."""

import json

import pytest
from redis.asyncio import Redis

from api.publisher import Publisher
from api.tasks.messages import Messages
from shared.celery_app import own_queue_for, queue_for
from shared.store.keys import Keys
from shared.store.task_record import Acceptance
from testbed.fake_worker import DEFAULT_MODEL, FakeWorker


class Queues:
    """Of the default model and its worker `w1`."""

    def __init__(self, redis: Redis, keys: Keys) -> None:
        self._redis = redis
        self.all = keys.prefix + queue_for(DEFAULT_MODEL, "normal")
        self.own = keys.prefix + own_queue_for(DEFAULT_MODEL, "w1")

    async def messages(self, queue: str) -> list[str]:
        return [json.loads(message)["headers"]["id"] for message in await self._redis.lrange(queue, 0, -1)]


@pytest.fixture
def queues(redis: Redis, keys: Keys) -> Queues:
    return Queues(redis, keys)


@pytest.fixture
def messages(redis: Redis, keys: Keys, publisher: Publisher) -> Messages:
    return Messages(redis, keys, publisher)


async def test_a_task_that_is_warm_nowhere_has_one_message(
    messages: Messages, queues: Queues, worker: FakeWorker
) -> None:
    messages.follow(Acceptance(await worker.accept(), DEFAULT_MODEL, new=True), "normal", {})
    await messages.sent()
    assert await queues.messages(queues.all) == []


async def test_one_that_its_worker_takes_has_no_other_message(
    messages: Messages, queues: Queues, worker: FakeWorker, redis: Redis
) -> None:
    task_id = await worker.accept()
    await redis.lpush(queues.own, messages.write(task_id, DEFAULT_MODEL, "normal", {}).text)
    messages.follow(Acceptance(task_id, DEFAULT_MODEL, new=True, home="w1"), "normal", {})
    assert await queues.messages(queues.own) == [task_id]
    await worker.claim(task_id)
    await messages.sent()
    assert await queues.messages(queues.all) == []
    assert await redis.pttl(queues.own) > 0, "the queue of a worker that dies would stay for ever"


async def test_one_that_its_worker_does_not_take_is_soon_for_whoever_is_free(
    messages: Messages, queues: Queues, worker: FakeWorker
) -> None:
    task_id = await worker.accept()
    messages.follow(Acceptance(task_id, DEFAULT_MODEL, new=True, home="w1"), "normal", {})
    await messages.sent()
    assert await queues.messages(queues.all) == [task_id]
