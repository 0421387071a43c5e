"""The life of a task, on a real Valkey."""

import asyncio
import json

import pytest
from redis.asyncio import Redis

from shared.store.event_stream import CLOSED, EntryId, EventStream, TokenWriter
from shared.store.keys import Keys
from shared.store.refusals import IdempotencyConflict, QueueFull, TenantFull
from shared.store.task_id import new_task_id
from shared.store.task_ledger import TaskLedger
from shared.store.task_lists import TaskLists
from shared.store.task_record import Claim, NoClaim, TaskMessage
from shared.wire.schemas import ErrorEvent, Guard, InferenceRequest
from testbed.ledger_steps import REQUEST, accept, answer, claim, roll_back, states, taken, token


async def test_an_undisturbed_task_has_one_of_everything(
    ledger: TaskLedger, lists: TaskLists, stream: EventStream
) -> None:
    task_id = await accept(ledger)
    assert (await lists.load("m")).work == 1
    assert await lists.position(task_id, "m") == 1
    held = await claim(ledger, task_id)
    assert held.attempt == 1
    assert InferenceRequest.model_validate_json(held.record.request) == REQUEST
    writer = TokenWriter(task_id, 1, 0)
    writer.add([5, 6], "hel")
    assert await stream.write(taken(writer)) == [True]
    assert await ledger.end(task_id, 1, "SUCCESS", answer(task_id))
    entries = await stream.read(task_id)
    assert states(entries) == [
        "0-1 status PENDING", "1-0 status STARTED", "1-2 token",
        f"1-{CLOSED + 1} final_text", f"1-{CLOSED + 2} status SUCCESS", f"1-{CLOSED + 3} end SUCCESS",
    ]  # fmt: skip
    assert entries[2].token_ids == (5, 6)
    assert json.loads(entries[2].data) == {"type": "token", "taskId": task_id, "text": "hel", "index": 2}
    record = await ledger.get(task_id)
    assert record is not None
    assert (record.state, record.wire_state) == ("ended", "SUCCESS")
    load = await lists.load("m")
    assert load.work == 0
    assert load.mean_seconds is not None


async def test_an_accepted_task_has_one_message_and_a_refused_one_none(
    ledger: TaskLedger, redis: Redis, keys: Keys
) -> None:
    task_id, queue = new_task_id(), f"{keys.prefix}m.normal"
    message = TaskMessage("text", "m.normal", "m:")
    for _ in range(2):  # the first reply was lost
        await accept(ledger, task_id, message=message)
    assert await redis.lrange(queue, 0, -1) == [b"text"]
    with pytest.raises(QueueFull):
        await accept(ledger, max_waiting=1, message=message)
    assert await redis.llen(queue) == 1
    await accept(ledger, task_id, message=TaskMessage("again", "m.normal", "m:"))
    assert await redis.lrange(queue, 0, -1) == [b"text"]


async def test_a_queue_that_is_none_keeps_no_task_from_being_accepted(
    ledger: TaskLedger, lists: TaskLists, redis: Redis, keys: Keys
) -> None:
    await redis.set(f"{keys.prefix}m.normal", "something else")
    task_id = await accept(ledger, message=TaskMessage("text", "m.normal", "m:"))
    assert await lists.waiting("m") == [task_id]


async def test_everything_of_an_ended_task_expires_and_nothing_else_is_left(
    ledger: TaskLedger, redis: Redis, keys: Keys
) -> None:
    task_id = await accept(ledger, idempotency_key="k")
    await claim(ledger, task_id)
    await ledger.end(task_id, 1, "SUCCESS", answer(task_id))
    assert 0 < await redis.pttl(keys.task(task_id)) <= 60_000
    assert 0 < await redis.pttl(keys.events(task_id)) <= 60_000
    ends = {await redis.pexpiretime(key) for key in (keys.task(task_id), keys.idempotency("t", "k"))}
    assert max(ends) - min(ends) <= 1
    left = {key.decode() async for key in redis.scan_iter() if await redis.pttl(key) == -1}
    assert left == {keys.done("m")}


