"""Spans of requests, in a process of its own: a provider can be set only once."""

import subprocess
import sys

PROGRAM = """
from fastapi import FastAPI
from httpx import ASGITransport, AsyncClient
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
import asyncio, sys
from api.http.request_spans import trace_requests

spans = InMemorySpanExporter()
if sys.argv[1] == "on":
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    trace.set_tracer_provider(provider)
app = FastAPI(telemetry={"tracing": False})

@app.get("/stream/{task_id}")
async def stream(task_id: str) -> str:
    return task_id

trace_requests(app)

async def main() -> None:
    async with AsyncClient(transport=ASGITransport(app), base_url="http://api") as http:
        await http.get("/stream/t1?access_token=sesame")

asyncio.run(main())
for span in spans.get_finished_spans():
    print(span.name, dict(span.attributes))
"""


def spans(tracing: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, tracing], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_request_is_one_span_that_holds_no_query_string() -> None:
    told = spans("on")
    assert told.count("\n") == 1
    assert told.startswith("GET /stream/{task_id} ")
    assert "/stream/t1" in told
    assert "sesame" not in told


def test_without_tracing_there_are_no_spans() -> None:
    assert spans("off") == ""
