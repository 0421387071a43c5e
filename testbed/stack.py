"""A Headrace of real processes on loopback: Valkey, API replicas, Celery workers on the scripted engine."""

import asyncio
import contextlib
import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from redis.asyncio import Redis

from shared.settings import SharedSettings
from shared.store.keys import Keys
from testbed import judged_api, services
from testbed.history import History, follow
from testbed.ports import free_port
from testbed.waiting import until

MODEL = "fake"
LEASE = 3.0
"""Seconds. Short, so that a takeover is quick to test; the default is 10."""


@dataclass
class Process:
    """One server process and its log."""

    name: str
    command: list[str]
    env: dict[str, str]
    log: Path
    popen: subprocess.Popen[bytes] | None = None

    def start(self) -> "Process":
        with self.log.open("ab") as log:
            self.popen = subprocess.Popen(
                self.command, env=self.env, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )
        return self

    @property
    def pid(self) -> int:
        assert self.popen
        return self.popen.pid

    def send(self, signum: int) -> None:
        """To the process alone: a worker's engine must notice by itself."""
        os.kill(self.pid, signum)

    def freeze(self) -> None:
        """The whole session (the engine too), as a frozen node would."""
        os.killpg(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.killpg(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        """SIGKILL to the process alone."""
        assert self.popen
        self.popen.kill()
        self.popen.wait(10)

    async def wait(self, seconds: float) -> int:
        """The exit code; fails when it is still there after `seconds`."""
        popen = self.popen
        assert popen
        await until(lambda: popen.poll() is not None, seconds, f"exit of {self.name}")
        return int(popen.returncode)

    def stop(self) -> None:
        """At the end of a test, whatever state it is in."""
        if self.popen:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.popen.pid, signal.SIGCONT)
                os.killpg(self.popen.pid, signal.SIGKILL)
            self.popen.wait(10)

    def tail(self) -> str:
        return self.log.read_text(errors="replace")[-3000:]


@dataclass
class Stack:
    """What one test runs against. Start what you need; everything is stopped at the end."""

    redis_url: str
    folder: Path
    env: dict[str, str] = field(default_factory=dict)
    worker_python: str | Path = sys.executable
    """Of the environment that has the workers' engine."""
    start_seconds: float = 30
    """Within which a process is ready."""
    apis: list[Process] = field(default_factory=list)
    workers: list[Process] = field(default_factory=list)
    urls: list[str] = field(default_factory=list)
    histories: list[History] = field(default_factory=list)
    _numbers: Iterator[int] = field(default_factory=itertools.count)
    """Of workers, each of which has a name of its own, also when it takes the place of another."""
    client: httpx.AsyncClient = field(default_factory=lambda: httpx.AsyncClient(timeout=httpx.Timeout(10, read=40)))

    def _env(self, extra: dict[str, str]) -> dict[str, str]:
        ours = services.settings(
            redis_url=self.redis_url,
            redis_timeout=2,
            lease_seconds=LEASE,
            models=f'["{MODEL}"]',
            default_model=MODEL,
            model_name=MODEL,
        )
        return {**os.environ, "PYTHONUNBUFFERED": "1", **ours, **self.env, **extra}

    async def start_api(self, **extra: str) -> Process:
        port = free_port()
        env = self._env(services.settings(port=port, internal_port=free_port()) | extra)
        name = f"api{len(self.apis)}"
        env |= judged_api.environment(self.faults)
        process = Process(name, [sys.executable, *judged_api.COMMAND], env, self.folder / f"{name}.log").start()
        self.apis.append(process)
        self.urls.append(f"http://127.0.0.1:{port}")
        await self._until_answers(process, f"http://127.0.0.1:{port}/openapi.json")
        return process

    async def start_worker(self, source: str = "scripted:?token_ms=10", *, ready: bool = True, **extra: str) -> Process:
        name = f"worker{next(self._numbers)}"
        port = free_port()
        env = self._env(services.settings(model_source=source, internal_port=port, worker_name=name) | extra)
        command = services.command("worker", python=self.worker_python)
        process = Process(name, command, env, self.folder / f"{name}.log").start()
        self.workers.append(process)
        if ready:
            await self._until_answers(process, f"http://127.0.0.1:{port}/readyz")
        return process

    async def _until_answers(self, process: Process, url: str) -> None:
        async def answers() -> bool:
            assert process.popen
            if process.popen.poll() is not None:
                raise AssertionError(f"{process.name} exited\n{process.tail()}")
            with contextlib.suppress(httpx.HTTPError):
                return (await self.client.get(url)).status_code == 200
            return False

        await until(answers, self.start_seconds, f"{process.name} answers {url}")

    @property
    def faults(self) -> Path:
        """Where a replica's replies are not as OpenAI or Anthropic would have sent them: one line each."""
        return self.folder / "faults"

    async def rpc(self, method: str, params: dict[str, Any], replica: int = 0) -> dict[str, Any]:
        body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        reply = await self.client.post(f"{self.urls[replica]}/rpc", json=body)
        return dict(reply.json())

    async def submit(self, text: str = "", *, words: int | None = 50, replica: int = 0, **params: Any) -> History:
        """Starts a task whose answer has so many words, the same ones each time; `text` is for other directives.

        A trained model gets the text alone: `words` is None.
        """
        timeout = params.pop("timeoutSeconds", 60)
        text = text if words is None else f"{text}\n!tokens {words}"
        message = {"message": text, "maxTokens": 8000, "seed": 7, "timeoutSeconds": timeout, **params}
        reply = await self.rpc("create_message", message, replica)
        assert "result" in reply, reply
        history = History(reply["result"]["taskId"], time.monotonic() + timeout + 2 * LEASE + 2)
        self.histories.append(history)
        return history

    async def follow(self, history: History, seconds: float = 60, replicas: list[str] | None = None) -> History:
        return await follow(self.client, replicas or self.urls, history, time.monotonic() + seconds)

    async def run(self, text: str = "hello", **params: Any) -> History:
        return await self.follow(await self.submit(text, **params))

    async def until_tokens(
        self, history: History, count: int, seconds: float = 20, follow_seconds: float = 60
    ) -> asyncio.Task[History]:
        """Follows in the background; returns once the client has seen `count` token events."""
        task = asyncio.create_task(self.follow(history, follow_seconds))
        await until(lambda: len(history.of("token")) >= count or task.done(), seconds, f"{count} tokens")
        return task

    async def holder(self, history: History) -> Process:
        """The worker that runs the task."""
        async with Redis.from_url(self.redis_url) as redis:
            name = await redis.hget(Keys(SharedSettings().key_prefix).task(history.task_id), "worker")
        assert isinstance(name, bytes), "no worker has it"
        return next(worker for worker in self.workers if worker.name == name.decode())

    async def cancel(self, history: History) -> dict[str, Any]:
        """What `cancel_message` answers."""
        reply = await self.rpc("cancel_message", {"taskId": history.task_id})
        return dict(reply["result"])

    async def state(self, history: History) -> str:
        reply = await self.rpc("get_message", {"taskId": history.task_id})
        return str(reply["result"]["state"])

    def logs(self) -> str:
        """The last lines of every process, for a test that failed."""
        return "\n".join(f"--- {process.name}\n{process.tail()}" for process in [*self.apis, *self.workers])

    async def close(self) -> None:
        await self.client.aclose()
        for process in [*self.workers, *self.apis]:
            process.stop()


@contextlib.asynccontextmanager
async def stack(redis_url: str, folder: Path, **env: str) -> AsyncIterator[Stack]:
    running = Stack(redis_url, folder, env)
    try:
        yield running
    finally:
        await running.close()