async def test_a_task_ends_once_whoever_comes_second(ledger: TaskLedger, stream: EventStream) -> None:
    task_id = await accept(ledger)
    await claim(ledger, task_id)
    error = ErrorEvent(task_id=task_id, code="deadline_exceeded", message="late", retryable=True)
    done = await asyncio.gather(
        *(ledger.end(task_id, None, "FAILURE", error) for _ in range(5)),
        *(ledger.end(task_id, 1, "SUCCESS", answer(task_id)) for _ in range(5)),
    )
    assert sum(done) == 1
    assert [entry.type for entry in await stream.read(task_id)].count("end") == 1


async def test_a_held_task_is_not_claimed_twice(ledger: TaskLedger) -> None:
    task_id = await accept(ledger)
    claims = await asyncio.gather(
        *(ledger.claim(task_id, worker=f"w{n}", lease_seconds=10, revision="r") for n in range(8))
    )
    assert sum(isinstance(one, Claim) for one in claims) == 1
    assert {one.reason for one in claims if isinstance(one, NoClaim)} == {"held"}


async def test_a_lost_worker_is_fenced_and_the_next_goes_on_behind_its_tokens(
    ledger: TaskLedger, stream: EventStream
) -> None:
    task_id = await accept(ledger)
    first = await claim(ledger, task_id, lease=0)
    zombie = TokenWriter(task_id, first.attempt, 0)
    zombie.add([1, 2, 3], "abc")
    await stream.write(taken(zombie))
    assert (await ledger.take_from_dead(task_id)).outcome == "requeued"
    zombie.add([4], "d")
    assert await stream.write(taken(zombie)) == [False]
    assert not await ledger.end(task_id, first.attempt, "SUCCESS", answer(task_id))
    assert await ledger.heartbeat([(task_id, first.attempt)], lease_seconds=10) == ["lost"]

    second = await claim(ledger, task_id, worker="w2")
    assert (second.attempt, second.restart) == (2, False)
    ids = [token for entry in await stream.read(task_id) for token in entry.token_ids]
    assert ids == [1, 2, 3]
    heir = TokenWriter(task_id, second.attempt, len(ids))
    heir.add([4], "d")
    assert await stream.write(taken(heir)) == [True]
    assert states(await stream.read(task_id)) == [
        "0-1 status PENDING", "1-0 status STARTED", "1-3 token", f"1-{CLOSED} status RETRY",
        "2-0 status STARTED", "2-4 token",
    ]  # fmt: skip


async def test_a_lease_that_still_runs_is_not_taken_away(ledger: TaskLedger) -> None:
    task_id = await accept(ledger)
    await claim(ledger, task_id, lease=10)
    assert (await ledger.take_from_dead(task_id)).outcome == "alive"
    assert await ledger.heartbeat([(task_id, 1)], lease_seconds=10) == ["ok"]


async def test_another_model_revision_starts_the_answer_over_and_says_so(
    ledger: TaskLedger, stream: EventStream
) -> None:
    task_id = await accept(ledger)
    held = await claim(ledger, task_id, revision="old")
    writer = TokenWriter(task_id, held.attempt, 0)
    writer.add([1], "a")
    await stream.write(taken(writer))
    await ledger.requeue(task_id, 1, "handover")
    assert (await claim(ledger, task_id, revision="new")).restart
    started = json.loads((await stream.read(task_id))[-1].data)
    assert started["restart"] is True


async def test_an_answer_that_is_drawn_anew_starts_over_once_and_is_counted(
    ledger: TaskLedger, stream: EventStream
) -> None:
    task_id = await accept(ledger)
    held = await claim(ledger, task_id)
    writer = TokenWriter(task_id, held.attempt, 0)
    writer.add([1], "")
    await stream.write(taken(writer))
    assert (await ledger.requeue(task_id, 1, "redraw", written="1-1")).outcome == "requeued"
    assert (await ledger.requeue(task_id, 1, "redraw", written="1-1")).outcome == "not_running", "it is counted once"
    second = await claim(ledger, task_id)
    assert (second.attempt, second.restart, second.record.redraws) == (2, True, 1)
    await ledger.requeue(task_id, 2, "handover")
    third = await claim(ledger, task_id)
    assert (third.restart, third.record.redraws, third.suspect) == (False, 1, False)


