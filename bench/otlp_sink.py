"""Takes what an OTLP exporter sends over HTTP, and forgets it. In a process of its own, so that the load generator does
not pay for it. `python -m bench.otlp_sink PORT`.
"""

import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Sink(BaseHTTPRequestHandler):
    """Answers every POST with an empty success."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """For whoever waits until it listens."""
        self._reply()

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self._reply()

    def _reply(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/x-protobuf")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Sink).serve_forever()
