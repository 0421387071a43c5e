"""A Headrace for programs that other people wrote: a Valkey, an API whose replies are judged, a worker process."""

import asyncio
import contextlib
import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
from pydantic import SecretStr

from api.settings import Settings
from testbed import api_replica, services
from testbed.judged_app import JudgedApp
from testbed.ports import free_port
from testbed.valkey import Valkey
from testbed.waiting import wait_until
from worker.engine_options import PACKAGED_MODEL

START_SECONDS = 180.0
"""Bound on loading the model; its first start on a machine converts it."""


@contextlib.contextmanager
def model_stack(folder: Path, source: str = PACKAGED_MODEL) -> Iterator[tuple[str, JudgedApp]]:
    """The API's address, and the judge of its replies. All answers are greedy where a client asks for nothing else."""
    with Valkey(folder / "valkey") as valkey, _api(Settings(redis_url=SecretStr(valkey.url))) as (url, judged):
        port, log = free_port(), folder / "worker.log"
        settings = services.settings(
            redis_url=valkey.url, internal_port=port, default_temperature=0, model_source=source
        )
        with log.open("wb") as file:
            worker = subprocess.Popen(
                services.command("worker"), env={**os.environ, **settings}, stdout=file, stderr=file
            )
        try:
            wait_until(
                lambda: _ready(worker, port), START_SECONDS, lambda: f"a worker is ready: {log.read_text()[-3000:]}"
            )
            yield url, judged
        finally:
            worker.kill()
            worker.wait(10)


def _ready(worker: "subprocess.Popen[bytes]", port: int) -> bool:
    assert worker.poll() is None, "the worker has ended"
    with contextlib.suppress(httpx.HTTPError):
        return httpx.get(f"http://127.0.0.1:{port}/readyz").status_code == 200
    return False


@contextlib.contextmanager
def _api(settings: Settings) -> Iterator[tuple[str, JudgedApp]]:
    """One that listens, in a thread of its own: the test waits for programs meanwhile."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        replica = asyncio.run_coroutine_threadsafe(api_replica.start_replica(settings), loop).result(30)
        try:
            yield replica.url, replica.judged
        finally:
            asyncio.run_coroutine_threadsafe(replica.stop(), loop).result(30)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()
