"""What tasks take out of the limits of their key, and what comes back, on a real Valkey."""

import asyncio
from typing import Any

import pytest
from redis.asyncio import Redis

from shared.store.event_stream import EventStream, TokenWriter
from shared.store.keys import Keys
from shared.store.limits import Account, Allowance, ExpectedTokens, Limits, Rate
from shared.store.refusals import LimitReached
from shared.store.task_id import new_task_id
from shared.store.task_ledger import TaskLedger
from shared.store.usage import UsageRecords
from shared.wire.schemas import ErrorEvent
from shared.wire.usage import ModelUse
from testbed.ledger_steps import REQUEST, accept, answer, claim, taken, token

EXPECTED = ExpectedTokens(prompt=10, answer=90)


def account(name: str = "t:k", **limits: int) -> Account:
    return Account(name, Limits(**limits))


async def refused(ledger: TaskLedger, **options: Any) -> LimitReached:
    with pytest.raises(LimitReached) as refusal:
        await accept(ledger, **options)
    return refusal.value


async def allowance(ledger: TaskLedger, owner: Account, expected: ExpectedTokens = EXPECTED) -> Allowance:
    accepted = await ledger.accept(
        new_task_id(), REQUEST, tenant="t", timeout_seconds=60, max_waiting=100, max_tenant_tasks=100, account=owner,
        expected=expected,
    )  # fmt: skip
    assert accepted.allowance is not None
    return accepted.allowance


async def pass_time(redis: Redis, keys: Keys, name: str, bucket: str, seconds: float) -> None:
    """As if what was left of the bucket had been left so long before."""
    await redis.hincrby(keys.account(name), f"{bucket}_at", -int(seconds * 1000))


async def tokens_left(ledger: TaskLedger, owner: Account) -> int:
    """Looked at by a task that needs none."""
    left = (await allowance(ledger, owner, ExpectedTokens(0, 0))).tokens
    assert left is not None
    return left.remaining


async def test_so_many_requests_are_accepted_and_one_comes_back_after_its_share_of_the_minute(
    ledger: TaskLedger, redis: Redis, keys: Keys
) -> None:
    owner = account(requests_per_minute=3)
    remaining = [(await allowance(ledger, owner)).requests for _ in range(3)]
    assert [left.remaining for left in remaining if left] == [2, 1, 0]
    refusal = await refused(ledger, account=owner)
    assert (refusal.which, refusal.limit) == ("requests_per_minute", 3)
    assert refusal.wait_seconds == pytest.approx(20, abs=1)
    assert refusal.allowance is not None
    left = refusal.allowance.requests
    assert left is not None
    assert (left.limit, left.remaining) == (3, 0)
    assert left.reset_seconds == pytest.approx(60, abs=1)
    await pass_time(redis, keys, "t:k", "requests", 20)
    await accept(ledger, account=owner)
    await refused(ledger, account=owner)


async def test_a_refused_task_leaves_nothing_and_takes_nothing(ledger: TaskLedger, redis: Redis, keys: Keys) -> None:
    owner = account(requests_per_minute=5, tokens_per_minute=150)
    await accept(ledger, account=owner, expected=EXPECTED)
    before = await redis.hgetall(keys.account("t:k"))
    names = {key async for key in redis.scan_iter()}
    assert (await refused(ledger, account=owner, expected=EXPECTED)).which == "tokens_per_minute"
    assert await redis.hgetall(keys.account("t:k")) == before
    assert {key async for key in redis.scan_iter()} == names


async def test_limits_are_those_of_one_key(ledger: TaskLedger) -> None:
    await accept(ledger, account=account("t:k", requests_per_minute=1))
    await refused(ledger, account=account("t:k", requests_per_minute=1))
    await accept(ledger, account=account("t:other", requests_per_minute=1))
    await accept(ledger)


async def test_tokens_are_reserved_and_what_was_not_used_comes_back(ledger: TaskLedger) -> None:
    owner = account(tokens_per_minute=1000)
    task_id = await accept(ledger, account=owner, expected=EXPECTED)
    assert 900 <= await tokens_left(ledger, owner) <= 920
    await claim(ledger, task_id)
    assert await ledger.end(task_id, 1, "SUCCESS", answer(task_id))  # 1 + 1 tokens
    assert 998 <= await tokens_left(ledger, owner) <= 1000


async def test_a_task_that_needed_more_than_was_expected_is_paid_for_too(ledger: TaskLedger) -> None:
    owner = account(tokens_per_minute=1000)
    task_id = await accept(ledger, account=owner, expected=ExpectedTokens(1, 1))
    await claim(ledger, task_id)
    long = answer(task_id).model_copy(
        update={"usage": answer(task_id).usage.model_copy(update={"prompt_tokens": 1599})}
    )
    assert await ledger.end(task_id, 1, "SUCCESS", long)
    refusal = await refused(ledger, account=owner, expected=EXPECTED)
    assert refusal.which == "tokens_per_minute"
    assert refusal.allowance is not None
    assert refusal.allowance.tokens is not None
    assert -600 <= refusal.allowance.tokens.remaining < -500
    assert refusal.wait_seconds == pytest.approx(42, abs=2)  # 700 tokens at 1000 per minute


