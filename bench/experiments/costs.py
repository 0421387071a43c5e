"""What a task and a token cost each process and Redis: the numbers that the simulation carries to a cluster."""

import asyncio
import contextlib
import time

from redis.asyncio import Redis

from bench.experiments import Scale
from bench.lean_writer import LeanWriter
from bench.load import closed_loop
from bench.measures import Metrics, medians, percentile
from bench.results_file import Result
from bench.servers import Server, headrace
from bench.trace import Turn
from shared.store.event_stream import Entry, EntryId, TokenWrite
from shared.store.keys import Keys

TASKS = 100
SHORT, LONG = 20, 220
SOURCE = "scripted:?token_ms=20"
IDLE_SECONDS = 5.0
STEP_TASKS = 64
"""Streams that a GPU worker writes to after one engine step."""


async def costs(scale: Scale) -> Result:
    """The same tasks with short and with long answers: the difference is the tokens', the rest the task's."""
    result = Result("costs", "python -m bench run costs")
    per_token: list[Metrics] = []
    per_task: list[Metrics] = []
    async with headrace(SOURCE, slots=128) as server:
        await _spent(server, SHORT)
        for _ in range(scale.repetitions):
            short, long = await _spent(server, SHORT), await _spent(server, LONG)
            token = {name: (long[name] - short[name]) / (TASKS * (LONG - SHORT)) for name in short}
            per_token.append(token)
            per_task.append({name: short[name] / TASKS - SHORT * token[name] for name in short})
        result.arms["one writer's steps, ms"] = await _step_quantiles(server)
    result.add_arm("per token", per_token)
    result.add_arm("per task", per_task)
    idle = {shape: await _idle(*shape) for shape in ((1, 1), (2, 1), (1, 2))}
    names = idle[1, 1]
    result.arms["idle worker, per second"] = {name: idle[2, 1][name] - idle[1, 1][name] for name in names}
    result.arms["idle API replica, per second"] = {name: idle[1, 2][name] - idle[1, 1][name] for name in names}
    result.arms = {
        arm: {name: float(f"{value:.4g}") for name, value in metrics.items()} for arm, metrics in result.arms.items()
    }
    return result


async def _redis_counts(redis: Redis) -> Metrics:
    info = await redis.info("all")
    return {
        "redis_commands": float(info["total_commands_processed"]),
        "redis_cpu_s": info["used_cpu_user"] + info["used_cpu_sys"],
        "redis_bytes_in": float(info["total_net_input_bytes"]),
        "redis_bytes_out": float(info["total_net_output_bytes"]),
        "redis_memory_bytes": float(info["used_memory"]),
    }


async def _spent(server: Server, tokens: int) -> Metrics:
    """What `TASKS` tasks with so many tokens took."""
    turns = [Turn([{"role": "user", "content": f"!tokens {tokens}"}], tokens)] * TASKS
    async with Redis.from_url(server.redis_url) as redis:
        before, usage = await _redis_counts(redis), server.usage()
        load = await closed_loop(server.ask, turns, TASKS)
        after, used = await _redis_counts(redis), server.usage()
    assert not any(timeline.error for timeline in load.timelines)
    cpu = {f"{name}_cpu_s": used[name].cpu - usage[name].cpu for name in usage}
    return {name: after[name] - before[name] for name in before} | cpu


async def _step_quantiles(server: Server) -> Metrics:
    """How long Redis takes for what one engine step writes: 64 entries and their announcements."""
    port = int(server.redis_url.rpartition(":")[2].partition("/")[0])
    writer = LeanWriter(Keys("bench:"), port)
    await writer.open()
    data = b'{"type":"token","taskId":"0123456789abcdef0123456789","text":" token","index":7}'
    times = []
    for number in range(1, 200):
        writes = [
            TokenWrite(
                f"t{task}",
                Entry(EntryId(1, number), "token", data, (7,)),
                EntryId(1, number - 1),
                EntryId(1, number - 1),
            )
            for task in range(STEP_TASKS)
        ]
        begin = time.perf_counter()
        await writer.write(writes)
        await writer.replies(2 * STEP_TASKS)
        times.append(time.perf_counter() - begin)
        await asyncio.sleep(0.002)
    async with Redis.from_url(server.redis_url) as redis:
        await redis.delete(*(Keys("bench:").events(f"t{task}") for task in range(STEP_TASKS)))
    return {f"q{percent}": 1000 * percentile(times, percent) for percent in range(0, 101, 5)}


async def _idle(workers: int, replicas: int) -> Metrics:
    async with headrace(SOURCE, workers=workers, api_cpus=(None,) * replicas) as server:
        await asyncio.sleep(2)
        repetitions = []
        async with Redis.from_url(server.redis_url) as redis:
            for _ in range(2):
                before = await _redis_counts(redis)
                await asyncio.sleep(IDLE_SECONDS)
                after = await _redis_counts(redis)
                repetitions.append({name: (after[name] - before[name]) / IDLE_SECONDS for name in before})
            with contextlib.suppress(KeyError):
                clients = await redis.info("clients")
                repetitions[-1]["redis_connections"] = float(clients["connected_clients"])
    return medians(repetitions)
