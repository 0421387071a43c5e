"""Tasks go where their prompt's beginning was computed last (lua/warm.lua), on a real Valkey."""

from typing import Any

import pytest
from redis.asyncio import Redis

from shared.store.beginnings import Beginnings
from shared.store.keys import Keys
from shared.store.limits import ExpectedTokens
from shared.store.task_id import new_task_id
from shared.store.task_ledger import TaskLedger
from shared.store.task_record import Acceptance, Claim, TaskMessage
from testbed.ledger_steps import REQUEST, answer, failure

SLOTS = 4
FOREVER = 1e15
"""Milliseconds: until then the workers are ready."""


@pytest.fixture(autouse=True)
async def ready(redis: Redis, keys: Keys) -> None:
    """Two workers that take tasks."""
    await redis.zadd(keys.workers("m"), {"w1": FOREVER, "w2": FOREVER})


async def wait(
    ledger: TaskLedger, *beginnings: str, tenant: str = "a", message: TaskMessage | None = None, **fields: Any
) -> Acceptance:
    """A new task whose prompt begins so, the longest beginning first."""
    request = REQUEST.model_copy(update=fields)
    return await ledger.accept(
        new_task_id(), request, tenant=tenant, timeout_seconds=60, max_waiting=1000, max_tenant_tasks=1000,
        beginnings=Beginnings(beginnings), slots=SLOTS, expected=ExpectedTokens(64, 64), message=message,
    )  # fmt: skip


async def take(ledger: TaskLedger, worker: str, message: str = "") -> Claim:
    claimed = await ledger.claim(message or new_task_id(), worker=worker, lease_seconds=10, revision="r", next_of="m")
    assert isinstance(claimed, Claim)
    return claimed


async def run(ledger: TaskLedger, worker: str, *beginnings: str, **fields: Any) -> None:
    """A task that the worker has computed."""
    await wait(ledger, *beginnings, **fields)
    claimed = await take(ledger, worker)
    assert await ledger.end(claimed.record.task_id, claimed.attempt, "SUCCESS", answer(claimed.record.task_id))


async def home(ledger: TaskLedger, *beginnings: str, **fields: Any) -> str | None:
    """Where a task with these beginnings would go."""
    accepted = await wait(ledger, *beginnings, **fields)
    await ledger.cancel(accepted.task_id, "a")
    return accepted.home


async def test_a_task_is_sent_where_its_longest_beginning_was_computed_last(ledger: TaskLedger) -> None:
    await run(ledger, "w1", "system")
    await run(ledger, "w2", "turn1", "system")
    assert await home(ledger, "turn2", "turn1", "system") == "w2"
    await run(ledger, "w1", "other", "system")
    assert await home(ledger, "new", "system") == "w1"
    assert await home(ledger, "turn2", "turn1", "system") == "w2"
    assert await home(ledger, "unknown") is None
    assert await home(ledger) is None


async def test_its_message_goes_to_that_worker_alone(ledger: TaskLedger, redis: Redis, keys: Keys) -> None:
    await run(ledger, "w1", "turn1")
    warm, cold = TaskMessage("warm", "m.normal", "m:"), TaskMessage("cold", "m.normal", "m:")
    assert (await wait(ledger, "turn2", "turn1", message=warm)).home == "w1"
    assert (await wait(ledger, "unknown", message=cold)).home is None
    assert await redis.lrange(f"{keys.prefix}m:w1", 0, -1) == [b"warm"]
    assert await redis.lrange(f"{keys.prefix}m.normal", 0, -1) == [b"cold"]


async def test_a_worker_that_is_gone_is_no_home(ledger: TaskLedger, redis: Redis, keys: Keys) -> None:
    await redis.zadd(keys.workers("m"), {"w3": FOREVER})
    await run(ledger, "w2", "turn1", "system")
    await run(ledger, "w1", "other", "system")
    await redis.zadd(keys.workers("m"), {"w2": 1})
    assert await home(ledger, "turn2", "turn1", "system") == "w1"
    await redis.zrem(keys.workers("m"), "w1")
    assert await home(ledger, "turn2", "turn1", "system") is None


async def test_a_worker_without_room_or_much_busier_than_the_others_is_no_home(
    ledger: TaskLedger, redis: Redis, keys: Keys
) -> None:
    await run(ledger, "w1", "turn1")
    homes = []
    for _ in range(4):
        homes.append((await wait(ledger, "turn2", "turn1")).home)
        await take(ledger, "w1")
    # It has 0, 1, 2 and 3 tasks, the other one none: 1.5 times the mean, rounded up, are 1, 2, 3 and 3.
    assert homes == ["w1", "w1", "w1", None]
    for _ in range(5):
        await wait(ledger)
        await take(ledger, "w2")
    assert await home(ledger, "turn2", "turn1") is None, "it has no slot free"


