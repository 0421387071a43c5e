"""Replicas and workers whose clocks are half a minute ahead or behind: no task is lost, late or passed over by that."""

import asyncio
import time
from collections.abc import Iterator
from uuid import UUID

import pytest
from redis.asyncio import Redis

from shared.store.keys import Keys
from testbed.clocks import clock, tidy_up
from testbed.history import History
from testbed.stack import LEASE, MODEL, Process, Stack
from testbed.waiting import until

pytestmark = pytest.mark.slow

WRONG = 30
"""Seconds; ten leases."""


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    """Set up before the processes, so that they are gone at its end."""
    yield
    tidy_up()


async def replicas(headrace: Stack) -> None:
    """One whose clock is ahead, one whose clock is behind, and none whose clock is right."""
    headrace.apis.pop().stop()
    headrace.urls.clear()
    await headrace.start_api(**clock(WRONG))
    await headrace.start_api(**clock(-WRONG))


async def workers(headrace: Stack, slots: int) -> tuple[Process, Process]:
    """The one whose clock is ahead, the one whose clock is behind."""
    ahead = await headrace.start_worker(HEADRACE_SLOTS=str(slots), **clock(WRONG))
    return ahead, await headrace.start_worker(HEADRACE_SLOTS=str(slots), **clock(-WRONG))


def started_at(history: History) -> float:
    return next(one.at for one in history.of("status") if one.data["state"] == "STARTED")


def taken_back_at(history: History) -> float:
    return next(one.at for one in history.of("status") if one.data["state"] == "RETRY")


def made_at(history: History) -> float:
    """Seconds since 1970 by its replica's clock."""
    return (UUID(history.task_id).int >> 80) / 1000


@pytest.mark.parametrize("worker", [WRONG, -WRONG], ids=["ahead", "behind"])
async def test_tasks_start_in_their_order_whatever_their_replica_s_clock(headrace: Stack, worker: int) -> None:
    await replicas(headrace)
    # A flow of each class; each is first come, first served, over both replicas.
    normal = [await headrace.submit(words=5, replica=number % 2) for number in range(8)]
    assert made_at(normal[0]) - made_at(normal[1]) == pytest.approx(2 * WRONG, abs=WRONG / 2)
    low = [await headrace.submit(words=5, replica=number % 2, priority="low") for number in range(4)]
    following = [asyncio.create_task(headrace.follow(history)) for history in [*normal, *low]]
    await headrace.start_worker(HEADRACE_SLOTS="1", **clock(worker))
    await asyncio.gather(*following)
    assert {history.state for history in [*normal, *low]} == {"SUCCESS"}
    for flow in (normal, low):
        assert sorted(flow, key=started_at) == flow
    order = sorted([*normal, *low], key=started_at)
    assert low[0] in order[:6], "its weight is a quarter of the others'"


async def test_a_lease_is_as_long_as_ever_whatever_the_workers_clocks(headrace: Stack) -> None:
    await replicas(headrace)
    ahead, _ = await workers(headrace, slots=2)
    running = [await headrace.submit(words=1000, replica=number % 2) for number in range(4)]
    following = [await headrace.until_tokens(history, 3) for history in running]
    of_ahead = [history for history in running if await headrace.holder(history) is ahead]
    assert len(of_ahead) == 2
    await asyncio.sleep(LEASE + 1)  # nobody takes from those that live
    assert all(history.started == [1] for history in running)
    killed_at = time.monotonic()
    ahead.kill()
    await asyncio.gather(*following)
    assert {history.state for history in running} == {"SUCCESS"}
    for history in running:
        assert history.started == ([1, 2] if history in of_ahead else [1])
    for history in of_ahead:
        assert taken_back_at(history) - killed_at <= LEASE + 2


async def test_a_prompt_s_home_is_known_whatever_the_workers_clocks(headrace: Stack, redis: Redis, keys: Keys) -> None:
    await replicas(headrace)
    await workers(headrace, slots=2)

    async def both_announced() -> bool:
        return await redis.zcard(keys.workers(MODEL)) == 2

    await until(both_announced, 10, "both workers are known")
    prompt = "It begins with many words. " * 40
    for replica in (0, 1) * 3:
        first = await headrace.run(prompt, words=5, replica=1 - replica)
        computed = (await headrace.holder(first)).name
        history = await headrace.run(prompt, words=5, replica=replica)
        assert await redis.hget(keys.task(history.task_id), "home") == computed.encode()
