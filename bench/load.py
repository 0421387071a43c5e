"""The load generator: closed loop (N users, each waits for its answer), open loop (a schedule waits for nobody)."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from bench.dialects import Dialect, timed
from bench.http_connection import HttpConnection
from bench.measures import Metrics, Timeline, percentile
from bench.trace import Turn

Ask = Callable[[Turn], Awaitable[Timeline]]

BUSY_SHARE = 0.8
LATE_SECONDS = 0.05
TICK_SECONDS = 0.02


@dataclass
class Load:
    """What one run of the generator saw, and how it was itself."""

    timelines: list[Timeline]
    elapsed: float
    own_cpu: float
    lateness: list[float] = field(default_factory=list)
    """Seconds by which the generator's own event loop came late."""

    def own_metrics(self) -> Metrics:
        """Its share of a CPU, its lateness, and 1 for `generator_bound` where it may have been what limited the run."""
        share, late = self.own_cpu / self.elapsed, percentile(self.lateness, 95)
        return {
            "generator_cpu_share": round(share, 3),
            "generator_late_ms_p95": round(1000 * late, 2),
            "generator_bound": float(share > BUSY_SHARE or late > LATE_SECONDS),
        }


class HttpClients:
    """Keep-alive connections to one server, opened as they are needed."""

    def __init__(self, dialect: Dialect, port: int, host: str = "127.0.0.1", key: str = "") -> None:
        self._dialect, self._host, self._port, self._key = dialect, host, port, key
        self._idle: list[HttpConnection] = []

    async def ask(self, turn: Turn) -> Timeline:
        connection = self._idle.pop() if self._idle else HttpConnection(self._host, self._port, self._key)
        timeline = await timed(self._dialect, connection, turn)
        self._idle.append(connection)
        return timeline

    def close(self) -> None:
        for connection in self._idle:
            connection.close()
        self._idle.clear()


async def closed_loop(ask: Ask, turns: Sequence[Turn], users: int) -> Load:
    """Each user takes the next turn when its last one is answered."""
    waiting = list(reversed(turns))
    timelines: list[Timeline] = []

    async def user() -> None:
        while waiting:
            timelines.append(await ask(waiting.pop()))

    return await _observed([user() for _ in range(users)], timelines)


async def open_loop(ask: Ask, turns: Sequence[Turn]) -> Load:
    """Sends each turn at its time, however many are still unanswered."""
    begin = time.perf_counter()
    timelines: list[Timeline] = []

    async def send(turn: Turn) -> None:
        await asyncio.sleep(max(0.0, begin + turn.at - time.perf_counter()))
        timelines.append(await ask(turn))

    return await _observed([send(turn) for turn in turns], timelines)


async def _observed(work: Sequence[Awaitable[None]], timelines: list[Timeline]) -> Load:
    lateness: list[float] = []
    watch = asyncio.create_task(_watch(lateness))
    begin, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*work)
    elapsed, cpu = time.perf_counter() - begin, time.process_time() - cpu
    watch.cancel()
    return Load(timelines, elapsed, cpu, lateness)


async def _watch(lateness: list[float]) -> None:
    while True:
        due = time.perf_counter() + TICK_SECONDS
        await asyncio.sleep(TICK_SECONDS)
        lateness.append(time.perf_counter() - due)
