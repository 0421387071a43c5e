"""A server that says what a test tells it to, on a real socket, and both clients behind one face."""

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

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
