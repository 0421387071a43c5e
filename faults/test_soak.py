"""The soak: random faults under load for some minutes, then the books must balance.

`make soak MINUTES=10` runs it; HEADRACE_SOAK_SECONDS and HEADRACE_SOAK_SEED set length and seed.
"""

import asyncio
import json
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import Valkey
from redis.asyncio import Redis

from faults.history import History
from faults.stack import LEASE, Process, Stack

SECONDS = float(os.environ.get("HEADRACE_SOAK_SECONDS", "20"))
SEED = int(os.environ.get("HEADRACE_SOAK_SEED", "1"))
CLIENTS = 12


@pytest.mark.slow
async def test_after_random_faults_accepted_is_ended_lost_is_zero_duplicates_are_zero(
    headrace: Stack, valkey: Valkey, redis: Redis, tmp_path: Path
) -> None:
    dice = random.Random(SEED)
    await headrace.start_api()
    for _ in range(2):
        await headrace.start_worker(HEADRACE_SLOTS="8", HEADRACE_DRAIN_SECONDS="1")
    expected = {length: (await headrace.run(words=length)).text for length in (5, 50, 150)}
    open_files = {process.name: _open_files(process) for process in headrace.apis}
    stop_at = time.monotonic() + SECONDS
    counts = {"kill": 0, "term": 0, "freeze": 0, "api": 0, "redis": 0}

    async def one_client(number: int) -> None:
        chooser = random.Random(SEED * 1000 + number)
        while time.monotonic() < stop_at:
            length = chooser.choice(list(expected))
            key = f"{number}-{chooser.random()}"
            history = await _submit_surely(headrace, words=length, timeoutSeconds=300, idempotencyKey=key)
            history.expected = expected[length]
            await headrace.follow(history, 300)

    async def faults() -> None:
        while time.monotonic() < stop_at:
            await asyncio.sleep(dice.uniform(1, 4))  # the pace of the faults
            fault = dice.choices(list(counts), weights=(4, 3, 2, 2, 1))[0]
            counts[fault] += 1
            match fault:
                case "kill" | "term":
                    victim = dice.choice(headrace.workers)
                    if fault == "kill":
                        victim.kill()
                    else:
                        victim.send(signal.SIGTERM)
                        await victim.wait(20)
                    headrace.workers.remove(victim)
                    victim.stop()
                    await headrace.start_worker(HEADRACE_SLOTS="8", HEADRACE_DRAIN_SECONDS="1")
                case "freeze":
                    victim = dice.choice(headrace.workers)
                    victim.freeze()
                    await asyncio.sleep(dice.choice([0.5, 2 * LEASE]))  # the fault itself
                    victim.thaw()
                case "api":
                    victim = dice.choice(headrace.apis)
                    victim.kill() if dice.random() < 0.5 else victim.send(signal.SIGTERM)
                    await victim.wait(20)
                    victim.start()
                case "redis":
                    valkey.stop()
                    await asyncio.sleep(dice.uniform(0.1, 2))  # the fault itself
                    valkey.start()

    async with asyncio.TaskGroup() as group:
        group.create_task(faults())
        for number in range(CLIENTS):
            group.create_task(one_client(number))

    ended = [history for history in headrace.histories if history.ended]
    report = {
        "seed": SEED, "seconds": SECONDS, "faults": counts, "accepted": len(headrace.histories), "ended": len(ended),
        "lost": len(headrace.histories) - len(ended),
        "duplicates_seen": sum(_duplicates(history) for history in headrace.histories),
        "resumed": sum(history.connections - 1 for history in headrace.histories),
        "taken_over": sum(any(one.id.attempt > 1 for one in history.seen) for history in headrace.histories),
    }  # fmt: skip
    print(json.dumps(report))
    assert report["lost"] == 0
    assert report["duplicates_seen"] == 0
    for history in headrace.histories:
        assert history.state == "SUCCESS", history.describe()
    for process in headrace.apis:
        assert _open_files(process) <= open_files[process.name] + 50
        assert _threads(process) < 100


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


def _duplicates(history: History) -> int:
    ids = [one.id for one in history.of("token")]
    return len(ids) - len(set(ids))


def _open_files(process: Process) -> int:
    return len(os.listdir(f"/proc/{process.pid}/fd"))


def _threads(process: Process) -> int:
    return len(os.listdir(f"/proc/{process.pid}/task"))