@pytest.mark.parametrize("how", ["cancelled", "dead", "late", "failed"])
async def test_a_task_that_does_not_succeed_pays_for_what_was_done(
    ledger: TaskLedger, stream: EventStream, usage: UsageRecords, how: str
) -> None:
    owner = account(tokens_per_minute=1000, tokens_per_day=5000, unfinished_tasks=1)
    task_id = await accept(ledger, account=owner, expected=EXPECTED)
    await claim(ledger, task_id, lease=0 if how == "dead" else 10)
    writer = TokenWriter(task_id, 1, 0)
    for _ in range(5):
        assert all(await stream.write(token(writer)))
    error = ErrorEvent(task_id=task_id, code="internal", message="no", retryable=False)
    match how:
        case "cancelled":
            await ledger.cancel(task_id, "t")
            assert await ledger.end(task_id, 1, "REVOKED", None)
        case "dead":
            await ledger.cancel(task_id, "t")
            assert (await ledger.take_from_dead(task_id)).outcome == "revoked"
        case "late":
            assert await ledger.end(task_id, None, "FAILURE", error)
        case "failed":
            assert await ledger.end(task_id, 1, "FAILURE", error)
    (today,) = await usage.of_tenant("t", 1)
    assert today.models == {"m": ModelUse(tasks=1, prompt_tokens=10, completion_tokens=5)}
    await accept(ledger, account=owner)  # the place is free
    assert 985 <= await tokens_left(ledger, account(tokens_per_minute=1000)) <= 995


async def test_a_task_that_never_began_costs_no_tokens(ledger: TaskLedger, usage: UsageRecords) -> None:
    owner = account(tokens_per_minute=1000)
    task_id = await accept(ledger, account=owner, expected=EXPECTED)
    await ledger.cancel(task_id, "t")
    assert 999 <= await tokens_left(ledger, owner) <= 1000
    (today,) = await usage.of_tenant("t", 1)
    assert today.models == {"m": ModelUse(tasks=1, prompt_tokens=0, completion_tokens=0)}


async def test_a_day_has_its_tokens_and_ends_at_midnight(ledger: TaskLedger, redis: Redis, keys: Keys) -> None:
    owner = account(tokens_per_day=250)
    first = await accept(ledger, account=owner, expected=EXPECTED)
    await accept(ledger, account=owner, expected=EXPECTED)
    refusal = await refused(ledger, account=owner, expected=EXPECTED)
    assert (refusal.which, refusal.limit) == ("tokens_per_day", 250)
    assert refusal.wait_seconds is not None
    seconds, _ = await redis.time()
    assert refusal.wait_seconds == pytest.approx(86400 - seconds % 86400, abs=2)
    await redis.hset(keys.account("t:k"), "day", "1")  # it was another day
    await accept(ledger, account=owner, expected=EXPECTED)
    await accept(ledger, account=owner, expected=EXPECTED)
    await redis.hset(keys.task(first), "charged_on", "1")
    await ledger.cancel(first, "t")  # gives nothing back to a day on which it took nothing
    await refused(ledger, account=owner, expected=EXPECTED)


async def test_waiting_and_unfinished_tasks_are_counted_through_claims_and_takeovers(ledger: TaskLedger) -> None:
    owner = account(waiting_tasks=1, unfinished_tasks=2)
    first = await accept(ledger, account=owner)
    refusal = await refused(ledger, account=owner)
    assert (refusal.which, refusal.limit, refusal.wait_seconds) == ("waiting_tasks", 1, None)
    await claim(ledger, first)
    second = await accept(ledger, account=owner)
    await claim(ledger, second)
    assert (await refused(ledger, account=owner)).which == "unfinished_tasks"
    assert (await ledger.requeue(first, 1, "handover")).outcome == "requeued"
    assert await ledger.end(second, 1, "SUCCESS", answer(second))
    assert (await refused(ledger, account=owner)).which == "waiting_tasks"
    await claim(ledger, first)
    await accept(ledger, account=owner)


async def test_a_task_whose_record_is_gone_holds_no_place(ledger: TaskLedger, redis: Redis, keys: Keys) -> None:
    owner = account(unfinished_tasks=1)
    task_id = await accept(ledger, account=owner)
    await redis.zadd(keys.account_tasks("t:k"), {task_id: 1})
    await accept(ledger, account=owner)


async def test_the_same_task_accepted_twice_pays_once(ledger: TaskLedger) -> None:
    owner, task_id = account(requests_per_minute=2), new_task_id()
    for _ in range(3):
        await accept(ledger, task_id, account=owner)
    await accept(ledger, account=owner)
    await refused(ledger, account=owner)


