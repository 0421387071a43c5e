"""Spans on their way out: what a process with the standard variables sets up."""

import os
import subprocess
import sys


def run(code: str, **env: str) -> None:
    """In a process of its own: a provider is for good."""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env={**os.environ, **env}, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_resource_attributes_and_the_service_name_come_from_the_environment_first() -> None:
    code = """
from opentelemetry import trace
from shared.telemetry.tracing import start_tracing
end = start_tracing("headrace-test")
attributes = trace.get_tracer_provider().resource.attributes
assert attributes["service.name"] == "renamed", attributes
assert attributes["deployment.environment"] == "test", attributes
assert attributes["service.version"], attributes
import sys
assert "opentelemetry.exporter.otlp.proto.http" in sys.modules
assert "grpc" not in sys.modules
end()
"""
    run(
        code,
        OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9",
        OTEL_SERVICE_NAME="renamed",
        OTEL_RESOURCE_ATTRIBUTES="deployment.environment=test",
    )


def test_a_span_can_be_told_under_the_id_that_its_process_had_announced() -> None:
    code = """
from opentelemetry import trace
from shared.telemetry.span_export import span_id
from shared.telemetry.tracing import start_tracing
end = start_tracing("headrace-test")
tracer = trace.get_tracer("test")
with span_id(0x1234):
    told = tracer.start_span("told")
assert told.get_span_context().span_id == 0x1234
assert tracer.start_span("own").get_span_context().span_id != 0x1234
"""
    run(code, OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9", OTEL_TRACES_SAMPLER="always_off")
