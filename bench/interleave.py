"""Repetitions in turns, A B A B: what slows the machine down for a while slows all arms down."""

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping

from bench.load import Load
from bench.measures import Bound, Metrics, cpu_per_1000, summary
from bench.processes import ended
from bench.servers import Server

Measure = Callable[[int], Awaitable[Metrics]]
"""One repetition, by its number."""


async def interleaved(arms: Mapping[str, Measure], repetitions: int) -> dict[str, list[Metrics]]:
    """Each arm's metrics, one element per repetition."""
    results: dict[str, list[Metrics]] = {name: [] for name in arms}
    for number in range(repetitions):
        for name, measure in arms.items():
            metrics = await measure(number)
            metrics["load_average"] = round(os.getloadavg()[0], 2)
            results[name].append(metrics)
            print(f"  {name} #{number + 1}: " + _line(metrics), flush=True)
    return results


def _line(metrics: Metrics) -> str:
    times = (
        "first_token_ms_p50",
        "per_token_ms_p50",
        "per_token_ms_p99",
        "submit_ms_p50",
        "latency_ms_p50",
        "latency_ms_p95",
    )
    shown = ("tokens_per_s", "delivered_per_second", *times, "errors")
    return ", ".join(f"{name} {metrics[name]:g}" for name in shown if name in metrics)


async def observed(server: Server, run: Callable[[], Awaitable[Load]], bound: Bound | None = None) -> Metrics:
    """Runs load against a server: the clients' metrics, each process's CPU and memory, the generator's own state."""
    before = server.usage()
    load = await _while_alive(server, asyncio.ensure_future(run()))
    after = server.usage()
    metrics = summary(load.timelines, load.elapsed, bound)
    metrics |= cpu_per_1000({name: after[name].cpu - before[name].cpu for name in before}, metrics["tokens"])
    metrics |= {f"memory_mib_{name}": round(usage.resident / 2**20, 1) for name, usage in after.items()}
    return metrics | load.own_metrics()


async def _while_alive(server: Server, work: asyncio.Future[Load]) -> Load:
    """The work's result. Raises RuntimeError when a process of the server ends: some clients would wait for ever."""
    try:
        while not work.done():
            await asyncio.wait([work], timeout=1)
            dead = [name for name, pid in server.pids.items() if ended(pid)]
            if dead and not work.done():
                raise RuntimeError(f"{server.name}: the process {dead[0]} ended under load.")
        return work.result()
    finally:
        work.cancel()
