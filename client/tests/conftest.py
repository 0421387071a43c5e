"""A server that says what a test tells it to, both clients behind one face, and a running `headrace up`."""

import asyncio
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psutil
import pytest

import headrace.backoff
from headrace import AsyncClient, Client


class Exchange(BaseHTTPRequestHandler):
    """One request, and the ways to answer it."""

    protocol_version = "HTTP/1.1"
    server: "ScriptedServer"

    def do_GET(self) -> None:
        self._play()

    def do_POST(self) -> None:
        self._play()

    def _play(self) -> None:
        self.body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or "null")
        self.server.requests.append(Request(self.path, dict(self.headers), self.body))
        if not self.server.answers:
            self.reply(500, {"unexpected": self.path})
            return
        self.server.answers.pop(0)(self)

    def reply(self, status: int, body: Any = None, **headers: str) -> None:
        content = b"" if body is None else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def result(self, result: Any) -> None:
        self.reply(200, {"jsonrpc": "2.0", "id": self.body["id"], "result": result})

    def events(self, *frames: str, then: Callable[["Exchange"], None] | None = None) -> None:
        """Sends the frames; ends the response as it should be, or leaves that to `then`."""
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for frame in frames:
            self.chunk(frame)
        if then is None:
            self.wfile.write(b"0\r\n\r\n")
        else:
            then(self)

    def chunk(self, text: str) -> None:
        content = text.encode()
        self.wfile.write(b"%x\r\n%b\r\n" % (len(content), content))
        self.wfile.flush()

    def drop(self) -> None:
        """Ends the connection in the middle of the response."""
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass


@dataclass
class Request:
    """What the server was sent."""

    path: str
    headers: dict[str, str]
    body: Any = field(repr=False)

    @property
    def params(self) -> dict[str, Any]:
        return dict(self.body["params"])


class ScriptedServer(ThreadingHTTPServer):
    """Answers request n with answer n."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Exchange)
        self.answers: list[Callable[[Exchange], None]] = []
        self.requests: list[Request] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join(10)


class SyncFace:
    """`Client`."""

    def __init__(self, url: str) -> None:
        self._url = url

    def call(self, method: str, *arguments: Any, **options: Any) -> Any:
        with Client(self._url, api_key="key") as client:
            result = getattr(client, method)(*arguments, **options)
            return list(result) if method == "stream" else result


class AsyncFace:
    """`AsyncClient`."""

    def __init__(self, url: str) -> None:
        self._url = url

    def call(self, method: str, *arguments: Any, **options: Any) -> Any:
        async def call() -> Any:
            async with AsyncClient(self._url, api_key="key") as client:
                result = getattr(client, method)(*arguments, **options)
                return [event async for event in result] if method == "stream" else await result

        return asyncio.run(call())


@pytest.fixture(params=[SyncFace, AsyncFace])
def client(request: pytest.FixtureRequest, server: ScriptedServer) -> Any:
    """Either client, connected to the scripted server."""
    return request.param(server.url)


@pytest.fixture(autouse=True)
def _short_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(headrace.backoff, "FIRST_SECONDS", 0.01)


BOUND_SECONDS = 120.0
"""On every wait: far above what the machine needs."""
ANSWERS = "scripted:?token_ms=5&tokens=8"


class Up:
    """One running `headrace up`."""

    def __init__(
        self, *options: str, data_dir: Path, source: str | None = ANSWERS, stdin: int = subprocess.DEVNULL
    ) -> None:
        command = [sys.executable, "-m", "headrace", "up", "--data-dir", str(data_dir)]
        if source is not None:
            command += ["--model-source", source]
        self.data_dir = data_dir
        self.process = subprocess.Popen(
            [*command, *(() if "--port" in options else ("--port", "0")), *options],
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={name: value for name, value in os.environ.items() if name != "DEMO_ONCE"},
        )
        self.output = ""
        self._reading = threading.Thread(target=self._read)
        self._reading.start()
        self._seen: set[psutil.Process] = set()

    def _read(self) -> None:
        assert self.process.stdout is not None
        while text := self.process.stdout.read(1):
            self.output += text

    def says(self, text: str, within: float = BOUND_SECONDS) -> None:
        def said() -> bool:
            assert text in self.output or self.process.poll() is None, self.output
            return text in self.output

        self.eventually(said, lambda: self.output, within)

    def children(self) -> list[psutil.Process]:
        found = psutil.Process(self.process.pid).children(recursive=True)
        self._seen.update(found)
        return found

    def child(self, module: str) -> psutil.Process:
        """The process of that name, waited for: while it becomes its program (exec), it has no command line."""
        found: list[psutil.Process] = []

        def listed() -> bool:
            found[:] = (
                child for child in psutil.Process(self.process.pid).children() if _command(child)[-2:] == ["-m", module]
            )
            return len(found) == 1

        self.eventually(listed, lambda: f"{len(found)} processes run {module}: {self.output}")
        return found[0]

    def exit_code(self) -> int:
        """Waits for the end; all that it started must be gone then."""
        code = self.process.wait(BOUND_SECONDS)
        self._reading.join(BOUND_SECONDS)
        self.eventually(lambda: not any(_lives(child) for child in self._seen))
        return code

    @staticmethod
    def eventually(
        condition: Callable[[], bool],
        describe: Callable[[], str] = lambda: "it did not happen",
        within: float = BOUND_SECONDS,
    ) -> None:
        deadline = time.monotonic() + within
        while not condition():
            assert time.monotonic() < deadline, describe()
            time.sleep(0.02)

    def addresses(self) -> dict[str, str]:
        return dict(line.split("=", 1) for line in (self.data_dir / "stack.env").read_text().splitlines())

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self._reading.join(BOUND_SECONDS)
        assert self.process.stdout is not None
        self.process.stdout.close()


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:
        return []


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Up]]:
    started: list[Up] = []

    def start(*options: str, **more: object) -> Up:
        started.append(Up(*options, **{"data_dir": tmp_path / "data", **more}))  # type: ignore[arg-type]
        return started[-1]

    yield start
    for each in started:
        each.close()


@pytest.fixture(scope="session")
def up_process() -> type[Up]:
    """For fixtures that keep a stack for more than one test."""
    return Up
