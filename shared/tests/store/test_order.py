"""Which waiting task a free slot takes (lua/order.lua), on a real Valkey."""

from typing import Any

import pytest
from redis.asyncio import Redis

from shared.store.keys import Keys
from shared.store.limits import ExpectedTokens
from shared.store.task_id import new_task_id
from shared.store.task_ledger import TaskLedger
from shared.store.task_lists import TaskLists
from shared.store.task_record import Claim, NoClaim
from shared.wire.schemas import FinalTextEvent, Timings, Usage
from testbed.ledger_steps import REQUEST, accept

TOKENS = ExpectedTokens(64, 64)
"""Of a task, also if it is not known yet how long answers are."""


async def wait(ledger: TaskLedger, tenant: str, priority: str = "normal", **options: Any) -> str:
    """A new task of the tenant, all of the same length."""
    request = REQUEST.model_copy(update={"priority": priority})
    options = {"expected": TOKENS, "max_waiting": 1000, "max_tenant_tasks": 1000, **options}
    return await accept(ledger, tenant=tenant, request=request, **options)


async def take(ledger: TaskLedger) -> Claim:
    """What a free slot takes, whose message names nobody."""
    claimed = await ledger.claim(new_task_id(), worker="w", lease_seconds=10, revision="r", next_of="m")
    assert isinstance(claimed, Claim)
    return claimed


async def taken(ledger: TaskLedger, count: int) -> list[str]:
    """Ids of what the next free slots take."""
    return [(await take(ledger)).record.task_id for _ in range(count)]


async def tenants(ledger: TaskLedger, count: int) -> str:
    """Tenants of what the next free slots take, which have names of one letter; nobody ends meanwhile."""
    return "".join([(await take(ledger)).record.tenant for _ in range(count)])


async def end(ledger: TaskLedger, claimed: Claim, prompt: int, answer: int) -> None:
    """The task ends well after so many tokens."""
    outcome = FinalTextEvent(
        task_id=claimed.record.task_id,
        text="",
        finish_reason="stop",
        usage=Usage(prompt_tokens=prompt, completion_tokens=answer),
        timings=Timings(queued=0, first_token=0, total=0),
    )
    assert await ledger.end(claimed.record.task_id, claimed.attempt, "SUCCESS", outcome)


async def test_one_tenant_alone_is_first_come_first_served(ledger: TaskLedger) -> None:
    tasks = [await wait(ledger, "a") for _ in range(5)]
    assert await taken(ledger, 5) == tasks


async def test_tenants_take_turns_however_many_tasks_one_of_them_has(ledger: TaskLedger) -> None:
    for _ in range(20):
        await wait(ledger, "a")
    assert await tenants(ledger, 4) == "aaaa"
    for _ in range(3):
        await wait(ledger, "b")
    assert await tenants(ledger, 8) in ("bababaaa", "abababaa")


async def test_a_single_task_waits_for_one_of_a_noisy_tenant_at_most(ledger: TaskLedger) -> None:
    for _ in range(50):
        await wait(ledger, "a")
    for _ in range(10):
        await wait(ledger, "b")
        assert (await tenants(ledger, 2)).count("b") == 1


async def test_weights_share_the_slots_and_a_new_weight_counts_at_once(ledger: TaskLedger) -> None:
    for _ in range(60):
        await wait(ledger, "a", weight=3.0)
        await wait(ledger, "b", weight=1.0)
    assert (await tenants(ledger, 40)).count("a") == 30
    await wait(ledger, "a", weight=1.0)
    assert (await tenants(ledger, 20)).count("a") in (9, 10, 11)


async def test_what_tasks_really_needed_is_settled_at_their_end(ledger: TaskLedger) -> None:
    for _ in range(60):
        await wait(ledger, "a")
        await wait(ledger, "b")
    spent = {"a": 0, "b": 0}
    for _ in range(40):
        claimed = await take(ledger)
        needed = {"a": 300, "b": 100}[claimed.record.tenant]
        await end(ledger, claimed, 64, needed - 64)
        spent[claimed.record.tenant] += needed
    assert abs(spent["a"] - spent["b"]) <= 300


async def test_nobody_saves_up_while_it_asks_for_nothing(ledger: TaskLedger) -> None:
    await wait(ledger, "b")
    await take(ledger)
    for _ in range(40):
        await wait(ledger, "a")
    await tenants(ledger, 20)
    for _ in range(20):
        await wait(ledger, "b")
    assert (await tenants(ledger, 20)).count("b") in (10, 11)


