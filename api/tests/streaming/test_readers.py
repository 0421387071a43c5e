"""All readers of a process, looked after together."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager

import pytest
from redis.asyncio import Redis

from api.errors import StreamTooOld, TooManyStreams, Unauthorized
from api.hub.event_hub import EventHub
from api.hub.frame import COMMENT, Frame
from api.hub.reader_marks import ReaderMarks
from api.metrics import Metrics, make_metrics
from api.models import Models
from api.streaming import readers as module
from api.streaming.open_streams import OpenStreams
from api.streaming.positions import Positions
from api.streaming.reader import Reader
from api.streaming.readers import Readers
from api.tenants.caller import Caller, Policy
from shared.cancellation import cancel_and_wait
from shared.store.keys import Keys
from shared.store.limits import Limits
from shared.store.task_lists import TaskLists
from testbed.fake_worker import DEFAULT_MODEL, FakeWorker
from testbed.waiting import until


@pytest.fixture
def metrics() -> Metrics:
    return make_metrics()


@pytest.fixture
def shutdown() -> asyncio.Event:
    return asyncio.Event()


ME = Caller("me", "k")
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
    started: list[Readers] = []
    running: list[asyncio.Task[None]] = []

    def start(
        *,
        comment_seconds: float = 600,
        send_timeout: float = 600,
        most_seconds: float = 0,
        most: int = 1000,
        holds: Callable[[Caller], bool] = lambda _: True,
    ) -> Readers:
        readers = Readers(
            hub,
            ReaderMarks(redis, keys, window_seconds=600),
            Positions(lists, models),
            comment_seconds=comment_seconds,
            send_timeout=send_timeout,
            most_seconds=most_seconds,
            shutdown=shutdown,
            streams=OpenStreams(most=most, refused=metrics.streams_refused),
            holds=holds,
            metrics=metrics,
        )
        started.append(readers)
        running.append(asyncio.create_task(readers.run()))
        return readers

    yield start
    await cancel_and_wait(*running)
    for readers in started:
        await readers.left()


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
    async with readers.following(goes, task_id=task_id, model=DEFAULT_MODEL, required=False, caller=ME) as reader:
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
    async with readers.following(stays, task_id=task_id, model=DEFAULT_MODEL, required=False, caller=ME) as reader:
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
        async with readers.following(stays, task_id=task_id, model=DEFAULT_MODEL, required=False, caller=ME) as reader:
            reader.sending()
            await asyncio.Event().wait()
    assert reader.cut
    assert metrics.registry.get_sample_value("headrace_slow_readers_total", {"outcome": "cut"}) == 1


async def test_a_cancellation_that_is_no_cut_goes_through(start: Start, worker: FakeWorker) -> None:
    readers, joined = start(), asyncio.Event()
    task_id = await worker.begin()

    async def serve() -> None:
        async with readers.following(stays, task_id=task_id, model=DEFAULT_MODEL, required=False, caller=ME):
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
    async with readers.following(stays, task_id=task_id, model=DEFAULT_MODEL, required=False, caller=ME) as reader:
        batches = aiter(reader.subscription)
        await anext(batches)
        shutdown.set()
        assert (await rest(batches)).startswith(b"retry: ")
        assert not reader.gone
    async with readers.following(stays, task_id=task_id, model=DEFAULT_MODEL, required=False, caller=ME) as late:
        assert b"retry: " in await rest(aiter(late.subscription))


async def test_a_stream_that_can_be_resumed_is_closed_when_it_is_old_and_others_go_on(
    start: Start, worker: FakeWorker, metrics: Metrics
) -> None:
    readers = start(most_seconds=0.1)
    task_id = await worker.begin()
    async with readers.following(stays, task_id=task_id, model=DEFAULT_MODEL, required=True, caller=ME) as whole:
        async with readers.following(
            stays, task_id=task_id, model=DEFAULT_MODEL, required=False, caller=ME, resumable=True
        ) as reader:
            assert b"retry: " in await rest(aiter(reader.subscription))
            assert isinstance(reader.dismissed, StreamTooOld)
        assert whole.dismissed is None
    assert metrics.registry.get_sample_value("headrace_streams_dismissed_total", {"reason": "age"}) == 1


async def test_streams_of_a_key_that_is_no_more_are_closed(start: Start, worker: FakeWorker, metrics: Metrics) -> None:
    held = {"k"}
    readers = start(holds=lambda caller: caller.key_id in held)
    task_id = await worker.begin()
    async with readers.following(stays, task_id=task_id, model=DEFAULT_MODEL, required=True, caller=ME) as reader:
        batches = aiter(reader.subscription)
        await anext(batches)
        held.clear()
        assert await rest(batches) == b""
        assert isinstance(reader.dismissed, Unauthorized)
    assert metrics.registry.get_sample_value("headrace_streams_dismissed_total", {"reason": "key"}) == 1


async def test_a_key_has_so_many_streams_as_it_may_and_no_more(
    start: Start, worker: FakeWorker, metrics: Metrics
) -> None:
    readers = start(most=2)
    task_id = await worker.begin()

    def follow(caller: Caller) -> AbstractAsyncContextManager[Reader]:
        return readers.following(stays, task_id=task_id, model=DEFAULT_MODEL, required=True, caller=caller)

    one = Caller("me", "one", Policy(limits=Limits(open_streams=1)))
    async with follow(ME), follow(one):
        async with follow(ME):
            for caller in (ME, one):
                with pytest.raises(TooManyStreams):
                    readers.check(caller)
                with pytest.raises(TooManyStreams):
                    async with follow(caller):
                        pass
            async with follow(Caller("another", "k")):
                pass
        async with follow(ME):
            pass
    assert metrics.registry.get_sample_value("headrace_streams_refused_total") == 4
    assert metrics.registry.get_sample_value("headrace_open_streams") == 0


async def test_a_task_whose_only_reader_is_refused_counts_as_left(
    start: Start, worker: FakeWorker, redis: Redis, keys: Keys
) -> None:
    readers, task_id = start(most=0), await worker.begin()
    with pytest.raises(TooManyStreams):
        async with readers.following(stays, task_id=task_id, model=DEFAULT_MODEL, required=True, caller=ME):
            pass

    async def left() -> bool:
        return bool(await redis.zrange(keys.readers, 0, -1) == [task_id.encode()])

    await until(left, 5, "the task is marked")


async def test_a_task_that_needs_a_reader_is_marked_and_forgotten_at_its_end(
    start: Start, worker: FakeWorker, redis: Redis, keys: Keys
) -> None:
    readers = start()
    task_id, unmarked = await worker.begin(), await worker.begin()
    async with (
        readers.following(stays, task_id=task_id, model=DEFAULT_MODEL, required=True, caller=ME) as reader,
        readers.following(stays, task_id=unmarked, model=DEFAULT_MODEL, required=False, caller=ME),
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
    async with readers.following(stays, task_id=task_id, model=DEFAULT_MODEL, required=True, caller=ME):
        marked = await redis.zscore(keys.readers, task_id)

    async def shortened() -> bool:
        left = await redis.zscore(keys.readers, task_id)
        return left is not None and marked is not None and left < marked

    await until(shortened)


async def test_a_process_that_ends_waits_until_readers_that_left_are_marked(
    start: Start, worker: FakeWorker, redis: Redis, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    readers, answers = start(), asyncio.Event()
    task_id = await worker.begin()
    mark_left = ReaderMarks.left

    async def slowly(marks: ReaderMarks, task_id: str) -> None:
        await answers.wait()
        await mark_left(marks, task_id)

    monkeypatch.setattr(ReaderMarks, "left", slowly)
    async with readers.following(stays, task_id=task_id, model=DEFAULT_MODEL, required=True, caller=ME):
        marked = await redis.zscore(keys.readers, task_id)
    ending = asyncio.create_task(readers.left())
    assert not (await asyncio.wait([ending], timeout=0.05))[0]
    answers.set()
    await ending
    left = await redis.zscore(keys.readers, task_id)
    assert marked is not None
    assert left is not None
    assert left < marked
