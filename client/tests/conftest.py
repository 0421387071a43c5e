"""A server that says what a test tells it to, both clients behind one face, and a running `headrace up`."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import headrace.backoff
from testbed.client_faces import AsyncFace, Face, SyncFace
from testbed.scripted_server import ScriptedServer
from testbed.up_process import StartUp, Up


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join(10)


@pytest.fixture(params=[SyncFace, AsyncFace])
def client(request: pytest.FixtureRequest, server: ScriptedServer) -> Face:
    """Either client, connected to the scripted server."""
    face: type[Face] = request.param
    return face(server.url)


@pytest.fixture(autouse=True)
def _short_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(headrace.backoff, "FIRST_SECONDS", 0.01)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[StartUp]:
    started: list[Up] = []

    def start(*options: str, **more: object) -> Up:
        started.append(Up(*options, **{"data_dir": tmp_path / "data", **more}))  # type: ignore[arg-type]
        return started[-1]

    yield start
    for each in started:
        each.close()
