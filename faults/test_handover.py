"""A worker that is told to stop: it finishes what it can and hands the rest over, ahead of the backlog."""

import asyncio
import signal
import time

import pytest

from api.repair.lost_messages import MISSED_SECONDS
from testbed.stack import LEASE, Stack
from testbed.waiting import until


async def test_sigterm_hands_running_tasks_over_ahead_of_the_backlog(headrace: Stack) -> None:
    await headrace.start_worker("scripted:?token_ms=20", HEADRACE_SLOTS="2", HEADRACE_DRAIN_SECONDS="0.2")
    undisturbed = await headrace.run(words=200)
    running = [await headrace.submit(words=200) for _ in range(2)]
    followings = [await headrace.until_tokens(history, 5) for history in running]
    backlog = [await headrace.submit() for _ in range(6)]
    worker = headrace.workers[0]
    sent_at = time.monotonic()
    worker.send(signal.SIGTERM)
    assert await worker.wait(10) == 0
    assert time.monotonic() - sent_at < 5
    await headrace.start_worker("scripted:?token_ms=20", HEADRACE_SLOTS="2")
    await asyncio.gather(*followings, *(headrace.follow(history) for history in backlog))
    for history in running:
        history.expected = undisturbed.text
        assert (history.started, history.retries, history.state) == ([1, 2], 1, "SUCCESS")
    assert all(history.started == [1] for history in backlog)
    first_of_backlog = min(history.of("token")[0].at for history in backlog)
    for history in running:
        resumed = next(one.at for one in history.of("token") if one.id.attempt == 2)
        assert resumed < first_of_backlog, "the backlog went first"


async def test_what_ends_within_the_drain_is_not_handed_over(headrace: Stack) -> None:
    await headrace.start_worker(HEADRACE_DRAIN_SECONDS="10")
    history = await headrace.submit()
    following = await headrace.until_tokens(history, 2)
    headrace.workers[0].send(signal.SIGTERM)
    await following
    assert await headrace.workers[0].wait(10) == 0
    assert (history.started, history.state) == ([1], "SUCCESS")


async def test_sigterm_twice_is_not_a_crash(headrace: Stack) -> None:
    await headrace.start_worker(HEADRACE_DRAIN_SECONDS="1")
    history = await headrace.submit(words=400)
    following = await headrace.until_tokens(history, 2)
    worker = headrace.workers[0]
    worker.send(signal.SIGTERM)
    worker.send(signal.SIGTERM)
    assert await worker.wait(10) == 0
    await headrace.start_worker()
    await following
    assert history.state == "SUCCESS"


@pytest.mark.slow
async def test_a_worker_exits_within_its_budget_even_with_a_stuck_engine(headrace: Stack) -> None:
    await headrace.start_worker(HEADRACE_DRAIN_SECONDS="1")
    hang = await headrace.submit("!hang", timeoutSeconds=12)

    async def started_once() -> bool:
        return await headrace.state(hang) == "STARTED"

    await until(started_once, 10, "the task is started")
    headrace.workers[0].send(signal.SIGTERM)
    await headrace.workers[0].wait(12)
    await headrace.follow(hang)
    assert hang.of("error")[0].data["code"] == "deadline_exceeded"


@pytest.mark.slow
async def test_a_kill_in_the_middle_of_the_drain_loses_nothing(headrace: Stack) -> None:
    for _ in range(2):
        await headrace.start_worker(HEADRACE_DRAIN_SECONDS="20")
    undisturbed = await headrace.run(words=300)
    history = await headrace.submit(words=300)
    history.expected = undisturbed.text
    following = await headrace.until_tokens(history, 5)
    victim = await headrace.holder(history)
    victim.send(signal.SIGTERM)
    await until(lambda: len(history.of("token")) >= 20, 10, "tokens while it drains")
    killed_at = time.monotonic()
    victim.kill()
    await following
    assert (history.started, history.state) == ([1, 2], "SUCCESS")
    assert history.first_token_of(2) - killed_at <= LEASE + 2


@pytest.mark.slow
async def test_a_kill_in_the_middle_of_the_hand_over_loses_nothing(headrace: Stack) -> None:
    for _ in range(2):
        await headrace.start_worker("scripted:?token_ms=20", HEADRACE_DRAIN_SECONDS="0")
    undisturbed = await headrace.run(words=600)
    histories = [await headrace.submit(words=600) for _ in range(16)]
    followings = [await headrace.until_tokens(history, 1) for history in histories]
    victim = await headrace.holder(histories[-1])
    held = [history for history in histories if await headrace.holder(history) is victim]
    victim.send(signal.SIGTERM)
    # Some are handed over, of some the message is not sent yet, some are still held.
    await until(lambda: any(history.retries for history in held), 10, "the first is handed over")
    killed_at = time.monotonic()
    victim.kill()
    await asyncio.gather(*followings)
    for history in histories:
        history.expected = undisturbed.text
        assert (history.started, history.state) == ([1, 2] if history in held else [1], "SUCCESS")
    for history in held:
        # Its lease may have been given up and its message not been sent: then the janitor sends one.
        assert history.first_token_of(2) - killed_at <= max(LEASE, MISSED_SECONDS + 1) + 2


async def test_a_cancel_during_the_drain_wins(headrace: Stack) -> None:
    await headrace.start_worker(HEADRACE_DRAIN_SECONDS="10")
    history = await headrace.submit(words=1000)
    following = await headrace.until_tokens(history, 5)
    headrace.workers[0].send(signal.SIGTERM)
    asked_at = time.monotonic()
    assert (await headrace.cancel(history))["cancelled"] is True
    await following
    assert (history.started, history.state) == ([1], "REVOKED")
    assert history.seen[-1].at - asked_at <= 1
    assert await headrace.workers[0].wait(10) == 0
