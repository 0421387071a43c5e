"""Runs in a pod: receives traces over HTTP (OTLP, protobuf) and logs each span as a line of JSON."""

import json
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, HTTPServer

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from otlp_receiver import Receiver  # type: ignore[import-not-found]  # testbed's: the pod has it beside this file


class Endpoint(BaseHTTPRequestHandler):
    """`POST /v1/traces`."""

    def do_POST(self) -> None:
        receiver = Receiver()
        receiver.take(ExportTraceServiceRequest.FromString(self.rfile.read(int(self.headers["Content-Length"]))))
        for span in receiver.spans:
            print(json.dumps(asdict(span), default=str), flush=True)  # lists arrive as protobuf
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """The log is for spans."""


HTTPServer(("", 4318), Endpoint).serve_forever()  # one request at a time, or lines would mix
