"""Redis goes away, freezes, fails over, fills up, loses its data; the network to it breaks."""

import asyncio
import os
import shutil
import signal
import time
from pathlib import Path

import pytest
from redis.asyncio import Redis

from shared.celery_app import queue_for
from shared.settings import SharedSettings
from testbed.history import History
from testbed.stack import MODEL, Stack
from testbed.tcp_proxy import TcpProxy
from testbed.valkey import Valkey
from testbed.waiting import until

QUEUE = SharedSettings().key_prefix + queue_for(MODEL, "normal")


async def run_through(headrace: Stack, valkey: Valkey, *, kill: bool, seconds: float, tokens: int) -> None:
    """Takes Redis away for some seconds in the middle of an answer; the answer must come out whole."""
    await headrace.start_worker()
    undisturbed = await headrace.run(words=tokens)
    history = await headrace.submit(words=tokens)
    history.expected = undisturbed.text
    following = await headrace.until_tokens(history, 5)
    if kill:
        os.kill(valkey.pid, signal.SIGKILL)
    valkey.stop()
    began = time.monotonic()
    refused = await headrace.rpc("create_message", {"message": "hello"})
    assert time.monotonic() - began < 5
    assert refused["error"]["code"] == -32007
    assert refused["error"]["data"]["retryable"] is True
    assert refused["error"]["data"]["retryAfterSeconds"] > 0
    await asyncio.sleep(seconds)  # the fault itself: how long Redis is away
    valkey.start()
    await following
    assert history.state == "SUCCESS"
    assert headrace.workers[0].popen is not None
    assert headrace.workers[0].popen.poll() is None, "the worker exited"
    later = await headrace.run(words=tokens)
    assert later.text == undisturbed.text


async def test_a_restart_of_redis_in_the_middle_of_an_answer(headrace: Stack, valkey: Valkey) -> None:
    await run_through(headrace, valkey, kill=False, seconds=3, tokens=500)


@pytest.mark.slow
async def test_a_kill_of_redis_with_its_last_writes_on_disk(headrace: Stack, valkey: Valkey, redis: Redis) -> None:
    await redis.config_set("appendfsync", "always")
    await run_through(headrace, valkey, kill=True, seconds=1, tokens=500)


@pytest.mark.slow
async def test_a_task_that_ends_while_redis_is_away_does_not_run_twice_visibly(headrace: Stack, valkey: Valkey) -> None:
    await run_through(headrace, valkey, kill=False, seconds=30, tokens=60)


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [6, 40])
async def test_a_frozen_redis_loses_nothing_and_refuses_fast(headrace: Stack, valkey: Valkey, seconds: float) -> None:
    await headrace.start_worker()
    undisturbed = await headrace.run(words=400)
    history = await headrace.submit(words=400)
    history.expected = undisturbed.text
    following = await headrace.until_tokens(history, 5)
    os.kill(valkey.pid, signal.SIGSTOP)
    try:
        began = time.monotonic()
        refused = await headrace.rpc("create_message", {"message": "hello"})
        assert time.monotonic() - began < 5
        assert refused["error"]["code"] == -32007
        await asyncio.sleep(seconds)  # the fault itself
    finally:
        os.kill(valkey.pid, signal.SIGCONT)
    await following
    assert history.state == "SUCCESS"


@pytest.mark.slow
async def test_a_restart_of_redis_without_its_data_is_told_and_service_resumes(
    headrace: Stack, valkey: Valkey, tmp_path: Path
) -> None:
    await headrace.start_worker("scripted:?token_ms=50")
    histories = [await headrace.submit(words=1000) for _ in range(3)]
    followings = [await headrace.until_tokens(history, 3) for history in histories]
    queued = await headrace.submit(text="!tokens 5")
    followings.append(asyncio.create_task(headrace.follow(queued)))
    await until(lambda: bool(queued.seen), 10, "its client is there")
    os.kill(valkey.pid, signal.SIGKILL)
    valkey.stop()
    shutil.rmtree(tmp_path / "valkey")
    valkey.start()
    back_at = time.monotonic()
    await asyncio.gather(*followings)
    for history in [*histories, queued]:
        headrace.histories.remove(history)
        told = history.refused.startswith("410") or [one.data["code"] for one in history.of("error")] == ["data_lost"]
        assert told, history.describe()
    assert time.monotonic() - back_at < 10
    assert (await headrace.run()).state == "SUCCESS"