@pytest.mark.parametrize(("classes", "share"), [(("high", "low"), 16 / 17), (("normal", "low"), 4 / 5)])
async def test_a_class_goes_before_another_and_starves_none(
    ledger: TaskLedger, classes: tuple[str, str], share: float
) -> None:
    for _ in range(100):
        for priority in classes:
            await wait(ledger, "a", priority)
    order = [(await take(ledger)).record.priority for _ in range(85)]
    assert order.count(classes[0]) == pytest.approx(85 * share, abs=1)
    assert classes[1] in order[:17]


async def test_what_was_given_back_goes_first_and_is_charged_once(ledger: TaskLedger, redis: Redis, keys: Keys) -> None:
    for tenant in "aabb":
        await wait(ledger, tenant)
    first, second = await take(ledger), await take(ledger)
    clocks = await redis.zrange(keys.flows("m"), 0, -1, withscores=True)
    for given_back in (second, first):
        await ledger.requeue(given_back.record.task_id, given_back.attempt, "handover")
    assert await taken(ledger, 2) == [first.record.task_id, second.record.task_id]
    assert await redis.zrange(keys.flows("m"), 0, -1, withscores=True) == clocks


async def test_a_cancelled_task_is_passed_over_and_its_message_takes_another(ledger: TaskLedger) -> None:
    first, second = await wait(ledger, "a"), await wait(ledger, "a")
    await ledger.cancel(first, "a")
    claimed = await ledger.claim(first, worker="w", lease_seconds=10, revision="r", next_of="m")
    assert isinstance(claimed, Claim)
    assert claimed.record.task_id == second
    assert await ledger.claim(first, worker="w", lease_seconds=10, revision="r", next_of="m") == NoClaim(first, "ended")


async def test_records_that_are_gone_or_are_none_keep_nobody_waiting(
    ledger: TaskLedger, redis: Redis, keys: Keys
) -> None:
    gone, other_type, broken, well = [await wait(ledger, "a") for _ in range(4)]
    await redis.delete(keys.task(gone), keys.task(other_type))
    await redis.lpush(keys.task(other_type), "not a record")
    await redis.hdel(keys.task(broken), "v")
    with pytest.raises(Exception, match="nil"):
        await take(ledger)
    assert await taken(ledger, 1) == [well]


async def test_a_task_that_an_older_version_accepted_gets_its_place_when_its_message_is_sent_again(
    ledger: TaskLedger, lists: TaskLists, redis: Redis, keys: Keys
) -> None:
    old = await wait(ledger, "a")
    await redis.delete(keys.flow("m:normal:a"), keys.flows("m"), keys.order("m"))
    await redis.hdel(keys.task(old), "flow")
    younger = await wait(ledger, "b")
    assert len(await lists.resend([old], model="m")) == 1
    assert set(await taken(ledger, 2)) == {old, younger}


async def test_places_are_those_in_which_tasks_are_taken(ledger: TaskLedger, lists: TaskLists) -> None:
    tasks = [await wait(ledger, tenant) for tenant in "aaaaaabbc"]
    tasks += [await wait(ledger, "b", "low"), await wait(ledger, "c", "high"), await wait(ledger, "d", weight=2.0)]
    back = await take(ledger)
    await ledger.requeue(back.record.task_id, back.attempt, "crash")

    places = await lists.positions([(task_id, "m") for task_id in tasks])

    order = await taken(ledger, len(tasks))
    assert sorted(tasks, key=lambda task_id: places[tasks.index(task_id)] or 0) == order
    assert sorted(place or 0 for place in places) == list(range(1, len(tasks) + 1))
    assert await lists.positions([(order[0], "m"), ("nobody", "m")]) == [None, None]


async def test_flows_leave_nothing_behind_and_debts_are_forgotten_as_the_others_get_on(
    ledger: TaskLedger, redis: Redis, keys: Keys
) -> None:
    for _ in range(30):
        await wait(ledger, "a")
    for n in range(10):
        await wait(ledger, f"tenant{n}")
    await tenants(ledger, 20)
    assert await redis.zcard(keys.served("m")) <= 10
    await tenants(ledger, 15)
    assert await redis.zcard(keys.served("m")) == 0
    await tenants(ledger, 5)
    for key in ("flows", "served", "order"):
        assert not await redis.exists(getattr(keys, key)("m"))
    assert await redis.keys("*flow*") == []
