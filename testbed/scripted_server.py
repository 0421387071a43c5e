"""A server that says what a test tells it to."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


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
        (self.send_response_only if "Date" in headers else self.send_response)(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def result(self, result: Any) -> None:
        self.reply(200, {"jsonrpc": "2.0", "id": self.body["id"], "result": result})

    def events(self, *frames: str, then: Callable[["Exchange"], object] | None = None) -> None:
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


Answer = Callable[[Exchange], None]


class ScriptedServer(ThreadingHTTPServer):
    """Answers request n with answer n."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Exchange)
        self.answers: list[Answer] = []
        self.requests: list[Request] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
