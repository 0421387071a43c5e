"""Which tasks there are, on a real Valkey."""

from redis.asyncio import Redis

from shared.store.keys import Keys
from shared.store.redis_client import now_ms
from shared.store.task_ledger import TaskLedger
from shared.store.task_lists import TaskLists
from testbed.ledger_steps import accept, answer, claim


async def test_places_in_the_queue_move_up_and_end_with_the_claim(ledger: TaskLedger, lists: TaskLists) -> None:
    first, second = await accept(ledger), await accept(ledger)
    assert await lists.positions([(first, "m"), (second, "m"), ("nobody", "m")]) == [1, 2, None]
    assert await lists.waiting("m") == [first, second]
    await claim(ledger, first)
    assert await lists.position(first, "m") is None
    assert await lists.position(second, "m") == 1


async def test_a_lease_that_ran_out_is_found_and_one_that_runs_is_not(
    ledger: TaskLedger, lists: TaskLists, redis: Redis
) -> None:
    dead, alive = await accept(ledger), await accept(ledger)
    await claim(ledger, dead, lease=0)
    await claim(ledger, alive)
    assert await lists.expired("m", await now_ms(redis)) == [dead]


async def test_a_late_task_is_overdue_at_once_and_a_running_one_after_the_grace(
    ledger: TaskLedger, lists: TaskLists, redis: Redis, keys: Keys
) -> None:
    running, waiting = await accept(ledger), await accept(ledger)
    await claim(ledger, running)
    deadlines = {running: await now_ms(redis) - 5_000, waiting: await now_ms(redis) - 1}
    await redis.zadd(keys.deadlines, deadlines)
    assert await lists.overdue(await now_ms(redis), running_grace_seconds=60) == [waiting]
    assert await lists.overdue(await now_ms(redis), running_grace_seconds=4) == [running, waiting]


async def test_a_message_is_sent_again_only_for_a_task_that_waits(ledger: TaskLedger, lists: TaskLists) -> None:
    waiting, running = await accept(ledger), await accept(ledger)
    await claim(ledger, running)
    assert [message.task_id for message in await lists.resend([waiting, running], model="m")] == [waiting]


async def test_a_task_whose_record_is_gone_is_forgotten(
    ledger: TaskLedger, lists: TaskLists, redis: Redis, keys: Keys
) -> None:
    task_id = await accept(ledger)
    await redis.delete(keys.task(task_id))
    assert await lists.resend([task_id], model="m") == []
    assert await lists.waiting("m") == []
    assert await lists.overdue(await now_ms(redis), running_grace_seconds=0) == []


async def test_from_a_task_that_succeeded_on_there_is_a_mean_time(ledger: TaskLedger, lists: TaskLists) -> None:
    task_id = await accept(ledger)
    await claim(ledger, task_id)
    assert (await lists.load("m")).mean_seconds is None
    await ledger.end(task_id, 1, "SUCCESS", answer(task_id))
    assert (await lists.load("m")).mean_seconds is not None