async def test_a_request_that_comes_again_with_its_key_pays_once(ledger: TaskLedger) -> None:
    owner = account(requests_per_minute=1)
    first = await accept(ledger, account=owner, idempotency_key="k", fingerprint="f")
    assert await accept(ledger, account=owner, idempotency_key="k", fingerprint="f") == first


async def test_fifty_at_once_get_exactly_what_there_is(ledger: TaskLedger) -> None:
    owner = account(requests_per_minute=10_000, tokens_per_day=2000, unfinished_tasks=30)

    async def client() -> list[str]:
        outcomes = []
        for _ in range(5):
            try:
                await accept(ledger, account=owner, expected=EXPECTED, max_waiting=1000, max_tenant_tasks=1000)
                outcomes.append("accepted")
            except LimitReached as refusal:
                outcomes.append(refusal.which)
        return outcomes

    outcomes = [one for many in await asyncio.gather(*(client() for _ in range(50))) for one in many]
    assert outcomes.count("accepted") == 20
    assert outcomes.count("tokens_per_day") == 230


async def test_a_tenant_s_rate_is_counted_without_any_account(ledger: TaskLedger) -> None:
    rate = Rate(2, 3600)
    for _ in range(2):
        await accept(ledger, tenant_rate=rate)
    refusal = await refused(ledger, tenant_rate=rate)
    assert (refusal.which, refusal.limit) == ("tenant_rate", 2)
    assert refusal.wait_seconds == pytest.approx(1800, abs=2)
    await accept(ledger, tenant="other", tenant_rate=rate)


async def test_all_that_accounts_leave_behind_expires(ledger: TaskLedger, redis: Redis, keys: Keys) -> None:
    owner = account(requests_per_minute=9, tokens_per_minute=900, tokens_per_day=900, unfinished_tasks=9)
    task_id = await accept(ledger, account=owner, expected=EXPECTED, tenant_rate=Rate(9, 60))
    for step in ("accepted", "ended"):
        left = {key.decode() async for key in redis.scan_iter() if await redis.pttl(key) == -1}
        assert not {key for key in left if "account" in key or "usage" in key or "rate" in key}, step
        await claim(ledger, task_id) if step == "accepted" else None
        await ledger.end(task_id, 1, "SUCCESS", answer(task_id))


async def test_use_is_added_up_by_tenant_day_and_model(ledger: TaskLedger, usage: UsageRecords) -> None:
    other = REQUEST.model_copy(update={"model": "org/m:1 b"})
    for tenant, request in (("t", REQUEST), ("t", REQUEST), ("t", other), ("u", REQUEST)):
        task_id = await accept(ledger, tenant=tenant, request=request)
        await claim(ledger, task_id)
        await ledger.end(task_id, 1, "SUCCESS", answer(task_id))
    one, two = (
        ModelUse(tasks=1, prompt_tokens=1, completion_tokens=1),
        ModelUse(tasks=2, prompt_tokens=2, completion_tokens=2),
    )
    (today,) = await usage.of_tenant("t", 7)
    assert today.models == {"m": two, "org/m:1 b": one}
    assert await usage.of_tenant("nobody", 7) == []
    assert [day.models for day in await usage.of_tenant("u", 1)] == [{"m": one}]


async def test_what_a_restart_of_the_answer_made_void_is_not_paid_for(
    ledger: TaskLedger, stream: EventStream, usage: UsageRecords
) -> None:
    task_id = await accept(ledger, expected=EXPECTED)
    await claim(ledger, task_id)
    writer = TokenWriter(task_id, 1, 0)
    writer.add([1, 2, 3], "abc")
    assert all(await stream.write(taken(writer)))
    await ledger.requeue(task_id, 1, "handover")
    assert (await claim(ledger, task_id, revision="another")).restart
    assert await ledger.end(task_id, 2, "REVOKED", None)
    (today,) = await usage.of_tenant("t", 1)
    assert today.models["m"].completion_tokens == 0


async def test_what_is_kept_and_is_no_task_takes_from_the_rates_alone(
    ledger: TaskLedger, redis: Redis, keys: Keys
) -> None:
    owner, rate = account(requests_per_minute=2, tokens_per_minute=5, unfinished_tasks=1), Rate(3, 60)
    await accept(ledger, account=owner, tenant_rate=rate)
    await ledger.spend("t", account=owner, tenant_rate=rate)
    assert await redis.zcard(keys.account_tasks("t:k")) == 1
    with pytest.raises(LimitReached) as refusal:
        await ledger.spend("t", account=owner, tenant_rate=rate)
    assert refusal.value.which == "requests_per_minute"
    await ledger.spend("t", account=None, tenant_rate=rate)
    with pytest.raises(LimitReached) as refusal:
        await ledger.spend("t", account=None, tenant_rate=rate)
    assert refusal.value.which == "tenant_rate"
