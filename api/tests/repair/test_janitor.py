"""What the janitor puts right, with no worker alive."""

import asyncio
import json
from collections.abc import Awaitable, Callable

import pytest
from redis.asyncio import Redis
from redis.exceptions import RedisError

from api.hub.reader_marks import ReaderMarks
from api.metrics import Metrics
from api.publisher import Publisher
from api.repair.janitor import Janitor
from api.repair.lost_messages import LostMessages
from shared.cancellation import cancel_and_wait
from shared.store.event_stream import EventStream
from shared.store.keys import Keys
from shared.store.outage import Outage
from shared.store.redis_client import now_ms
from shared.store.task_ledger import TaskLedger
from shared.store.task_lists import TaskLists
from shared.store.task_record import Requeued
from testbed.celery_view import CeleryView
from testbed.fake_worker import DEFAULT_MODEL, FakeWorker
from testbed.valkey import Valkey
from testbed.waiting import until

LEASE_SECONDS = 0.3

MakeJanitor = Callable[[], Janitor]


@pytest.fixture
def marks(redis: Redis, keys: Keys) -> ReaderMarks:
    return ReaderMarks(redis, keys, window_seconds=0.3)


@pytest.fixture
def make_janitor(
    redis: Redis,
    keys: Keys,
    ledger: TaskLedger,
    lists: TaskLists,
    publisher: Publisher,
    marks: ReaderMarks,
    metrics: Metrics,
) -> MakeJanitor:
    """`make_janitor()`: that of one replica."""

    def make() -> Janitor:
        return Janitor(
            redis,
            keys,
            ledger=ledger,
            lists=lists,
            publisher=publisher,
            marks=marks,
            lost_messages=LostMessages(redis, keys, lists, missed_seconds=0),
            metrics=metrics,
            models=[DEFAULT_MODEL],
            lease_seconds=LEASE_SECONDS,
            outage=Outage(),
        )

    return make


@pytest.fixture
def janitor(make_janitor: MakeJanitor) -> Janitor:
    return make_janitor()


async def turns_until(janitor: Janitor, condition: Callable[[], Awaitable[object]]) -> None:
    """The janitor takes one turn after the other until the condition holds."""

    async def turn() -> object:
        await janitor.take_turn()
        return await condition()

    await until(turn, what=condition.__qualname__)


async def wire_state(ledger: TaskLedger, task_id: str) -> str:
    record = await ledger.get(task_id)
    return record.wire_state if record else ""


def done(metrics: Metrics, action: str) -> float | None:
    return metrics.registry.get_sample_value("headrace_janitor_actions_total", {"action": action})


async def test_a_task_whose_worker_died_is_handed_over(
    janitor: Janitor, worker: FakeWorker, ledger: TaskLedger, celery_view: CeleryView, metrics: Metrics
) -> None:
    task_id = await worker.accept()
    await worker.claim(task_id, lease_seconds=LEASE_SECONDS)
    await worker.say(task_id, "a")
    alive = await worker.begin()

    async def handed_over() -> bool:
        return task_id in await celery_view.queued("handover")

    await turns_until(janitor, handed_over)
    assert await wire_state(ledger, task_id) == "RETRY"
    assert await wire_state(ledger, alive) == "STARTED"
    assert await worker.claim(task_id) == 2
    assert done(metrics, "requeued") == 1
    assert metrics.registry.get_sample_value("headrace_lease_takeovers_total", {"model": DEFAULT_MODEL}) == 1


