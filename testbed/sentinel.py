"""Valkey with a failover by Sentinel: one master, one replica, one Sentinel."""

import contextlib
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from redis import Redis
from redis.exceptions import RedisError

from testbed.ports import free_port
from testbed.valkey import server_binary
from testbed.waiting import wait_until


class SentinelSetup:
    """Three server processes in one folder."""

    def __init__(self, folder: Path, *, password: str = "") -> None:
        """`password`: of the Sentinel itself."""
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
        ) + (f"requirepass {password}\n" if password else "")
        self.sentinel = self._start("sentinel", sentinel, "--sentinel")
        self._await(self.sentinel_port, lambda c: c.sentinel_master("mymaster")["num-slaves"] == 1, password)

    @property
    def url(self) -> str:
        return f"sentinel://127.0.0.1:{self.sentinel_port}/0"

    def _start(self, name: str, config: str, *arguments: str) -> subprocess.Popen[bytes]:
        folder = self._folder / name
        folder.mkdir()
        (folder / "server.conf").write_text(config)
        with (folder / "log").open("wb") as log:
            command = [str(server_binary()), "server.conf", *arguments]
            return subprocess.Popen(command, cwd=folder, stdout=log, stderr=subprocess.STDOUT)

    def _await(self, port: int, condition: Callable[[Any], bool], password: str = "") -> None:
        def holds() -> bool:
            with contextlib.suppress(RedisError), Redis(port=port, password=password or None) as client:
                return condition(client)
            return False

        wait_until(holds, 20, lambda: f"the server on port {port} is ready")

    def part(self) -> None:
        """The replica receives nothing any more: it follows a port where nobody is."""
        with Redis(port=self.replica_port) as replica:
            replica.replicaof("127.0.0.1", str(free_port()))

    def close(self) -> None:
        for process in (self.sentinel, self.replica, self.master):
            process.kill()
            process.wait(10)