async def test_the_counts_of_tasks_follow_their_lives(ledger: TaskLedger, redis: Redis, keys: Keys) -> None:
    for _ in range(3):
        await wait(ledger)
    one, two, three = [await take(ledger, worker) for worker in ("w1", "w1", "w2")]
    assert await redis.hgetall(keys.load("m")) == {b"w1": b"2", b"w2": b"1"}
    await ledger.requeue(one.record.task_id, one.attempt, "handover")
    await ledger.end(three.record.task_id, three.attempt, "SUCCESS", answer(three.record.task_id))
    await ledger.cancel(one.record.task_id, "a")
    assert await redis.hgetall(keys.load("m")) == {b"w1": b"1"}
    await ledger.end(two.record.task_id, None, "FAILURE", failure(two.record.task_id))
    assert not await redis.exists(keys.load("m"))


async def test_of_what_waits_a_worker_takes_what_is_warm_there(ledger: TaskLedger) -> None:
    await run(ledger, "w1", "one")
    await run(ledger, "w2", "two")
    waiting = {name: (await wait(ledger, beginning)).task_id
               for name, beginning in (("a", "one"), ("b", "new"), ("c", "two"), ("d", "one"))}  # fmt: skip
    names = {task_id: name for name, task_id in waiting.items()}
    taken = [names[(await take(ledger, worker)).record.task_id] for worker in ("w2", "w1", "w1", "w2")]
    assert taken == ["c", "a", "d", "b"]


async def test_a_message_that_was_sent_to_a_worker_brings_its_own_task(ledger: TaskLedger) -> None:
    await run(ledger, "w1", "one")
    for _ in range(6):
        await wait(ledger)
    for _ in range(6):
        await wait(ledger, "one")
    own = await wait(ledger, "turn", "one")
    claimed = await take(ledger, "w1", own.task_id)
    assert (claimed.record.task_id, claimed.warmth) == (own.task_id, "here")


async def test_nobody_is_passed_by_more_often_than_is_bounded(ledger: TaskLedger) -> None:
    await run(ledger, "w1", "one")
    cold = [(await wait(ledger)).task_id for _ in range(2)]
    for _ in range(30):
        await wait(ledger, "one")
    order = [(await take(ledger, "w1")).record.task_id for _ in range(20)]
    assert [order.index(task_id) for task_id in cold] == [8, 17]


async def test_warm_tasks_take_no_more_than_their_tenants_share(ledger: TaskLedger) -> None:
    await run(ledger, "w1", "one")
    for _ in range(60):
        await wait(ledger, "one", tenant="a")
        await wait(ledger, tenant="b")
    tenants = "".join([(await take(ledger, "w1")).record.tenant for _ in range(60)])
    assert abs(tenants.count("a") - tenants.count("b")) <= 5


async def test_what_was_given_back_goes_first_wherever_something_is_warm(ledger: TaskLedger) -> None:
    await run(ledger, "w1", "one")
    await wait(ledger)
    back = await take(ledger, "w2")
    await wait(ledger, "one")
    await ledger.requeue(back.record.task_id, back.attempt, "handover")
    assert (await take(ledger, "w1")).record.task_id == back.record.task_id


async def test_what_is_not_stored_leaves_digests_only_for_as_long_as_its_record(
    ledger: TaskLedger, redis: Redis, keys: Keys
) -> None:
    await run(ledger, "w1", "one", store=False)
    assert await home(ledger, "one", store=False) == "w1"
    assert await home(ledger, "one") is None
    [name] = await redis.keys("*warm*")
    assert 0 < await redis.pttl(name) <= 60_000


async def test_a_warm_record_that_is_broken_keeps_nobody_waiting(ledger: TaskLedger, redis: Redis, keys: Keys) -> None:
    await run(ledger, "w1", "one")
    await wait(ledger)
    broken, well = [(await wait(ledger, "one")).task_id for _ in range(2)]
    gone = (await wait(ledger, "one")).task_id
    await redis.delete(keys.task(gone))
    await redis.lpush(keys.task(gone), "not a record")
    await redis.zadd(keys.home("m:w1"), {gone: 1})
    await redis.hdel(keys.task(broken), "v")
    with pytest.raises(Exception, match="nil"):
        await take(ledger, "w1")
    assert (await take(ledger, "w1")).record.task_id == well


async def test_nothing_is_left_of_homes_and_one_worker_alone_needs_none(
    ledger: TaskLedger, redis: Redis, keys: Keys
) -> None:
    await run(ledger, "w1", "one")
    ended = await wait(ledger, "one")
    await wait(ledger, "one")
    assert await redis.zcard(keys.home("m:w1")) == 2
    await ledger.cancel(ended.task_id, "a")
    await take(ledger, "w2")
    assert not await redis.exists(keys.home("m:w1"))
    await redis.zrem(keys.workers("m"), "w2")
    assert await home(ledger, "one") is None
