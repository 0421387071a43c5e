"""Traces: switched on by the standard OTEL_* variables, carried between processes as text.

Without a provider OpenTelemetry's API hands the caller's trace context on and records nothing: the code that makes
spans needs no switch of its own. The SDK is imported only when spans are to leave this process.
"""

import logging
from collections.abc import Callable, Mapping
from typing import Literal

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from pydantic_settings import BaseSettings, SettingsConfigDict

log = logging.getLogger(__name__)

_W3C = TraceContextTextMapPropagator()


class TelemetrySettings(BaseSettings):
    """The OTEL_* variables that say whether and how spans leave the process; the SDK reads all the others itself."""

    model_config = SettingsConfigDict(env_prefix="OTEL_", extra="ignore", frozen=True)

    sdk_disabled: bool = False
    traces_exporter: str = ""
    """`otlp` or `none`; empty: `otlp` where an endpoint is set."""
    exporter_otlp_endpoint: str = ""
    exporter_otlp_traces_endpoint: str = ""
    exporter_otlp_protocol: Literal["grpc", "http/protobuf"] = "http/protobuf"
    exporter_otlp_traces_protocol: Literal["", "grpc", "http/protobuf"] = ""

    @property
    def on(self) -> bool:
        """Whether this process exports spans."""
        wanted = self.traces_exporter or ("otlp" if self._endpoint else "none")
        return wanted == "otlp" and not self.sdk_disabled

    @property
    def protocol(self) -> Literal["grpc", "http/protobuf"]:
        return self.exporter_otlp_traces_protocol or self.exporter_otlp_protocol

    @property
    def _endpoint(self) -> str:
        return self.exporter_otlp_traces_endpoint or self.exporter_otlp_endpoint


def start_tracing(service: str, settings: TelemetrySettings | None = None) -> Callable[[], None]:
    """Exports this process's spans from now on, if OTEL_* wants it. Call once per process, and what it returns at the
    end: that sends what is left, for at most a few seconds. `service` is the default of OTEL_SERVICE_NAME.
    """
    settings = settings or TelemetrySettings()
    if not settings.on:
        return lambda: None
    from shared.telemetry.span_export import export_spans

    return export_spans(service, settings.protocol)


def tracing_is_on() -> bool:
    """True when spans of this process may be recorded."""
    # Without a provider the API's own proxy stands there.
    return not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)


def context_text(span: trace.Span | None = None) -> str:
    """Place of the span (or of the current one) in its trace, as it stands in the ledger; empty for none.

    `traceparent`, or `traceparent tracestate`.
    """
    carrier: dict[str, str] = {}
    _W3C.inject(carrier, trace.set_span_in_context(span) if span is not None else None)
    return " ".join(carrier.values())


def context_of(text: str) -> Context:
    """The OpenTelemetry context of what `context_text` wrote."""
    return _W3C.extract(message_headers(text), Context())


def link_to(text: str) -> trace.SpanContext:
    """What a link to that span needs; check `is_valid`."""
    return trace.get_current_span(context_of(text)).get_span_context()


def message_headers(text: str) -> dict[str, str]:
    """What `context_text` wrote, as the headers of a Celery message."""
    return dict(zip(("traceparent", "tracestate"), text.split(" ", 1), strict=False)) if text else {}


def received(headers: Mapping[str, str]) -> str:
    """The context text of a request or message that came with these headers; empty when they hold none or nonsense."""
    context = _W3C.extract({name: headers[name] for name in _W3C.fields if headers.get(name)}, Context())
    return context_text(trace.get_current_span(context))


def trace_id(text: str) -> str | None:
    """Trace id, 32 hex digits, of what `context_text` wrote."""
    return text.split("-")[1] if text else None
