"""What a scrape of the API learns from Redis: each model's work and workers, and how Redis itself is."""

import asyncio
import time
from collections.abc import Iterable, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from redis.asyncio import Redis
from redis.exceptions import RedisError

from shared.store.redis_client import answered_within
from shared.store.task_lists import TaskLists
from shared.store.worker_registry import WorkerRegistry

READ_SECONDS = 2.0
"""A Redis that is silent for as long is told as such: any scraper waits longer, and has no failed scrape."""


class Snapshot(Collector):
    """The gauges of one moment. Every replica tells the same: aggregate them with `max`, not with `sum`."""

    def __init__(
        self, redis: Redis, lists: TaskLists, workers: WorkerRegistry, models: Sequence[str], metrics: CollectorRegistry
    ) -> None:
        """Registers itself with `metrics`."""
        self._redis = redis
        self._lists = lists
        self._workers = workers
        self._models = models
        self._families: list[Metric] = []
        metrics.register(self)

    def collect(self) -> Iterable[Metric]:
        """What was read last."""
        return self._families

    async def take(self) -> None:
        """Reads everything once. A Redis that does not answer is a fact, and the rest is then unknown: no zeros."""
        up = GaugeMetricFamily("headrace_redis_up", "1 while Redis answers this replica.")
        try:
            async with answered_within(READ_SECONDS):
                known = [*await self._of_redis(), *await self._of_models()]
        except (RedisError, OSError):
            known = []
        up.add_metric([], 1.0 if known else 0.0)
        self._families = [up, *known]

    async def _of_redis(self) -> list[Metric]:
        began = time.perf_counter()
        await self._redis.ping()
        ping = time.perf_counter() - began
        memory: dict[str, Any] = await self._redis.info("memory")
        return [
            _gauge("headrace_redis_ping_seconds", "Round trip of the PING of this scrape.", ping),
            _gauge("headrace_redis_memory_used_bytes", "Memory that Redis uses.", memory["used_memory"]),
            _gauge("headrace_redis_memory_max_bytes", "Redis's maxmemory; 0: no limit.", memory.get("maxmemory", 0)),
        ]

    async def _of_models(self) -> list[Metric]:
        models = self._models
        loads = await asyncio.gather(*(self._lists.load(model) for model in models))
        ready = await asyncio.gather(*(self._workers.ready(model) for model in models))
        waiting = GaugeMetricFamily("headrace_tasks_waiting", "Tasks that wait for a worker.", labels=["model"])
        running = GaugeMetricFamily("headrace_tasks_running", "Tasks that workers hold.", labels=["model"])
        workers = GaugeMetricFamily("headrace_workers_ready", "Workers that take tasks.", labels=["model"])
        for model, load, count in zip(models, loads, ready, strict=True):
            waiting.add_metric([model], load.waiting)
            running.add_metric([model], load.running)
            workers.add_metric([model], count)
        return [waiting, running, workers]


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=float(value))
