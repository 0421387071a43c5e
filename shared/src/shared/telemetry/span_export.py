"""Spans on their way to an OTLP receiver. Imported only where they are wanted: the SDK costs start time and memory."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from importlib.metadata import version
from typing import Literal

from opentelemetry import trace
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator

FLUSH_MILLISECONDS = 3_000
"""What a process that stops may spend on its last spans: less than any hand-over budget."""

_chosen: ContextVar[int] = ContextVar("chosen_span_id", default=0)


class SpanIds(RandomIdGenerator):
    """Random ids, except for a span that is exported for a process that died before it could."""

    def generate_span_id(self) -> int:
        return _chosen.get() or super().generate_span_id()


@contextmanager
def span_id(value: int) -> Iterator[None]:
    """Spans started inside have this id."""
    token = _chosen.set(value)
    try:
        yield
    finally:
        _chosen.reset(token)


def export_spans(service: str, protocol: Literal["grpc", "http/protobuf"]) -> Callable[[], None]:
    """Installs the process's provider; returns what flushes and ends it. Endpoint, headers, certificates, timeouts,
    sampler, limits, batch sizes and resource attributes are read by the SDK from OTEL_* variables.
    """
    defaults = Resource({SERVICE_NAME: service, SERVICE_VERSION: version("headrace-shared")})
    provider = TracerProvider(
        resource=Resource.create().merge(defaults).merge(OTELResourceDetector().detect()), id_generator=SpanIds()
    )
    provider.add_span_processor(BatchSpanProcessor(_exporter(protocol)))
    trace.set_tracer_provider(provider)

    def end() -> None:
        provider.force_flush(FLUSH_MILLISECONDS)
        provider.shutdown()

    return end


def _exporter(protocol: Literal["grpc", "http/protobuf"]) -> SpanExporter:
    if protocol == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcExporter

        return GrpcExporter()
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpExporter

    return HttpExporter()
