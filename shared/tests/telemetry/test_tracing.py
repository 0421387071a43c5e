"""Trace contexts as text, and tracing that costs nothing until it is asked for."""

import json
import os
import subprocess
import sys

import pytest
from opentelemetry import trace

from shared.telemetry.tracing import (
    TelemetrySettings,
    context_of,
    context_text,
    link_to,
    message_headers,
    received,
    trace_id,
)

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def test_a_callers_context_goes_on_although_nothing_is_recorded_here() -> None:
    tracer = trace.get_tracer("test")
    with tracer.start_as_current_span("span", context_of(received({"traceparent": PARENT}))) as span:
        assert not span.is_recording()
        assert context_text() == context_text(span) == PARENT
    assert context_text() == ""


def test_vendors_state_travels_beside_the_parent() -> None:
    text = received({"traceparent": PARENT, "tracestate": "a=1,b=2"})
    assert message_headers(text) == {"traceparent": PARENT, "tracestate": "a=1,b=2"}
    assert context_text(trace.get_current_span(context_of(text))) == text


@pytest.mark.parametrize("sent", ["", "nonsense", PARENT.replace("0af7", "zzzz"), PARENT + "-x", "00-" + "0" * 53])
def test_what_is_no_context_is_none(sent: str) -> None:
    assert received({"traceparent": sent}) == ""


def test_no_context_has_no_headers_no_id_and_no_link() -> None:
    assert message_headers("") == {}
    assert trace_id("") is None
    assert not link_to("").is_valid


def test_the_trace_id_is_the_second_part() -> None:
    assert trace_id(PARENT) == "0af7651916cd43dd8448eb211c80319c"


@pytest.mark.parametrize(
    ("variables", "on"),
    [
        ({}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://collector:4318"}, True),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318", "OTEL_TRACES_EXPORTER": "none"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318", "OTEL_SDK_DISABLED": "true"}, False),
    ],
)
def test_the_standard_variables_switch_it_on(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], on: bool
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert TelemetrySettings().on is on


def test_the_protocol_of_traces_goes_before_the_general_one(monkeypatch: pytest.MonkeyPatch) -> None:
    assert TelemetrySettings().protocol == "http/protobuf"
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    assert TelemetrySettings().protocol == "grpc"
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/protobuf")
    assert TelemetrySettings().protocol == "http/protobuf"


def modules_after(code: str, **env: str) -> set[str]:
    """What a fresh process has imported after the code."""
    script = f"import json, sys\n{code}\nprint(json.dumps(list(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, **env}, check=True, capture_output=True, text=True
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_a_process_that_does_not_trace_never_imports_the_sdk() -> None:
    modules = modules_after("from shared.telemetry.tracing import start_tracing; start_tracing('test')()")
    assert not {name for name in modules if name.startswith(("opentelemetry.sdk", "opentelemetry.exporter", "grpc"))}