async def test_a_task_that_another_ones_message_took_at_once_has_its_own_sent(
    janitor: Janitor,
    worker: FakeWorker,
    ledger: TaskLedger,
    celery_view: CeleryView,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The task that the other message was sent for waits for it."""
    task_id = await worker.accept()
    await worker.claim(task_id, lease_seconds=LEASE_SECONDS)
    taken = ledger.take_from_dead

    async def taken_and_claimed(task_id: str) -> Requeued:
        requeued = await taken(task_id)
        if requeued.outcome == "requeued":
            assert await worker.claim(task_id) == 2
        return requeued

    monkeypatch.setattr(ledger, "take_from_dead", taken_and_claimed)

    async def sent() -> bool:
        return await celery_view.queued("handover") == [task_id]

    await turns_until(janitor, sent)


async def test_a_task_that_kills_its_workers_ends_poisoned(
    janitor: Janitor, worker: FakeWorker, ledger: TaskLedger, stream: EventStream, celery_view: CeleryView
) -> None:
    task_id = await worker.accept()
    for attempt in (1, 2, 3):
        assert await worker.claim(task_id, lease_seconds=0.05) == attempt

        async def taken_away() -> bool:
            return await wire_state(ledger, task_id) != "STARTED"

        await turns_until(janitor, taken_away)
    assert [entry.type for entry in await stream.read(task_id)][-3:] == ["error", "status", "end"]
    assert "poisoned" in str((await celery_view.result_of(task_id))[1])


async def test_a_message_that_is_nowhere_is_sent_again_once(
    janitor: Janitor, worker: FakeWorker, ledger: TaskLedger, celery_view: CeleryView, metrics: Metrics
) -> None:
    task_ids = [await worker.accept() for _ in range(3)]  # accepted, and never sent
    started_before = await worker.begin()
    await ledger.requeue(started_before, 1, "handover")

    async def all_sent() -> bool:
        return set(await celery_view.queued("normal")) >= set(task_ids) and await celery_view.queued("handover") == [
            started_before
        ]

    await turns_until(janitor, all_sent)
    for _ in range(3):
        await janitor.take_turn()
    assert sorted(await celery_view.queued("normal")) == sorted(task_ids)
    assert done(metrics, "resent") == 4


@pytest.mark.parametrize("state", ["waiting", "running"])
async def test_a_task_past_its_deadline_ends(
    janitor: Janitor, worker: FakeWorker, stream: EventStream, celery_view: CeleryView, state: str
) -> None:
    task_id = await worker.accept(seconds=0.2)
    if state == "running":
        await worker.claim(task_id)

    async def ended() -> bool:
        return (await stream.read(task_id))[-1].type == "end"

    await turns_until(janitor, ended)
    outcome = json.loads((await stream.read(task_id))[-3].data)
    assert (outcome["type"], outcome["code"]) == ("error", "deadline_exceeded")
    assert "deadline_exceeded" in str((await celery_view.result_of(task_id))[1])


async def test_a_task_whose_readers_died_with_their_replica_is_cancelled(
    janitor: Janitor, worker: FakeWorker, ledger: TaskLedger, marks: ReaderMarks, redis: Redis, keys: Keys
) -> None:
    task_id = await worker.accept(cancel_on_disconnect=True)
    await marks.renew([task_id])  # and never again

    async def cancelled() -> bool:
        return await wire_state(ledger, task_id) == "REVOKED"

    await turns_until(janitor, cancelled)
    assert not await redis.zcard(keys.readers)


async def test_lists_forget_a_task_whose_record_is_gone(
    janitor: Janitor, worker: FakeWorker, redis: Redis, keys: Keys
) -> None:
    waiting, running, overdue = await worker.accept(), await worker.accept(), await worker.accept(seconds=0.1)
    await worker.claim(running, lease_seconds=0.1)
    await redis.delete(*(keys.task(task_id) for task_id in (waiting, running, overdue)))

    async def forgotten() -> bool:
        return not await redis.exists(keys.waiting(DEFAULT_MODEL), keys.running(DEFAULT_MODEL))

    await turns_until(janitor, forgotten)


async def test_a_task_that_cannot_be_put_right_keeps_nobody_from_the_others(
    janitor: Janitor,
    worker: FakeWorker,
    ledger: TaskLedger,
    celery_view: CeleryView,
    redis: Redis,
    keys: Keys,
    caplog: pytest.LogCaptureFixture,
) -> None:
    broken, overdue, lost = await worker.accept(seconds=0.01), await worker.accept(seconds=0.01), await worker.accept()
    await redis.hset(keys.task(broken), "crashes", "no number")

    async def put_right() -> bool:
        return await wire_state(ledger, overdue) == "FAILURE" and lost in await celery_view.queued("normal")

    await turns_until(janitor, put_right)
    assert f"{broken} cannot be put right" in caplog.text


async def test_after_an_outage_workers_get_a_lease_of_time_to_renew(
    janitor: Janitor, worker: FakeWorker, ledger: TaskLedger, lists: TaskLists, redis: Redis, valkey: Valkey
) -> None:
    task_id = await worker.accept()
    attempt = await worker.claim(task_id, lease_seconds=LEASE_SECONDS)
    await janitor.take_turn()
    await asyncio.to_thread(valkey.stop)
    with pytest.raises((RedisError, OSError)):
        await janitor.take_turn()
    await asyncio.to_thread(valkey.start)

    async def lease_has_run_out() -> bool:
        return await lists.expired(DEFAULT_MODEL, await now_ms(redis)) == [task_id]

    await until(lease_has_run_out)
    for _ in range(3):
        await janitor.take_turn()  # it is back before the worker is
    assert await ledger.heartbeat([(task_id, attempt)], lease_seconds=60) == ["ok"]
    for _ in range(3):
        await janitor.take_turn()
    assert await wire_state(ledger, task_id) == "STARTED"


async def test_a_worker_that_does_not_come_back_from_an_outage_loses_its_task(
    janitor: Janitor, worker: FakeWorker, ledger: TaskLedger, valkey: Valkey
) -> None:
    task_id = await worker.accept()
    await worker.claim(task_id, lease_seconds=LEASE_SECONDS)
    await janitor.take_turn()
    await asyncio.to_thread(valkey.stop)
    with pytest.raises((RedisError, OSError)):
        await janitor.take_turn()
    await asyncio.to_thread(valkey.start)

    async def handed_over() -> bool:
        return await wire_state(ledger, task_id) == "RETRY"

    await turns_until(janitor, handed_over)


async def test_it_rests_while_redis_is_away_says_so_once_and_goes_on(
    janitor: Janitor,
    valkey: Valkey,
    redis: Redis,
    keys: Keys,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("api.repair.janitor.SWEEP_SECONDS", 0.01)
    turns = 0
    take_turn = janitor.take_turn

    async def counted() -> None:
        nonlocal turns
        turns += 1
        await take_turn()

    monkeypatch.setattr(janitor, "take_turn", counted)
    running = asyncio.create_task(janitor.run())
    await until(lambda: turns)
    await asyncio.to_thread(valkey.stop)
    during = turns
    await until(lambda: turns > during + 3)
    await asyncio.to_thread(valkey.start)
    again = turns
    await until(lambda: turns > again + 1)
    await cancel_and_wait(running)
    assert not [record for record in caplog.records if "the janitor rests" in record.message]  # the outage is told
    assert not await redis.exists(keys.janitor)  # it released its lock


async def test_one_janitor_works_and_another_takes_over_when_it_is_gone(
    make_janitor: MakeJanitor, worker: FakeWorker, celery_view: CeleryView, redis: Redis, keys: Keys
) -> None:
    first, second = make_janitor(), make_janitor()
    await first.take_turn()
    held = await redis.get(keys.janitor)
    await second.take_turn()
    assert await redis.get(keys.janitor) == held
    # Whoever holds the lock is killed: nobody renews, and nobody releases.
    await redis.set(keys.janitor, "a janitor that is dead", px=1500)
    task_id = await worker.accept()
    for janitor in (first, second):
        await janitor.take_turn()
    assert not await celery_view.queued("normal")

    async def sent() -> bool:
        return await celery_view.queued("normal") == [task_id]

    await turns_until(second, sent)
    for janitor in (first, second):
        await janitor.take_turn()
    assert await celery_view.queued("normal") == [task_id]
