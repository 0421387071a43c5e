"""The load generator."""

import asyncio
import time

from bench.load import Load, closed_loop, open_loop
from bench.measures import Timeline
from bench.trace import Turn


async def test_a_closed_loop_never_has_more_requests_open_than_users() -> None:
    open_ = most = 0

    async def ask(turn: Turn) -> Timeline:
        nonlocal open_, most
        open_ += 1
        most = max(most, open_)
        await asyncio.sleep(0)
        open_ -= 1
        return Timeline()

    load = await closed_loop(ask, [Turn([], 1)] * 20, 3)
    assert len(load.timelines) == 20
    assert most == 3


async def test_an_open_loop_waits_for_nobody() -> None:
    everybody = asyncio.Event()
    asked = 0

    async def ask(turn: Turn) -> Timeline:
        nonlocal asked
        asked += 1
        if asked == 5:
            everybody.set()
        await asyncio.wait_for(everybody.wait(), 5)
        return Timeline(sent=time.perf_counter())

    load = await open_loop(ask, [Turn([], 1, at=0.001 * number) for number in range(5)])
    assert len(load.timelines) == 5


def test_the_generator_says_when_it_was_the_bottleneck() -> None:
    assert Load([], elapsed=10.0, own_cpu=9.0).own_metrics()["generator_bound"] == 1
    assert Load([], elapsed=10.0, own_cpu=1.0, lateness=[0.2] * 100).own_metrics()["generator_bound"] == 1
    assert Load([], elapsed=10.0, own_cpu=1.0, lateness=[0.001] * 100).own_metrics()["generator_bound"] == 0
