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


class Clock:
    now = 0.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "monotonic", lambda: clock.now)
    return clock


@pytest.fixture
def lost_messages(redis: Redis, keys: Keys, lists: TaskLists) -> LostMessages:
    return LostMessages(redis, keys, lists, missed_seconds=0)


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


async def test_what_is_missing_for_a_while_is_lost_and_what_is_missing_for_a_moment_is_not(
    redis: Redis, keys: Keys, lists: TaskLists, worker: FakeWorker, publisher: Publisher, clock: Clock
) -> None:
    lost_messages = LostMessages(redis, keys, lists, missed_seconds=4)

    async def looks(*at: float) -> list[int]:
        found = []
        for clock.now in at:
            found.append(len(await lost_messages.find(DEFAULT_MODEL)))
        return found

    tasks = [await worker.accept() for _ in range(2)]
    assert await looks(0, 1) == [0, 0]
    tasks.append(await worker.accept())
    assert await looks(2, 3) == [0, 0]
    # The two are lost, whichever tasks the messages on their way were sent for; the third is given its time.
    assert await looks(4) == [2]
    for task_id in tasks[:2]:
        await publisher.send(task_id, DEFAULT_MODEL, "normal", {})
    assert await looks(5, 6) == [0, 1]
    await publisher.send(tasks[2], DEFAULT_MODEL, "normal", {})
    assert await looks(7, 20) == [0, 0]
    await worker.accept()
    assert await looks(21, 24, 25) == [0, 0, 1]


async def test_looks_far_apart_find_it_too(
    redis: Redis, keys: Keys, lists: TaskLists, worker: FakeWorker, clock: Clock
) -> None:
    lost_messages = LostMessages(redis, keys, lists, missed_seconds=4)
    await worker.accept()
    assert await lost_messages.find(DEFAULT_MODEL) == []
    clock.now = 100
    assert len(await lost_messages.find(DEFAULT_MODEL)) == 1
