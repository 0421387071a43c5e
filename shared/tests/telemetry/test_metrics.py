"""What both services' metrics share."""

from opentelemetry.trace import INVALID_SPAN, NonRecordingSpan, SpanContext, TraceFlags
from prometheus_client import CollectorRegistry, Histogram

from shared.telemetry.metrics import MOST_LABELS, OTHER, Alias, BoundedLabel, exemplar, expose

OPENMETRICS = "application/openmetrics-text; version=1.0.0"


def test_a_label_has_a_bounded_number_of_values() -> None:
    label = BoundedLabel()
    names = [label(f"tenant-{number}") for number in range(3 * MOST_LABELS)]
    assert len(set(names)) == MOST_LABELS + 1
    assert names[-1] == OTHER
    assert label("tenant-0") == "tenant-0"


def test_only_a_kept_trace_is_an_exemplar() -> None:
    kept = SpanContext(trace_id=1, span_id=2, is_remote=False, trace_flags=TraceFlags(1))
    dropped = SpanContext(trace_id=1, span_id=2, is_remote=False, trace_flags=TraceFlags(0))
    assert exemplar(NonRecordingSpan(kept)) == {"trace_id": f"{1:032x}"}
    assert exemplar(NonRecordingSpan(dropped)) is None
    assert exemplar(INVALID_SPAN) is None


def test_an_alias_says_the_same_under_another_name_and_keeps_the_exemplar() -> None:
    registry = CollectorRegistry()
    source = Histogram("ours_seconds", "Ours.", ["model"], buckets=(1, 2), registry=registry)
    registry.register(Alias(source, "gen_ai.server.thing", {"gen_ai.request.model": "{model}", "fixed": "yes"}))
    source.labels("m").observe(1.5, {"trace_id": "abc"})
    body, content_type = expose(registry, OPENMETRICS)
    text = body.decode()
    assert content_type.startswith("application/openmetrics-text")
    assert 'ours_seconds_bucket{le="2.0",model="m"} 1.0 # {trace_id="abc"} 1.5' in text
    labels = 'fixed="yes",gen_ai_request_model="m"'
    assert f'gen_ai_server_thing_seconds_bucket{{{labels},le="2.0"}} 1.0 # {{trace_id="abc"}} 1.5' in text
    assert f"gen_ai_server_thing_seconds_sum{{{labels}}} 1.5" in text


def test_a_scraper_that_does_not_know_exemplars_gets_none() -> None:
    registry = CollectorRegistry()
    Histogram("ours_seconds", "Ours.", buckets=(1,), registry=registry).observe(0.5, {"trace_id": "abc"})
    body, content_type = expose(registry, "")
    assert content_type.startswith("text/plain")
    assert b"trace_id" not in body
