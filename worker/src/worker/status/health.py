"""/healthz, /readyz and /metrics of a worker, from a thread of its own: it answers when everything else is stuck."""

import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from prometheus_client import CollectorRegistry

from shared.telemetry.metrics import expose

Check = Callable[[], str]
"""Returns what is wrong, in words; empty when nothing is."""


class InternalServer:
    """The second port. `port` is the one it listens on."""

    def __init__(self, host: str, port: int, healthy: Check, ready: Check, registry: CollectorRegistry) -> None:
        """Binds at once; raises OSError when the port is taken. Port 0: any free one."""

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                match self.path.partition("?")[0]:
                    case "/healthz":
                        self._verdict(healthy())
                    case "/readyz":
                        self._verdict(ready())
                    case "/metrics":
                        self._reply(200, *expose(registry, self.headers.get("Accept", "")))
                    case _:
                        self._reply(404, b"not found\n")

            def _verdict(self, problem: str) -> None:
                self._reply(503 if problem else 200, (problem or "ok").encode() + b"\n")

            def _reply(self, status: int, body: bytes, content_type: str = "text/plain; charset=utf-8") -> None:
                self.send_response(status)
                self.send_header("Content-Type", content_type)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                """Probes are not logged."""

        self._server = ThreadingHTTPServer((host, port), Handler)
        self._server.daemon_threads = True
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, name="internal-http", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stops listening."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)
