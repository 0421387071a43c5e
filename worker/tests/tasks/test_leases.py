import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import cast

from shared.cancellation import cancel_and_wait
from shared.store.task_record import Claim
from testbed.task_client import SCRIPTED_MODEL, TaskClient
from testbed.valkey import Valkey
from testbed.waiting import until
from worker.tasks.leases import Leases
from worker.tasks.outcomes import AttemptEnd
from worker.tasks.redis_retry import persist
from worker.tasks.task_runner import TaskRunner

LEASE_SECONDS = 1.5


@dataclass(eq=False)
class Held:
    """What the leases know of an attempt."""

    task_id: str
    number: int
    ends: list[AttemptEnd] = field(default_factory=list)

    def end(self, end: AttemptEnd) -> None:
        self.ends.append(end)

    @property
    def causes(self) -> set[str]:
        return {end.cause for end in self.ends}


async def held(client: TaskClient) -> Held:
    """A task that this worker has claimed."""
    task_id = await client.accept("hello")
    claim = await client.ledger.claim(task_id, worker="here", lease_seconds=LEASE_SECONDS, revision="r")
    assert isinstance(claim, Claim)
    return Held(task_id, claim.attempt)


async def lease_of(client: TaskClient, task: Held) -> float:
    """When it runs out, ms."""
    expiry = await client.redis.zscore(client.keys.running(SCRIPTED_MODEL), task.task_id)
    assert expiry is not None
    return float(expiry)


@asynccontextmanager
async def kept(client: TaskClient, *tasks: Held) -> AsyncIterator[None]:
    """The leases of these tasks, while somebody keeps them."""
    runner = cast(TaskRunner, SimpleNamespace(held=set(tasks)))
    leases = Leases(runner, client.ledger, client.redis, client.keys, LEASE_SECONDS)
    keeping = [asyncio.create_task(work) for work in (leases.renew(), leases.hear_cancellations())]
    try:
        yield
    finally:
        await cancel_and_wait(*keeping)
        for task in keeping:
            assert task.cancelled(), task.exception()


async def test_a_lease_is_renewed_before_it_runs_out(client: TaskClient) -> None:
    task = await held(client)
    granted = await lease_of(client, task)

    async def renewed_after(expiry: float) -> float | None:
        return now if (now := await lease_of(client, task)) > expiry else None

    async with kept(client, task):
        first = await until(lambda: renewed_after(granted), LEASE_SECONDS)
        await until(lambda: renewed_after(first), LEASE_SECONDS)

    assert task.ends == []


async def test_a_task_that_another_worker_has_now_is_lost(client: TaskClient) -> None:
    task, kept_task = await held(client), await held(client)
    assert (await client.ledger.requeue(task.task_id, task.number, "handover")).outcome == "requeued"
    assert isinstance(
        await client.ledger.claim(task.task_id, worker="there", lease_seconds=LEASE_SECONDS, revision="r"), Claim
    )

    async with kept(client, task, kept_task):
        await until(lambda: task.ends, LEASE_SECONDS)

    assert (task.causes, kept_task.causes) == ({"lost"}, set())


async def test_a_task_that_this_worker_has_lost_and_claimed_again_is_lost_for_the_first_attempt_alone(
    client: TaskClient,
) -> None:
    first = await held(client)
    assert (await client.ledger.requeue(first.task_id, first.number, "handover")).outcome == "requeued"
    claim = await client.ledger.claim(first.task_id, worker="here", lease_seconds=LEASE_SECONDS, revision="r")
    assert isinstance(claim, Claim)
    second = Held(first.task_id, claim.attempt)
    granted = await lease_of(client, second)

    async def renewed() -> bool:
        return await lease_of(client, second) > granted

    async with kept(client, first, second):
        await until(renewed, LEASE_SECONDS)
        await until(lambda: first.ends, LEASE_SECONDS)

    assert (first.causes, second.causes) == ({"lost"}, set())


async def test_a_cancellation_ends_its_task_long_before_the_next_heartbeat(client: TaskClient) -> None:
    task, other = await held(client), await held(client)
    async with kept(client, task, other):
        await heard(client)
        assert await client.ledger.cancel(task.task_id, "tenant") == ("asked", "STARTED")
        await until(lambda: task.ends, LEASE_SECONDS / 6)

    assert (task.causes, other.causes) == ({"cancelled"}, set())


async def test_a_cancellation_that_the_channel_missed_comes_with_a_heartbeat(client: TaskClient) -> None:
    task = await held(client)
    assert await client.ledger.cancel(task.task_id, "tenant") == ("asked", "STARTED")

    async with kept(client, task):
        await until(lambda: task.ends, LEASE_SECONDS)

    assert task.causes == {"cancelled"}


async def test_after_an_outage_of_redis_leases_are_renewed_and_cancellations_heard_again(
    client: TaskClient, valkey: Valkey
) -> None:
    task, other = await held(client), await held(client)
    async with kept(client, task, other):
        await heard(client)
        await asyncio.to_thread(valkey.stop)
        await asyncio.to_thread(valkey.start)
        before, _ = await persist(lambda: lease_of(client, task))

        async def renewed() -> bool:
            return await lease_of(client, task) > before

        await until(renewed)
        await heard(client)
        await client.ledger.cancel(other.task_id, "tenant")
        await until(lambda: other.ends, LEASE_SECONDS / 6)

    assert (task.causes, other.causes) == (set(), {"cancelled"})


async def heard(client: TaskClient) -> None:
    """Returns when somebody listens on the cancel channel."""

    async def subscribed() -> bool:
        [(_, count)] = await client.redis.pubsub_numsub(client.keys.cancel)
        return int(count) > 0

    await until(subscribed)
