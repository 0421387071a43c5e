"""A worker without Celery, on the test's own loop."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

from worker.engines.supervisor import Engine, EngineUnavailable
from worker.settings import WorkerSettings
from worker.tasks.task_runner import TaskRunner
from worker.worker_loop import WorkerLoop


@dataclass(frozen=True)
class LiveWorker:
    """One that has been ready."""

    loop: WorkerLoop

    @property
    def runner(self) -> TaskRunner:
        assert self.loop.runner is not None
        return self.loop.runner

    @property
    def engine(self) -> Engine:
        return self.loop.engine

    @property
    def takes_tasks(self) -> bool:
        return self.loop.takes_tasks

    async def drain(self, seconds: float) -> None:
        await self.loop.drain(seconds)


StartLive = Callable[..., Awaitable[LiveWorker]]


@contextlib.asynccontextmanager
async def live(settings: WorkerSettings) -> AsyncIterator[LiveWorker]:
    """Started; returns when it is ready."""
    loop = WorkerLoop(settings, on_change=lambda: None)
    ready = asyncio.Event()
    living = asyncio.create_task(loop.live(ready.set))
    waiting = asyncio.create_task(ready.wait())
    await asyncio.wait([living, waiting], timeout=20, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    if living.done():
        await living
    assert ready.is_set()
    try:
        yield LiveWorker(loop)
    finally:
        loop.stop()
        with contextlib.suppress(EngineUnavailable):
            await asyncio.wait_for(living, 20)
