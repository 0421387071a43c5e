"""Both ends of a task's stream, on a real Valkey."""

import dataclasses

import pytest
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from shared.store import event_stream
from shared.store.event_stream import Announcement, EntryId, EntryLost, EventStream, TokenWriter
from shared.store.keys import Keys
from shared.store.redis_client import now_ms
from shared.store.task_id import new_task_id
from shared.store.task_ledger import TaskLedger
from shared.store.task_lists import TaskLists
from testbed.ledger_steps import accept, answer, claim, roll_back, taken, token


async def test_a_repeated_write_is_no_lost_lease(ledger: TaskLedger, stream: EventStream) -> None:
    task_id = await accept(ledger)
    await claim(ledger, task_id)
    writer = TokenWriter(task_id, 1, 0)
    writer.add([1], "a")
    write = writer.take()
    assert write is not None
    assert await stream.write([write]) == [True]
    assert await stream.write([write]) == [True]
    assert [entry.type for entry in await stream.read(task_id)].count("token") == 1


async def test_a_stream_that_redis_lost_is_not_begun_in_the_middle(
    ledger: TaskLedger, stream: EventStream, redis: Redis
) -> None:
    task_id = await accept(ledger)
    await claim(ledger, task_id)
    writer = TokenWriter(task_id, 1, 0)
    writer.add([1], "a")
    await redis.flushall()
    assert await stream.write(taken(writer)) == [False]
    assert await stream.read(task_id) == []


async def test_something_else_under_a_streams_name_is_its_tasks_loss_alone(
    ledger: TaskLedger, stream: EventStream, redis: Redis, keys: Keys
) -> None:
    writers = []
    for _ in range(3):
        task_id = await accept(ledger)
        await claim(ledger, task_id)
        writers.append(TokenWriter(task_id, 1, 0))
    sick = writers[1].task_id
    await redis.set(keys.events(sick), "somebody else's")
    writes = []
    for writer in writers:
        writer.add([1], "a")
        writes += taken(writer)
    assert await stream.write(writes) == [True, False, True]
    tops = await stream.tops([writer.task_id for writer in writers])
    assert tops == [EntryId(1, 1), EntryId(0, 0), EntryId(1, 1)]
    await ledger.tell_lost(sick, 1, "1-1")
    *_, error, _, end = await stream.read(sick)
    assert b'"data_lost"' in error.data
    assert end.type == "end"
    record = await ledger.get(sick)
    assert record is not None
    assert record.wire_state == "FAILURE"


@pytest.mark.parametrize("at_once", [1, 2, 3])
async def test_an_entry_that_redis_refuses_for_what_it_is_leaves_the_others_alone(
    ledger: TaskLedger, stream: EventStream, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr(event_stream, "AT_ONCE", at_once)
    writes = []
    for at in range(3):
        task_id = await accept(ledger)
        await claim(ledger, task_id)
        writer = TokenWriter(task_id, 1, 0)
        writer.add([at], "a")
        writes += taken(writer)
    impossible = EntryId(1, 2**64)
    writes[1] = dataclasses.replace(writes[1], entry=dataclasses.replace(writes[1].entry, id=impossible))
    first, refused, last = await stream.write(writes)
    assert (first, last) == (True, True)
    assert isinstance(refused, ResponseError)
    assert "stream ID" in str(refused)
    tops = await stream.tops([write.task_id for write in writes])
    assert tops == [EntryId(1, 1), EntryId(1, 0), EntryId(1, 1)]


async def test_something_else_under_a_records_name_is_its_tasks_loss_alone(
    ledger: TaskLedger, lists: TaskLists, redis: Redis, keys: Keys
) -> None:
    sick, well = [await accept(ledger, timeout_seconds=1) for _ in range(2)]
    for task_id in (sick, well):
        await claim(ledger, task_id)
    await redis.set(keys.task(sick), "somebody else's")
    assert await ledger.heartbeat([(sick, 1), (well, 1)], lease_seconds=1) == ["lost", "ok"]
    assert await ledger.get(sick) is None
    past_their_deadlines = await now_ms(redis) + 1000
    assert set(await lists.overdue(past_their_deadlines, running_grace_seconds=0)) == {sick, well}
    assert await lists.resend([sick, well], model="m") == []


async def test_a_reader_ahead_of_the_stream_is_told(
    ledger: TaskLedger, stream: EventStream, redis: Redis, keys: Keys
) -> None:
    task_id = await accept(ledger)
    await claim(ledger, task_id)
    writer = TokenWriter(task_id, 1, 0)
    for _ in range(3):
        await stream.write(token(writer))
    assert [entry.id for entry in await stream.read_on(task_id, EntryId(1, 1), 9)] == [(1, 2), (1, 3)]
    assert len(await stream.read_on(task_id, EntryId(1, 1), 1)) == 1
    assert await stream.read_on(task_id, EntryId(1, 3), 9) == []
    await roll_back(redis, keys, task_id, "1-3")
    with pytest.raises(EntryLost):
        await stream.read_on(task_id, EntryId(1, 3), 9)
    await ledger.requeue(task_id, 1, "handover")
    with pytest.raises(EntryLost):
        await stream.read_on(task_id, EntryId(1, 3), 9)


async def test_every_entry_rings_the_doorbell_with_the_id_before_it(
    ledger: TaskLedger, stream: EventStream, redis: Redis
) -> None:
    task_id = new_task_id()
    async with redis.pubsub() as pubsub:
        await pubsub.subscribe(stream.channel(task_id))
        await pubsub.get_message(timeout=5)
        await accept(ledger, task_id)
        await claim(ledger, task_id)
        writer = TokenWriter(task_id, 1, 0)
        writer.add([1], "")  # no text yet: in the stream, but nobody is told
        await stream.write(taken(writer))
        writer.add([2], "ab")
        await stream.write(taken(writer))
        await ledger.end(task_id, 1, "SUCCESS", answer(task_id))
        rung: list[Announcement] = []
        while not rung or rung[-1].type != b"end":
            message = await pubsub.get_message(timeout=5)
            assert message is not None
            rung.append(Announcement.parse(message["data"]))
    shown = [entry for entry in await stream.read(task_id) if entry.data]
    assert [EntryId.parse(one.id.decode()) for one in rung] == [entry.id for entry in shown]
    assert [one.data for one in rung] == [entry.data for entry in shown]
    cursor = EntryId(0, 0)
    for one in rung:
        previous, entry_id = EntryId.parse(one.previous.decode()), EntryId.parse(one.id.decode())
        assert previous <= cursor < entry_id  # a reader that heard all needs no second look
        cursor = entry_id