async def test_another_revision_before_the_first_token_is_no_restart(ledger: TaskLedger) -> None:
    task_id = await accept(ledger)
    await claim(ledger, task_id, revision="old")
    await ledger.requeue(task_id, 1, "handover")
    assert not (await claim(ledger, task_id, revision="new")).restart


async def test_a_write_behind_a_lost_one_is_refused_and_its_worker_ends_the_task_as_data_lost(
    ledger: TaskLedger, stream: EventStream, redis: Redis, keys: Keys
) -> None:
    task_id = await accept(ledger)
    await claim(ledger, task_id)
    writer = TokenWriter(task_id, 1, 0)
    for _ in range(3):
        assert await stream.write(token(writer)) == [True]
    await roll_back(redis, keys, task_id, "1-2", "1-3")
    assert await stream.write(token(writer)) == [False]
    await ledger.tell_lost(task_id, 1, str(writer.written))
    entries = await stream.read(task_id, EntryId(1, 1))
    assert [entry.type for entry in entries] == ["error", "status", "end"]
    assert json.loads(entries[0].data)["code"] == "data_lost"


async def test_who_is_refused_for_another_reason_does_not_end_the_task(ledger: TaskLedger, stream: EventStream) -> None:
    task_id = await accept(ledger)
    await claim(ledger, task_id)
    writer = TokenWriter(task_id, 1, 0)
    assert await stream.write(token(writer)) == [True]
    await ledger.tell_lost(task_id, 1, str(writer.written))
    await ledger.requeue(task_id, 1, "handover")
    await ledger.tell_lost(task_id, 1, str(writer.written))
    record = await ledger.get(task_id)
    assert record is not None
    assert record.state == "waiting"


@pytest.mark.parametrize("step", ["end", "requeue"])
async def test_an_answer_with_a_hole_in_it_is_not_finished(
    ledger: TaskLedger, stream: EventStream, redis: Redis, keys: Keys, step: str
) -> None:
    task_id = await accept(ledger)
    await claim(ledger, task_id)
    writer = TokenWriter(task_id, 1, 0)
    for _ in range(2):
        await stream.write(token(writer))
    await roll_back(redis, keys, task_id, "1-2")
    if step == "end":
        assert not await ledger.end(task_id, 1, "SUCCESS", answer(task_id), written=str(writer.written))
    else:
        assert (await ledger.requeue(task_id, 1, "handover", written=str(writer.written))).outcome == "data_lost"
    record = await ledger.get(task_id)
    assert record is not None
    assert (record.wire_state, json.loads(record.outcome)["code"]) == ("FAILURE", "data_lost")


async def test_three_engine_crashes_poison_a_task(ledger: TaskLedger, stream: EventStream) -> None:
    task_id = await accept(ledger)
    outcomes = []
    for attempt in (1, 2, 3):
        held = await claim(ledger, task_id)
        assert held.suspect == (attempt > 1)
        outcomes.append((await ledger.requeue(task_id, attempt, "crash")).outcome)
    assert outcomes == ["requeued", "requeued", "poisoned"]
    entries = await stream.read(task_id)
    assert json.loads(entries[-3].data)["code"] == "poisoned"
    assert entries[-1].type == "end"


async def test_losses_with_progress_never_poison_a_task(ledger: TaskLedger, stream: EventStream) -> None:
    task_id = await accept(ledger)
    for attempt in range(1, 7):
        await claim(ledger, task_id, lease=0)
        writer = TokenWriter(task_id, attempt, attempt - 1)
        writer.add([attempt], "x")
        await stream.write(taken(writer))
        assert (await ledger.take_from_dead(task_id)).outcome == "requeued"


async def test_handovers_never_poison_a_task(ledger: TaskLedger) -> None:
    task_id = await accept(ledger)
    for attempt in range(1, 7):
        await claim(ledger, task_id)
        assert (await ledger.requeue(task_id, attempt, "handover")).outcome == "requeued"


