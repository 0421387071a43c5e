"""A failover by Sentinel: real servers, one master, one replica, one Sentinel."""

import asyncio
import functools
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from redis.asyncio import Redis

from shared.settings import SharedSettings
from shared.store.event_stream import EventStream
from shared.store.keys import Keys
from testbed.history import History, check_client, check_stream
from testbed.sentinel import SentinelSetup
from testbed.silence import report_silence
from testbed.stack import Stack, stack
from testbed.waiting import until

FAILOVER = 15.0
"""Seconds within which clients hear of a failover, or what it lost."""


@pytest.fixture
def sentinel_setup(tmp_path: Path) -> Iterator[SentinelSetup]:
    setup = SentinelSetup(tmp_path)
    yield setup
    setup.close()


@pytest.fixture
async def headrace(
    sentinel_setup: SentinelSetup, tmp_path: Path, request: pytest.FixtureRequest
) -> AsyncIterator[Stack]:
    """Judged by each test: what clients are told differs."""
    async with stack(sentinel_setup.url, tmp_path) as running:
        await running.start_api()
        yield running
        report_silence(request, running)


@pytest.mark.slow
async def test_a_failover_keeps_tasks_streams_and_workers(headrace: Stack, sentinel_setup: SentinelSetup) -> None:
    await headrace.start_worker()
    undisturbed = await headrace.run(words=600)
    histories = [await headrace.submit(words=600) for _ in range(4)]
    followings = [await headrace.until_tokens(history, 5) for history in histories]
    sentinel_setup.master.kill()
    await asyncio.gather(*followings)
    for history in histories:
        check_client(history, undisturbed.text)
        assert history.state == "SUCCESS"
    assert (await headrace.run()).state == "SUCCESS"
    worker = headrace.workers[0].popen
    assert worker is not None
    assert worker.poll() is None, "the worker exited"


async def part_and_fail_over(headrace: Stack, servers: SentinelSetup, histories: list[History]) -> None:
    """Fails over to a replica that lacks the last twenty events that each client has seen."""
    servers.part()
    goals = {history.task_id: len(history.of("token")) + 20 for history in histories}
    for history in histories:
        await until(functools.partial(has_tokens, history, goals[history.task_id]), 10, "tokens")
    servers.master.kill()


def has_tokens(history: History, count: int) -> bool:
    return len(history.of("token")) >= count


def check_told(history: History, failed_at: float) -> None:
    """The client was told, in time, and nothing that it had seen came to it again."""
    story = history.describe()
    told = history.refused.startswith("410") or [one.data["code"] for one in history.of("error")] == ["data_lost"]
    assert told, story
    assert time.monotonic() - failed_at <= FAILOVER
    indexes = [one.data["index"] for one in history.of("token")]
    assert indexes == sorted(set(indexes)), story


async def status_of_resume(headrace: Stack, history: History) -> int:
    cursor = str(history.of("token")[-1].id)
    url = f"{headrace.urls[0]}/stream/{history.task_id}"
    return (await headrace.client.get(url, headers={"Last-Event-ID": cursor})).status_code


@pytest.mark.slow
async def test_a_failover_that_loses_the_last_writes_is_told_to_who_has_seen_them(
    headrace: Stack, sentinel_setup: SentinelSetup
) -> None:
    await headrace.start_worker("scripted:?token_ms=20")
    histories = [await headrace.submit(words=2000) for _ in range(3)]
    followings = [await headrace.until_tokens(history, 5) for history in histories]
    await part_and_fail_over(headrace, sentinel_setup, histories)
    failed_at = time.monotonic()
    await asyncio.gather(*followings)
    for history in histories:
        check_told(history, failed_at)
        assert await headrace.state(history) == "FAILURE"  # the worker knows that there is a hole in the answer
        assert await status_of_resume(headrace, history) == 410
    assert (await headrace.run()).state == "SUCCESS"


@pytest.mark.slow
async def test_a_failover_that_loses_a_whole_task_is_told(headrace: Stack, sentinel_setup: SentinelSetup) -> None:
    await headrace.start_worker("scripted:?token_ms=20")
    await headrace.run()
    sentinel_setup.part()
    history = await headrace.submit(words=2000)
    following = await headrace.until_tokens(history, 20)
    sentinel_setup.master.kill()
    failed_at = time.monotonic()
    await following
    check_told(history, failed_at)
    assert await status_of_resume(headrace, history) == 410
    assert (await headrace.run()).state == "SUCCESS"


@pytest.mark.slow
async def test_a_failover_that_takes_the_worker_along_repeats_nothing_to_who_has_seen_more(
    headrace: Stack, sentinel_setup: SentinelSetup
) -> None:
    await headrace.start_worker("scripted:?token_ms=20")
    undisturbed = await headrace.run(words=200)
    history = await headrace.submit(words=200)
    following = await headrace.until_tokens(history, 5)
    await part_and_fail_over(headrace, sentinel_setup, [history])
    failed_at = time.monotonic()
    headrace.workers[0].kill()
    await headrace.start_worker("scripted:?token_ms=20")
    await following
    check_told(history, failed_at)
    assert await status_of_resume(headrace, history) == 410
    # The task itself goes on from what Redis has, once: who begins anew gets the whole answer.
    anew = await headrace.follow(History(history.task_id, history.deadline))
    check_client(anew, undisturbed.text)
    assert anew.state == "SUCCESS"
    async with Redis(port=sentinel_setup.replica_port) as promoted:
        await check_stream(EventStream(promoted, Keys(SharedSettings().key_prefix)), history.task_id)


async def test_sentinels_may_ask_for_a_password_of_their_own(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    setup = SentinelSetup(tmp_path, password="sesame")
    try:
        async with stack(setup.url, tmp_path, HEADRACE_REDIS_SENTINEL_PASSWORD="sesame") as running:
            await running.start_api()
            await running.start_worker()
            assert (await running.run()).state == "SUCCESS"
            assert "sesame" not in running.logs()
            report_silence(request, running)
    finally:
        setup.close()
