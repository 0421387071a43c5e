"""All readers of a process, looked after together."""

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest
from redis.asyncio import Redis

from api.hub.event_hub import EventHub
from api.hub.frame import COMMENT, Frame
from api.hub.reader_marks import ReaderMarks
from api.metrics import Metrics, make_metrics
from api.models import Models
from api.streaming import readers as module
from api.streaming.positions import Positions
from api.streaming.readers import Readers
from shared.cancellation import cancel_and_wait
from shared.store.keys import Keys
from shared.store.task_lists import TaskLists
from testbed.fake_worker import DEFAULT_MODEL, FakeWorker
from testbed.waiting import until


@pytest.fixture
def metrics() -> Metrics:
    return make_metrics()


@pytest.fixture
def shutdown() -> asyncio.Event:
    return asyncio.Event()


Start = Callable[..., Readers]


@pytest.fixture
async def start(
    hub: EventHub,
    redis: Redis,
    keys: Keys,
    lists: TaskLists,
    models: Models,
    metrics: Metrics,
    shutdown: asyncio.Event,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[Start]:
    """`start(comment_seconds=…, send_timeout=…)`: readers that are looked after from now on."""
    monkeypatch.setattr(module, "TICK_SECONDS", 0.02)
    running: list[asyncio.Task[None]] = []

    def start(*, comment_seconds: float = 600, send_timeout: float = 600) -> Readers:
        readers = Readers(
            hub,
            ReaderMarks(redis, keys, window_seconds=600),
            Positions(lists, models),
            comment_seconds=comment_seconds,
            send_timeout=send_timeout,
            shutdown=shutdown,
            open_streams=metrics.open_streams,
            cut=metrics.slow_readers.labels("cut"),
        )
        running.append(asyncio.create_task(readers.run()))
        return readers

    yield start
    await cancel_and_wait(*running)


async def stays() -> None:
    """A client that does not go away."""
    await asyncio.Event().wait()


async def rest(batches: AsyncIterator[list[Frame]]) -> bytes:
    async with asyncio.timeout(5):
        return b"".join([frame.wire async for frames in batches for frame in frames])


async def test_a_client_that_goes_away_ends_its_subscription(
    start: Start, worker: FakeWorker, metrics: Metrics
) -> None:
    readers, leaves = start(), asyncio.Event()

    async def goes() -> None:
        await leaves.wait()

    task_id = await worker.accept()
    async with readers.following(goes, task_id=task_id, model=DEFAULT_MODEL, required=False) as reader:
        batches = aiter(reader.subscription)
        await anext(batches)
        assert metrics.registry.get_sample_value("headrace_open_streams") == 1
        leaves.set()
        assert await rest(batches) == b""
        assert reader.gone
        assert not reader.ended
    assert metrics.registry.get_sample_value("headrace_open_streams") == 0


async def test_a_quiet_stream_gets_comments(start: Start, worker: FakeWorker) -> None:
    readers = start(comment_seconds=0.01)
    task_id = await worker.begin()
    async with readers.following(stays, task_id=task_id, model=DEFAULT_MODEL, required=False) as reader:
        batches = aiter(reader.subscription)
        await anext(batches)
        async with asyncio.timeout(5):
            assert (await anext(batches))[0].wire == COMMENT


async def test_a_reader_that_takes_nothing_is_cut_and_what_follows_runs(
    start: Start, worker: FakeWorker, metrics: Metrics
) -> None:
    readers = start(send_timeout=0.01)
    task_id = await worker.begin()
    async with asyncio.timeout(5):
        async with readers.following(stays, task_id=task_id, model=DEFAULT_MODEL, required=False) as reader:
            reader.sending()
            await asyncio.Event().wait()
    assert reader.cut
    assert metrics.registry.get_sample_value("headrace_slow_readers_total", {"outcome": "cut"}) == 1


async def test_a_cancellation_that_is_no_cut_goes_through(start: Start, worker: FakeWorker) -> None:
    readers, joined = start(), asyncio.Event()
    task_id = await worker.begin()

    async def serve() -> None:
        async with readers.following(stays, task_id=task_id, model=DEFAULT_MODEL, required=False):
            joined.set()
            await asyncio.Event().wait()

    serving = asyncio.create_task(serve())
    await joined.wait()
    serving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await serving


async def test_a_process_that_stops_says_when_to_come_back_also_to_who_comes_late(
    start: Start, worker: FakeWorker, shutdown: asyncio.Event
) -> None:
    readers = start()
    task_id = await worker.begin()
    async with readers.following(stays, task_id=task_id, model=DEFAULT_MODEL, required=False) as reader:
        batches = aiter(reader.subscription)
        await anext(batches)
        shutdown.set()
        assert (await rest(batches)).startswith(b"retry: ")
        assert not reader.gone
    async with readers.following(stays, task_id=task_id, model=DEFAULT_MODEL, required=False) as late:
        assert b"retry: " in await rest(aiter(late.subscription))


async def test_a_task_that_needs_a_reader_is_marked_and_forgotten_at_its_end(
    start: Start, worker: FakeWorker, redis: Redis, keys: Keys
) -> None:
    readers = start()
    task_id, unmarked = await worker.begin(), await worker.begin()
    async with (
        readers.following(stays, task_id=task_id, model=DEFAULT_MODEL, required=True) as reader,
        readers.following(stays, task_id=unmarked, model=DEFAULT_MODEL, required=False),
    ):
        assert await redis.zrange(keys.readers, 0, -1) == [task_id.encode()]
        await worker.end(task_id)
        async for frames in reader.subscription:
            reader.note(frames)

    async def forgotten() -> bool:
        return not await redis.exists(keys.readers)

    await until(forgotten)


async def test_a_reader_that_leaves_early_leaves_its_mark_for_the_window(
    start: Start, worker: FakeWorker, redis: Redis, keys: Keys
) -> None:
    readers = start()
    task_id = await worker.begin()
    async with readers.following(stays, task_id=task_id, model=DEFAULT_MODEL, required=True):
        marked = await redis.zscore(keys.readers, task_id)

    async def shortened() -> bool:
        left = await redis.zscore(keys.readers, task_id)
        return left is not None and marked is not None and left < marked

    await until(shortened)
