"""A span per HTTP request."""

from fastapi import FastAPI
from opentelemetry import trace

from shared.telemetry.tracing import tracing_is_on

_URL_ATTRIBUTES = ("http.url", "http.target", "url.full", "url.query")
"""Where the HTTP conventions, old and new, put a query string."""


def trace_requests(app: FastAPI) -> None:
    """A span per request, also while its stream is open; nothing where tracing is off."""
    if not tracing_is_on():
        return
    from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor

    # Without exclude_spans each event of a stream would be a span of its own.
    FastAPIInstrumentor.instrument_app(app, server_request_hook=_drop_query, exclude_spans=["send", "receive"])


def _drop_query(span: trace.Span, scope: dict[str, object]) -> None:
    """A query string may hold an access token."""
    attributes = getattr(span, "attributes", None) or {}
    for name in _URL_ATTRIBUTES:
        if name in attributes:
            span.set_attribute(name, str(attributes[name]).partition("?")[0] if name != "url.query" else "")