async def test_data_loss_is_told_never_silence(headrace: Stack, redis: Redis) -> None:
    await headrace.start_worker("scripted:?token_ms=50")
    history = await headrace.submit(words=1000)
    headrace.histories.remove(history)
    following = await headrace.until_tokens(history, 5)
    await redis.flushall()
    flushed_at = time.monotonic()
    await following
    told = history.refused.startswith("410") or [one.data["code"] for one in history.of("error")] == ["data_lost"]
    assert told, history.describe()
    assert time.monotonic() - flushed_at < 10
    assert (await headrace.run()).state == "SUCCESS"


async def test_a_message_that_vanished_from_the_queue_is_sent_again(headrace: Stack, redis: Redis) -> None:
    history = await headrace.submit()
    assert await redis.delete(QUEUE) == 1
    await headrace.start_worker()
    await headrace.follow(history)
    assert history.state == "SUCCESS"


async def test_a_message_delivered_twice_runs_once(headrace: Stack, redis: Redis) -> None:
    histories = [await headrace.submit() for _ in range(3)]
    messages = await redis.lrange(QUEUE, 0, -1)
    assert len(messages) == 3
    for message in messages:
        await redis.lpush(QUEUE, message)
    await headrace.start_worker()
    for history in histories:
        await headrace.follow(history)
        assert [one.data.get("attempt") for one in history.of("status") if one.data["state"] == "STARTED"] == [1]


async def test_full_memory_refuses_new_work_and_lets_running_work_end(headrace: Stack, redis: Redis) -> None:
    await headrace.start_worker()
    undisturbed = await headrace.run(words=300)
    history = await headrace.submit(words=300)
    history.expected = undisturbed.text
    following = await headrace.until_tokens(history, 5)
    used = (await redis.info("memory"))["used_memory"]
    await redis.config_set("maxmemory", int(used))
    try:
        refused = await headrace.rpc("create_message", {"message": "hello"})
        assert refused["error"]["code"] == -32007, refused
        await asyncio.sleep(2)  # the fault itself: every write is refused
    finally:
        await redis.config_set("maxmemory", 0)
    await following
    assert history.state == "SUCCESS"
    assert (await headrace.run(words=300)).text == undisturbed.text


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["blackhole", "resets", "latency", "lost_replies"])
async def test_a_broken_network_between_worker_and_redis(headrace: Stack, valkey: Valkey, fault: str) -> None:
    proxy = TcpProxy(valkey.port)
    await proxy.start()
    try:
        worker = await headrace.start_worker(HEADRACE_REDIS_URL=f"redis://127.0.0.1:{proxy.port}/0")
        undisturbed = await headrace.run(words=300)
        histories = [await headrace.submit(words=300) for _ in range(4)]
        followings = [await headrace.until_tokens(history, 3) for history in histories]
        match fault:
            case "blackhole":
                proxy.blackhole()
                await asyncio.sleep(6)  # the fault itself: longer than the lease and the socket time-out
                proxy.heal()
            case "resets":
                proxy.reset_every = 7
                await asyncio.sleep(3)
                proxy.reset_every = 0
            case "latency":
                proxy.latency = 0.2
                await asyncio.sleep(3)
                proxy.latency = 0.0
            case "lost_replies":
                proxy.swallow_replies()
                await asyncio.sleep(1)
                proxy.reset_all()
                proxy.heal()
        await asyncio.gather(*followings)
        for history in histories:
            history.expected = undisturbed.text
            assert history.state == "SUCCESS", history.describe()
        assert (await headrace.run(words=300)).text == undisturbed.text
        assert worker.popen is not None
        assert worker.popen.poll() is None, "the worker exited"
    finally:
        await proxy.stop()


async def test_a_publish_whose_reply_was_lost_makes_one_task(headrace: Stack, valkey: Valkey) -> None:
    proxy = TcpProxy(valkey.port)
    await proxy.start()
    try:
        await headrace.start_api(HEADRACE_REDIS_URL=f"redis://127.0.0.1:{proxy.port}/0")
        await headrace.start_worker()
        keyed = {"message": "!tokens 5", "idempotencyKey": "once"}
        warm_up = await headrace.rpc("create_message", {**keyed, "idempotencyKey": "warm-up"}, replica=1)
        assert "result" in warm_up
        proxy.swallow_replies()
        unknown = await headrace.rpc("create_message", keyed, replica=1)
        assert unknown["error"]["code"] == -32007
        proxy.heal()
        proxy.reset_all()
        first = await headrace.rpc("create_message", keyed, replica=0)
        second = await headrace.rpc("create_message", keyed, replica=0)
        assert first["result"] == second["result"]
        for reply in (warm_up, first):
            history = History(reply["result"]["taskId"], time.monotonic() + 60)
            headrace.histories.append(history)
            await headrace.follow(history)
    finally:
        await proxy.stop()
