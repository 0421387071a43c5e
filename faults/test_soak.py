"""The soak: random faults under load for some minutes, then the books must balance.

`make soak MINUTES=10` runs it; SOAK_SECONDS and SOAK_SEED set length and seed.
"""

import asyncio
import functools
import json
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import RedisError

from shared.store.event_stream import EventStream
from shared.store.keys import Keys
from testbed.footprint import Footprint
from testbed.history import History, check_stream
from testbed.stack import LEASE, Process, Stack
from testbed.valkey import Valkey
from testbed.waiting import until
from testbed.worker_process import engine_of

SECONDS = float(os.environ.get("SOAK_SECONDS", "20"))
SEED = int(os.environ.get("SOAK_SEED", "1"))
CLIENTS = 12
SLOTS = 8
"""Of a worker; as many connections its pool for Celery's results has when so many tasks have ended at once."""
WARM_UP = min(30.0, SECONDS / 4)
RETENTION = 30.0
"""Seconds. Short, so that what a task leaves in Redis can be seen to go."""
TIMEOUT = 120
REDIS_BYTES = 2 * 2**20
"""What Redis may hold more than at the beginning when everything has expired, but for what is counted beside it; 20 KB
per task would be above it after a hundred tasks."""
IDEMPOTENCY_BYTES = 1024
"""A key that is still remembered: until its task's time-out and the retention are over."""
FIXED_KEYS = 40
"""Keys that do not depend on how many tasks there were: queues, sets, locks, workers' announcements."""
PER_TASK = ("headrace:task", "headrace:events", "celery-task-meta-")