async def test_cancel_ends_a_waiting_task_asks_a_running_one_and_leaves_an_ended_one(
    ledger: TaskLedger, redis: Redis, keys: Keys
) -> None:
    waiting = await accept(ledger)
    assert await ledger.cancel(waiting, "t") == ("revoked", "REVOKED")
    assert await ledger.cancel(waiting, "t") == ("ended", "REVOKED")
    refused = await ledger.claim(waiting, worker="w", lease_seconds=1, revision="r")
    assert isinstance(refused, NoClaim)
    assert refused.reason == "ended"

    running = await accept(ledger)
    await claim(ledger, running)
    async with redis.pubsub() as pubsub:
        await pubsub.subscribe(keys.cancel)
        await pubsub.get_message(timeout=5)
        assert await ledger.cancel(running, "t") == ("asked", "STARTED")
        message = await pubsub.get_message(timeout=5)
    assert message is not None
    assert message["data"] == running.encode()
    assert await ledger.heartbeat([(running, 1)], lease_seconds=10) == ["cancel"]
    assert (await ledger.requeue(running, 1, "handover")).outcome == "revoked"
    assert await ledger.cancel(running, "somebody else") == ("missing", None)


async def test_a_task_past_its_deadline_is_not_started(ledger: TaskLedger) -> None:
    task_id = await accept(ledger, timeout_seconds=0)
    refused = await ledger.claim(task_id, worker="w", lease_seconds=1, revision="r")
    assert isinstance(refused, NoClaim)
    assert refused.reason == "late"


async def test_an_idempotency_key_whose_task_is_gone_names_a_new_one(
    ledger: TaskLedger, redis: Redis, keys: Keys
) -> None:
    keyed = {"idempotency_key": "k", "fingerprint": "f"}
    first = await accept(ledger, **keyed)
    assert await redis.pexpiretime(keys.idempotency("t", "k")) == await redis.pexpiretime(keys.task(first))
    await redis.delete(keys.task(first))
    assert await ledger.find("t", **keyed, resent=None) is None
    second = await accept(ledger, **keyed)
    assert second != first
    assert await accept(ledger, **keyed) == second


async def test_a_record_of_a_later_version_is_refused_not_guessed(ledger: TaskLedger, redis: Redis, keys: Keys) -> None:
    task_id = await accept(ledger)
    await redis.hset(keys.task(task_id), "v", 99)
    refused = await ledger.claim(task_id, worker="w", lease_seconds=1, revision="r")
    assert isinstance(refused, NoClaim)
    assert refused.reason == "version"


async def test_a_full_queue_and_a_full_tenant_refuse_and_leave_nothing(ledger: TaskLedger, redis: Redis) -> None:
    await accept(ledger)
    before = {key async for key in redis.scan_iter()}
    with pytest.raises(QueueFull) as full:
        await accept(ledger, max_waiting=1)
    assert full.value.waiting == 1
    with pytest.raises(TenantFull):
        await accept(ledger, max_tenant_tasks=1)
    assert {key async for key in redis.scan_iter()} == before


async def test_an_idempotency_key_names_one_task(ledger: TaskLedger, lists: TaskLists) -> None:
    keyed = {"idempotency_key": "k", "fingerprint": "f"}
    ids = await asyncio.gather(*(accept(ledger, **keyed) for _ in range(8)))
    assert len(set(ids)) == 1
    assert (await lists.load("m")).waiting == 1
    with pytest.raises(IdempotencyConflict):
        await accept(ledger, idempotency_key="k", fingerprint="g")
    assert await accept(ledger, tenant="other", **keyed) not in ids


async def test_a_repeated_accept_of_one_task_id_is_one_task(
    ledger: TaskLedger, lists: TaskLists, stream: EventStream
) -> None:
    task_id = new_task_id()
    assert {await accept(ledger, task_id) for _ in range(3)} == {task_id}
    assert (await lists.load("m")).waiting == 1
    assert len(await stream.read(task_id)) == 1


async def test_what_loop_prevention_did_stands_in_the_first_event(ledger: TaskLedger, stream: EventStream) -> None:
    guarded = REQUEST.model_copy(update={"guard": Guard(repeated_calls_removed=2, reason="said before")})
    task_id = await accept(ledger, request=guarded)
    first = json.loads((await stream.read(task_id))[0].data)
    assert first["guard"]["repeatedCallsRemoved"] == 2
