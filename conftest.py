"""Fixtures of all test suites: a real Valkey server, a client for it, the settings that name it."""

import gc
import importlib
import os
from collections.abc import AsyncIterator, Generator, Iterator

import pytest
from hypothesis import settings
from pydantic import SecretStr
from redis.asyncio import Redis

from shared.settings import SharedSettings
from shared.store.keys import Keys
from shared.store.outage import Outage
from shared.store.redis_client import connect
from testbed import programs
from testbed.valkey import Valkey

# Before anything imports torch: there are as many test processes as cores, and threads that wait must not spin.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

for package in ("api", "headrace", "worker"):
    # Before pytest takes the folder of the same name, which stands above the tests, for the package.
    importlib.import_module(package)

# An example's time is that of a machine that does other things too.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """What is imported and collected lives as long as the process: the garbage collector need not go through all of it
    again and again."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


LONGEST = (
    "worker/tests/engines/test_contract.py",
    "client/tests/local/test_up.py",
    "worker/tests/test_real_model.py",
    "worker/tests/test_app.py",
    "faults/",
    "api/tests/page/",
    "client/tests/test_readme.py",
    "api/tests/test_server.py",
    "worker/tests/tasks/test_task_runner.py",
    "charts/tests/test_notes.py",
    "worker/tests/engines/",
    "charts/tests/test_monitoring.py",
    "api/tests/http/test_openapi.py",
)
"""Files and folders that begin first, so that no process of several is left alone with one of them at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the longest first; leaves out what needs a program that is not here, and `-ra` names each at the end."""
    items.sort(key=lambda item: [not item.nodeid.startswith(path) for path in LONGEST])
    for item in items:
        for name in [name for mark in item.iter_markers("needs") for name in mark.args if not programs.find(name)]:
            reason = f"left out: {name} is not installed (Debian's package {programs.PACKAGES[name]})"
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session", autouse=True)
def _no_settings_of_this_machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Neither HEADRACE_* and OTEL_* variables nor a `.env` file, which is looked for in the current folder; and what
    the command line remembers is not this user's."""
    with pytest.MonkeyPatch.context() as patch:
        for name in os.environ:
            if name.startswith(("HEADRACE_", "OTEL_")):
                patch.delenv(name)
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        patch.chdir(tmp_path_factory.mktemp("empty"))
        yield


@pytest.fixture(scope="session")
def valkey_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    server = Valkey(tmp_path_factory.mktemp("valkey"))
    yield server
    server.stop()


@pytest.fixture
def valkey(valkey_server: Valkey) -> Iterator[Valkey]:
    """The server, running and empty."""
    valkey_server.start()
    with valkey_server.client() as client:
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
    client = connect(shared_settings, Outage())
    yield client
    await client.aclose()
