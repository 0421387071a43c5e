"""One reader's way through one stream, over a stream that is a list."""

import json
from collections.abc import AsyncIterator

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from api.hub import subscription as module
from api.hub.frame import Frame, framed
from api.hub.subscription import BUFFER_BYTES, PAGE, Subscription
from shared.store.event_stream import START, Entry, EntryId, EntryLost


class Stream:
    """What Redis has, and what the subscription did with it."""

    def __init__(self, after: EntryId = START) -> None:
        self.entries: list[Entry] = []
        self.reads: list[EntryId] = []
        self.lost = False
        self.away = 0
        self.left = 0
        self.slow = 0
        self.subscription = Subscription(
            "t", after, ready=self._ready, read=self._read, leave=self._leave, on_slow=self._on_slow
        )
        self.batches: AsyncIterator[list[Frame]] = aiter(self.subscription)

    async def _ready(self) -> None:
        return

    async def _read(self, task_id: str, after: EntryId, count: int) -> list[Entry]:
        self.reads.append(after)
        if self.away:
            self.away -= 1
            raise RedisConnectionError
        if self.lost:
            raise EntryLost
        return [entry for entry in self.entries if entry.id > after][:count]

    def _leave(self, subscription: Subscription) -> None:
        self.left += 1

    def _on_slow(self) -> None:
        self.slow += 1

    def write(self, text: str = "x", kind: str = "token") -> tuple[bytes, Frame]:
        """Writes an entry and returns its announcement."""
        index = len(self.entries) + 1
        data = json.dumps({"type": kind, "taskId": "t", "text": text, "index": index}).encode()
        previous = self.entries[-1].id if self.entries else START
        self.entries.append(Entry(EntryId(1, index), kind, data))
        return str(previous).encode(), framed(str(self.entries[-1].id).encode(), kind.encode(), data)

    async def next_ids(self) -> list[str]:
        return [frame.id.decode() for frame in await anext(self.batches)]


@pytest.fixture
def stream() -> Stream:
    return Stream()


async def test_it_begins_with_what_the_stream_has_and_goes_on_with_announcements(stream: Stream) -> None:
    stream.write()
    assert await stream.next_ids() == ["1-1"]
    assert not stream.subscription.behind
    stream.subscription.offer(*stream.write())
    stream.subscription.offer(*stream.write())
    assert await stream.next_ids() == ["1-2", "1-3"]
    assert stream.subscription.position == EntryId(1, 3)
    assert stream.reads == [START]


async def test_it_begins_behind_the_given_entry() -> None:
    stream = Stream(EntryId(1, 2))
    for _ in range(3):
        stream.write()
    assert await stream.next_ids() == ["1-3"]


async def test_what_was_read_already_is_not_taken_again(stream: Stream) -> None:
    announced = stream.write()
    assert await stream.next_ids() == ["1-1"]
    stream.subscription.offer(*announced)
    stream.subscription.offer(*stream.write())
    assert await stream.next_ids() == ["1-2"]
    assert stream.reads == [START]


async def test_a_gap_is_filled_from_the_stream(stream: Stream) -> None:
    stream.write()
    await stream.next_ids()
    stream.write()  # announced to nobody
    stream.subscription.offer(*stream.write())
    assert await stream.next_ids() == ["1-2", "1-3"]
    assert stream.reads == [START, EntryId(1, 1)]


async def test_a_long_stream_is_read_page_by_page(stream: Stream) -> None:
    for _ in range(PAGE + 1):
        stream.write()
    assert len(await stream.next_ids()) == PAGE
    assert stream.subscription.behind
    assert await stream.next_ids() == [f"1-{PAGE + 1}"]
    assert not stream.subscription.behind


async def test_a_slow_reader_costs_a_bounded_buffer_and_reads_the_rest_merged(stream: Stream) -> None:
    stream.write()
    await stream.next_ids()
    for _ in range(3):
        stream.subscription.offer(*stream.write("y" * (BUFFER_BYTES // 2)))
    assert stream.slow == 1
    frames = await anext(stream.batches)
    assert [frame.id for frame in frames] == [b"1-4"]
    assert len(json.loads(frames[0].data)["text"]) == 3 * (BUFFER_BYTES // 2)


async def test_a_slow_reader_that_counts_entries_reads_each_of_them(stream: Stream) -> None:
    stream.subscription.whole = True
    stream.write()
    await stream.next_ids()
    for _ in range(3):
        stream.subscription.offer(*stream.write("y" * (BUFFER_BYTES // 2)))
    assert stream.slow == 1
    assert await stream.next_ids() == ["1-2", "1-3", "1-4"]


async def test_what_this_process_alone_says_is_told_from_what_is_stored(stream: Stream) -> None:
    stream.write()
    await stream.next_ids()
    stream.subscription.add(b"status", b"{}")
    stream.subscription.offer(*stream.write())
    assert [frame.stored for frame in await anext(stream.batches)] == [False, True]


async def test_lost_entries_end_it_with_an_error(stream: Stream) -> None:
    stream.write()
    await stream.next_ids()
    stream.lost = True
    stream.subscription.fall_behind()
    frames = await anext(stream.batches)
    assert [frame.type for frame in frames] == [b"error", b"end"]
    assert [frame.id for frame in frames] == [b"1-1", b"1-1"]
    with pytest.raises(StopAsyncIteration):
        await anext(stream.batches)
    assert stream.left == 1


async def test_a_redis_that_is_away_is_asked_again(stream: Stream, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY_SECONDS", 0)
    stream.write()
    stream.away = 2
    assert await stream.next_ids() == ["1-1"]
    assert len(stream.reads) == 3


async def test_it_stops_behind_the_end_and_leaves_once(stream: Stream) -> None:
    stream.write(kind="end")
    assert await stream.next_ids() == ["1-1"]
    with pytest.raises(StopAsyncIteration):
        await anext(stream.batches)
    stream.subscription.close()
    assert stream.left == 1


async def test_closed_it_gives_what_is_ready_and_no_more(stream: Stream) -> None:
    stream.write()
    await stream.next_ids()
    stream.subscription.offer(*stream.write())
    stream.subscription.close()
    assert await stream.next_ids() == ["1-2"]
    with pytest.raises(StopAsyncIteration):
        await anext(stream.batches)


async def test_an_event_of_this_process_stands_under_the_last_id_and_never_between_entries_to_come(
    stream: Stream,
) -> None:
    stream.write()
    assert not stream.subscription.add(b"status", b"{}")
    await stream.next_ids()
    assert stream.subscription.add(b"status", b"{}")
    assert await stream.next_ids() == ["1-1"]
    stream.subscription.close()
    assert not stream.subscription.add(b"status", b"{}")


async def test_bytes_that_are_no_event_go_out_in_their_turn(stream: Stream) -> None:
    stream.write()
    await stream.next_ids()
    stream.subscription.offer(*stream.write())
    stream.subscription.add_wire(b": \n\n")
    frames = await anext(stream.batches)
    assert [(frame.type, frame.wire) for frame in frames][1] == (b"", b": \n\n")