@pytest.mark.slow
async def test_after_random_faults_accepted_is_ended_lost_is_zero_duplicates_are_zero(
    headrace: Stack, valkey: Valkey, redis: Redis, keys: Keys
) -> None:
    headrace.env["HEADRACE_RETENTION_SECONDS"] = str(RETENTION)
    headrace.apis.pop().stop()
    headrace.urls.clear()
    for _ in range(3):
        await headrace.start_api()
        await _start_worker(headrace)
    # One replica and one worker are frozen, lose Redis and their peers, but are never killed: what leaks shows in them.
    api, worker = headrace.apis[0], headrace.workers[0]
    expected = {length: (await headrace.run(words=length)).text for length in (5, 50, 150)}
    stream = EventStream(redis, keys)
    used_before = await _used_memory(redis)

    await asyncio.gather(_outages(valkey), _load(headrace, stream, expected, WARM_UP))
    witnesses = {"api": api.pid, "worker": worker.pid, "engine": engine_of(worker.pid)}
    before = {name: Footprint.of(pid) for name, pid in witnesses.items()}
    counted = len(headrace.histories)
    ended_before = await _ended_by(headrace, worker)

    counts: Counter[str] = Counter()
    async with asyncio.TaskGroup() as group:
        group.create_task(_faults(headrace, valkey, (api, worker), counts))
        group.create_task(_load(headrace, stream, expected, SECONDS))

    served = await _ended_by(headrace, worker) - ended_before
    read = sum(any(one.replica == headrace.urls[0] for one in history.seen) for history in headrace.histories[counted:])
    tasks = {"api": read, "worker": served, "engine": served}
    after = {name: Footprint.of(pid) for name, pid in witnesses.items()}
    growth = {name: after[name].since(before[name]) | {"tasks": tasks[name]} for name in witnesses}
    await until(lambda: _expired(redis), 2 * RETENTION, "all that belongs to tasks expires")
    left = Counter([_kind(key) async for key in redis.scan_iter(count=1000)])
    remembered = left.pop("headrace:idempotency", 0)
    used = await _used_memory(redis) - used_before

    ended = [history for history in headrace.histories if history.ended]
    report = {
        "seed": SEED, "seconds": SECONDS, "faults": counts, "accepted": len(headrace.histories), "ended": len(ended),
        "lost": len(headrace.histories) - len(ended),
        "duplicates_seen": sum(_duplicates(history) for history in headrace.histories),
        "resumed": sum(history.connections - 1 for history in headrace.histories),
        "taken_over": sum(any(one.id.attempt > 1 for one in history.seen) for history in headrace.histories),
        "longest_silence": round(max(history.longest_silence for history in headrace.histories), 1),
        "growth": growth,
        "redis": {"kilobytes": used // 1024, "keys": left, "idempotency_keys": remembered},
    }  # fmt: skip
    print(json.dumps(report))
    assert report["lost"] == 0
    assert report["duplicates_seen"] == 0
    for history in headrace.histories:
        assert history.state == "SUCCESS", history.describe()
    for name in witnesses:
        pooled = SLOTS if name == "worker" else 0
        assert after[name].within(before[name], tasks[name], pooled), f"{name} has grown: {growth[name]}"
    assert sum(left.values()) <= FIXED_KEYS
    assert used <= REDIS_BYTES + remembered * IDEMPOTENCY_BYTES


async def _start_worker(headrace: Stack) -> None:
    await headrace.start_worker(HEADRACE_SLOTS=str(SLOTS), HEADRACE_DRAIN_SECONDS="1")


async def _load(headrace: Stack, stream: EventStream, expected: dict[int, str], seconds: float) -> None:
    """Clients that ask and read for so long; returns when all that they asked for has ended."""
    stop_at = time.monotonic() + seconds

    async def one_client(number: int) -> None:
        chooser = random.Random(f"{SEED}-{number}-{seconds}")
        replicas = headrace.urls[number % 3 :] + headrace.urls[: number % 3]
        while time.monotonic() < stop_at:
            length = chooser.choice(list(expected))
            key = f"{number}-{chooser.random()}"
            history = await _submit_surely(headrace, words=length, timeoutSeconds=TIMEOUT, idempotencyKey=key)
            history.expected = expected[length]
            await headrace.follow(history, TIMEOUT, replicas)
            await _when_redis_is_there(functools.partial(check_stream, stream, history.task_id))  # before it expires

    async with asyncio.TaskGroup() as group:
        for number in range(CLIENTS):
            group.create_task(one_client(number))


async def _outages(valkey: Valkey) -> None:
    """In the warm-up, so that a first reconnect is not taken for growth."""
    for _ in range(2):
        await asyncio.sleep(WARM_UP / 3)
        valkey.stop()
        valkey.start()


async def _faults(headrace: Stack, valkey: Valkey, spared: tuple[Process, ...], counts: Counter[str]) -> None:
    dice = random.Random(SEED)
    kinds = {"kill": 4, "term": 3, "freeze": 2, "api": 2, "redis": 1}
    stop_at = time.monotonic() + SECONDS
    while time.monotonic() < stop_at:
        await asyncio.sleep(dice.uniform(1, 4))  # the pace of the faults
        fault = dice.choices(list(kinds), weights=list(kinds.values()))[0]
        counts[fault] += 1
        match fault:
            case "kill" | "term":
                victim = dice.choice([one for one in headrace.workers if one not in spared])
                if fault == "kill":
                    victim.kill()
                else:
                    victim.send(signal.SIGTERM)
                    await victim.wait(20)
                headrace.workers.remove(victim)
                victim.stop()
                await _start_worker(headrace)
            case "freeze":
                victim = dice.choice(headrace.workers)
                victim.freeze()
                await asyncio.sleep(dice.choice([0.5, 2 * LEASE]))  # the fault itself
                victim.thaw()
            case "api":
                victim = dice.choice([one for one in headrace.apis if one not in spared])
                victim.kill() if dice.random() < 0.5 else victim.send(signal.SIGTERM)
                await victim.wait(20)
                victim.start()
            case "redis":
                valkey.stop()
                await asyncio.sleep(dice.uniform(0.1, 2))  # the fault itself
                valkey.start()


async def _submit_surely(headrace: Stack, **params: Any) -> History:
    """A client that retries with its idempotency key until one replica says that the task is accepted."""
    while True:
        for replica in range(len(headrace.urls)):
            try:
                return await headrace.submit(replica=replica, **params)
            except Exception as error:  # refused, or the replica is down: that is what the key is for
                if isinstance(error, AssertionError) and "-32602" in str(error):
                    raise
        await asyncio.sleep(0.1)  # a client backs off


async def _when_redis_is_there(call: Callable[[], Awaitable[None]]) -> None:
    stop_at = time.monotonic() + TIMEOUT
    while True:
        try:
            return await call()
        except RedisError:
            assert time.monotonic() < stop_at
            await asyncio.sleep(0.1)  # the outage that the soak makes


async def _ended_by(headrace: Stack, worker: Process) -> int:
    """Tasks that the worker has ended."""
    reply = await headrace.client.get(f"http://127.0.0.1:{worker.env['HEADRACE_INTERNAL_PORT']}/metrics")
    lines = [line for line in reply.text.splitlines() if line.startswith("headrace_tasks_ended_total{")]
    return sum(int(float(line.rpartition(" ")[2])) for line in lines)


async def _used_memory(redis: Redis) -> int:
    return int((await redis.info("memory"))["used_memory"])


async def _expired(redis: Redis) -> bool:
    return not any([_kind(key) in PER_TASK async for key in redis.scan_iter(count=1000)])


def _kind(key: bytes) -> str:
    """The key without what is different for each task."""
    name = key.decode()
    return "celery-task-meta-" if name.startswith("celery-task-meta-") else name.partition(":{")[0]


def _duplicates(history: History) -> int:
    ids = [one.id for one in history.of("token")]
    return len(ids) - len(set(ids))
