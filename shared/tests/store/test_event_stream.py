"""Both ends of a task's stream, on a real Valkey."""

import pytest
from redis.asyncio import Redis

from shared.store.event_stream import Announcement, EntryId, EntryLost, EventStream, TokenWriter
from shared.store.keys import Keys
from shared.store.task_id import new_task_id
from shared.store.task_ledger import TaskLedger
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
