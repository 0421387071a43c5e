"""Following streams on a real Valkey."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis.asyncio import Redis

from api.hub.event_hub import EventHub
from api.hub.frame import Frame
from api.hub.subscription import BUFFER_BYTES, Subscription
from shared.store.event_stream import CLOSED, START, EntryId, EventStream
from shared.store.keys import Keys
from testbed.fake_worker import FakeWorker
from testbed.valkey import Valkey
from testbed.waiting import until


@pytest.fixture
async def hub(redis: Redis, stream: EventStream) -> AsyncIterator[EventHub]:
    hub = EventHub(redis, stream)
    await hub.start()
    yield hub
    await hub.stop()


class Reading:
    """A reader that collects what it gets."""

    def __init__(self, hub: EventHub, task_id: str, after: EntryId = START) -> None:
        self.subscription = hub.follow(task_id, after)
        self.frames: list[Frame] = []
        self._grown = asyncio.Condition()
        self.task = asyncio.create_task(self._read())

    async def _read(self) -> None:
        async for frames in self.subscription:
            async with self._grown:
                self.frames += frames
                self._grown.notify_all()

    async def until(self, count: int, seconds: float = 5) -> None:
        async with asyncio.timeout(seconds), self._grown:
            await self._grown.wait_for(lambda: len(self.frames) >= count)

    async def ended(self, seconds: float = 5) -> None:
        await asyncio.wait_for(self.task, seconds)

    @property
    def types(self) -> list[str]:
        return [frame.type.decode() for frame in self.frames]

    @property
    def text(self) -> str:
        return "".join(event["text"] for event in self.events if event["type"] == "token")

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(frame.data) for frame in self.frames]


async def test_a_reader_gets_every_event_in_order_and_stops_after_end(hub: EventHub, worker: FakeWorker) -> None:
    task_id = await worker.accept()
    reading = Reading(hub, task_id)
    await worker.claim(task_id)
    await worker.say(task_id, "a", "b", "c")
    await worker.end(task_id)
    await reading.ended()
    assert reading.types == ["status", "status", "token", "token", "token", "final_text", "status", "end"]
    assert [frame.id.decode() for frame in reading.frames][:5] == ["0-1", "1-0", "1-1", "1-2", "1-3"]
    assert reading.frames[2].wire == b"id: 1-1\nevent: token\ndata: %b\n\n" % reading.frames[2].data


async def test_a_cursor_in_the_middle_gives_exactly_the_rest(hub: EventHub, worker: FakeWorker) -> None:
    task_id = await worker.begin()
    await worker.say(task_id, *"abcdef")
    reading = Reading(hub, task_id, EntryId(1, 4))
    await reading.until(2)
    await worker.say(task_id, "g")
    await worker.end(task_id)
    await reading.ended()
    assert reading.text == "efg"
    assert reading.frames[0].id == b"1-5"


async def test_more_than_a_page_is_replayed_unmerged(hub: EventHub, worker: FakeWorker) -> None:
    task_id = await worker.begin()
    await worker.say(task_id, *(str(number) for number in range(700)))
    reading = Reading(hub, task_id)
    await worker.end(task_id)
    await reading.ended()
    assert reading.types.count("token") == 700


async def test_tokens_without_text_are_not_shown_and_do_not_hold_up_what_follows(
    hub: EventHub, worker: FakeWorker
) -> None:
    task_id = await worker.begin()
    reading = Reading(hub, task_id)
    await reading.until(2)
    await worker.say(task_id, "a", "", "", "b", "")
    await worker.end(task_id)
    await reading.ended()
    assert reading.types == ["status", "status", "token", "token", "final_text", "status", "end"]
    assert [event["index"] for event in reading.events if event["type"] == "token"] == [1, 4]


async def test_an_event_is_framed_once_for_all_its_readers(hub: EventHub, worker: FakeWorker) -> None:
    task_id = await worker.begin()
    first, second = Reading(hub, task_id), Reading(hub, task_id)
    await first.until(2)
    await second.until(2)
    await worker.say(task_id, "a")
    await first.until(3)
    await second.until(3)
    assert first.frames[2] is second.frames[2]


async def test_what_is_announced_while_the_connection_is_cut_arrives_soon(
    hub: EventHub, worker: FakeWorker, redis: Redis
) -> None:
    task_id = await worker.begin()
    reading = Reading(hub, task_id)
    await reading.until(2)
    for _ in range(5):
        await redis.client_kill_filter(_type="pubsub")
        await worker.say(task_id, "a", "b")
    await reading.until(12, seconds=2.5)
    await worker.end(task_id)
    await reading.ended(2.5)
    assert reading.text == "ab" * 5


async def test_an_entry_that_was_not_announced_is_fetched_before_the_next_is_shown(
    hub: EventHub, worker: FakeWorker, redis: Redis, keys: Keys
) -> None:
    task_id = await worker.begin()
    reading = Reading(hub, task_id)
    await worker.say(task_id, "a")
    await reading.until(3)
    data = json.dumps({"type": "token", "taskId": task_id, "text": "b", "index": 2})
    await redis.xadd(keys.events(task_id), {"t": "token", "d": data}, id="1-2")
    await worker.end(task_id)
    await reading.ended(0.9)
    assert reading.text == "ab"


async def test_an_end_that_was_not_announced_is_found_within_seconds(
    hub: EventHub, worker: FakeWorker, redis: Redis, keys: Keys
) -> None:
    task_id = await worker.begin()
    reading = Reading(hub, task_id)
    await reading.until(2)
    await asyncio.sleep(1.5)  # the first look at the silent stream is over
    await redis.xadd(keys.events(task_id), {"t": "end", "d": "{}"}, id=f"1-{CLOSED + 3}")
    await reading.ended(2.5)
    assert reading.types[-1] == "end"


async def test_a_slow_reader_costs_a_bounded_buffer_and_gets_merged_tokens(hub: EventHub, worker: FakeWorker) -> None:
    task_id = await worker.begin()
    slow = hub.follow(task_id)
    batches = aiter(slow)
    received = await asyncio.wait_for(anext(batches), 5)
    words = [f"w{number} " for number in range(1500)]
    fast = Reading(hub, task_id)
    await worker.say(task_id, *words)
    await worker.end(task_id)
    await fast.ended(10)
    assert buffered(slow) <= BUFFER_BYTES
    async with asyncio.timeout(10):
        async for frames in batches:
            received += frames
    tokens = [json.loads(frame.data) for frame in received if frame.type == b"token"]
    assert "".join(token["text"] for token in tokens) == "".join(words) == fast.text
    assert len(tokens) < 20
    assert tokens[-1]["index"] == 1500
    ids = [EntryId.parse(frame.id.decode()) for frame in received]
    assert ids == sorted(set(ids))
    assert [frame.type for frame in received[-3:]] == [b"final_text", b"status", b"end"]


def buffered(subscription: Subscription) -> int:
    return sum(len(frame.wire) for frame in subscription._frames)


async def test_an_event_larger_than_the_buffer_is_delivered_like_any_other(hub: EventHub, worker: FakeWorker) -> None:
    task_id = await worker.begin()
    reading = Reading(hub, task_id)
    await reading.until(2)
    await worker.say(task_id, "x" * 2 * BUFFER_BYTES)
    await reading.until(3, seconds=0.9)
    await worker.say(task_id, *("y" * 2 * BUFFER_BYTES for _ in range(5)))
    await worker.end(task_id)
    await reading.ended()
    assert len(reading.text) == 12 * BUFFER_BYTES


async def test_attempts_are_not_merged_into_each_other(hub: EventHub, worker: FakeWorker, redis: Redis) -> None:
    task_id = await worker.begin()
    slow = hub.follow(task_id)
    batches = aiter(slow)
    await asyncio.wait_for(anext(batches), 5)
    await worker.say(task_id, *("x" * 100 for _ in range(400)))
    assert (await worker.ledger.requeue(task_id, 1, "handover")).outcome == "requeued"
    await worker.claim(task_id)
    await worker.say(task_id, *("y" * 100 for _ in range(100)))
    await worker.end(task_id)
    received = []
    async with asyncio.timeout(10):
        async for frames in batches:
            received += frames
    texts = [json.loads(frame.data)["text"] for frame in received if frame.type == b"token"]
    assert "".join(texts) == "x" * 40_000 + "y" * 10_000
    assert all(len(set(text)) == 1 for text in texts)


async def test_lost_data_ends_in_an_error_and_never_in_silence(hub: EventHub, worker: FakeWorker, redis: Redis) -> None:
    task_id = await worker.begin()
    reading = Reading(hub, task_id)
    await worker.say(task_id, "a")
    await reading.until(3)
    await redis.flushall()
    await reading.ended(5)
    assert reading.types[-2:] == ["error", "end"]
    assert reading.events[-2]["code"] == "data_lost"
    assert reading.events[-1]["state"] == "FAILURE"


async def test_a_reader_of_lost_tokens_is_told_before_it_gets_them_again(
    hub: EventHub, worker: FakeWorker, redis: Redis, stream: EventStream
) -> None:
    task_id = await worker.begin()
    reading = Reading(hub, task_id)
    await worker.say(task_id, "a", "b", "c")
    await reading.until(5)
    await redis.xdel(stream.channel(task_id), "1-2", "1-3")
    await worker.ledger.requeue(task_id, 1, "handover")
    await worker.claim(task_id)
    await worker.say(task_id, "b")
    await reading.ended(5)
    assert reading.types[-4:] == ["token", "token", "error", "end"]
    assert reading.events[-2]["code"] == "data_lost"


async def test_a_restart_of_redis_is_a_pause_and_no_more(hub: EventHub, worker: FakeWorker, valkey: Valkey) -> None:
    task_id = await worker.begin()
    reading = Reading(hub, task_id)
    await worker.say(task_id, "a", "b")
    await reading.until(4)
    await asyncio.to_thread(valkey.stop)
    await asyncio.sleep(0.5)  # the outage itself
    late = Reading(hub, task_id)  # a reader that comes while nobody can tell it anything
    await asyncio.to_thread(valkey.start)
    await worker.say(task_id, "c")
    await worker.end(task_id)
    await reading.ended()
    await late.ended()
    assert reading.text == late.text == "abc"


async def test_two_hundred_readers_that_came_and_went_leave_nothing_behind(
    hub: EventHub, worker: FakeWorker, redis: Redis
) -> None:
    task_ids = [await worker.begin() for _ in range(50)]
    before = asyncio.all_tasks()
    readings = [Reading(hub, task_id) for task_id in task_ids for _ in range(4)]
    await asyncio.gather(*(reading.until(2) for reading in readings))
    for reading in readings[::2]:
        reading.task.cancel()
    for reading in readings[1::2]:
        reading.subscription.close()
    await asyncio.wait([reading.task for reading in readings], timeout=5)

    async def nobody_listens() -> bool:
        return not await redis.pubsub_channels()

    await until(nobody_listens, 5)
    assert asyncio.all_tasks() == before


async def test_a_channel_left_and_joined_at_once_is_still_heard(hub: EventHub, worker: FakeWorker) -> None:
    task_id = await worker.begin()
    for _ in range(20):
        reading = Reading(hub, task_id)
        await asyncio.sleep(0)
        reading.subscription.close()
        await reading.ended()
    reading = Reading(hub, task_id)
    await reading.until(2)
    await worker.say(task_id, "a")
    await worker.end(task_id)
    await reading.ended()
    assert reading.text == "a"
