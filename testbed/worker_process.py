"""A worker as `python -m worker` starts it."""

import asyncio
import os
import signal
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path

import psutil

from testbed import services
from worker.settings import WorkerSettings


class WorkerProcess:
    """A real worker process."""

    def __init__(self, settings: WorkerSettings, log: Path) -> None:
        changed = settings.model_dump(exclude_defaults=True, mode="json") | {
            "redis_url": settings.redis_url.get_secret_value()
        }
        self.log = log
        with log.open("wb") as file:
            self._process = subprocess.Popen(
                services.command("worker", "-W", "error::ResourceWarning"),
                env={**os.environ, **services.settings(**changed)},
                stdout=file,
                stderr=subprocess.STDOUT,
            )
        self.pid = self._process.pid

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    async def exit_code(self, seconds: float = 20) -> int:
        return await asyncio.to_thread(self._process.wait, seconds)

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def kill(self) -> None:
        """SIGKILL, whatever state it is in."""
        self._process.kill()
        self._process.wait(10)


StartWorker = Callable[..., Awaitable[WorkerProcess]]


def engine_of(worker: int) -> int:
    """The pid of a worker's engine."""
    for child in psutil.Process(worker).children():
        if child.name() == "headrace-engine":
            return child.pid
    raise AssertionError(f"the worker {worker} has no engine")
