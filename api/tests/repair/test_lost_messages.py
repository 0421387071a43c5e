"""Waiting tasks whose message is nowhere."""

import pytest
from redis.asyncio import Redis

from api.publisher import Publisher
from api.repair import lost_messages as module
from api.repair.lost_messages import LostMessages
from shared.store.keys import Keys
from shared.store.task_ledger import TaskLedger
from shared.store.task_lists import TaskLists
from testbed.fake_worker import DEFAULT_MODEL, FakeWorker
from testbed.waiting import until


@pytest.fixture
def lost_messages(redis: Redis, keys: Keys, lists: TaskLists) -> LostMessages:
    return LostMessages(redis, keys, lists, resend_seconds=0)


async def test_a_message_that_is_in_no_queue_is_found_with_the_class_that_it_had(
    lost_messages: LostMessages, worker: FakeWorker, ledger: TaskLedger
) -> None:
    never_sent = await worker.accept()
    started_before = await worker.begin()
    await ledger.requeue(started_before, 1, "handover")
    found = await lost_messages.find(DEFAULT_MODEL)
    assert {(message.task_id, message.queue_class) for message in found} == {
        (never_sent, "normal"),
        (started_before, "handover"),
    }


async def test_a_message_in_a_queue_is_not_lost(
    lost_messages: LostMessages, worker: FakeWorker, publisher: Publisher
) -> None:
    await publisher.send(await worker.accept(), DEFAULT_MODEL, "low", {})
    assert await lost_messages.find(DEFAULT_MODEL) == []


async def test_any_message_takes_the_task_that_is_next_so_that_only_their_number_counts(
    lost_messages: LostMessages, worker: FakeWorker, publisher: Publisher
) -> None:
    ended, first, _ = [await worker.accept() for _ in range(3)]
    await publisher.send(ended, DEFAULT_MODEL, "normal", {})
    await worker.end(ended, "REVOKED")  # its message is still in the queue, and will take one of the others
    assert [message.task_id for message in await lost_messages.find(DEFAULT_MODEL)] == [first]


async def test_more_messages_than_one_round_trip_asks_for_are_all_found(
    lost_messages: LostMessages, worker: FakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CHUNK", 2)
    task_ids = [await worker.accept() for _ in range(5)]
    assert {message.task_id for message in await lost_messages.find(DEFAULT_MODEL)} == set(task_ids)


async def test_what_was_sent_lately_is_given_its_time(
    redis: Redis, keys: Keys, lists: TaskLists, worker: FakeWorker
) -> None:
    lost_messages = LostMessages(redis, keys, lists, resend_seconds=0.3)
    task_id = await worker.accept()
    assert await lost_messages.find(DEFAULT_MODEL) == []

    async def found() -> list[str]:
        return [message.task_id for message in await lost_messages.find(DEFAULT_MODEL)]

    assert await until(found) == [task_id]
    assert await found() == []  # the ledger has noted that it is sent
