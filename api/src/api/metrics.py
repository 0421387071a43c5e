"""What the API counts for Prometheus."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)

from shared.telemetry.metrics import BoundedLabel, tasks_ended

JanitorAction = Literal["requeued", "poisoned", "revoked", "abandoned", "deadline_exceeded", "resent"]
"""What the janitor does to a task."""


@dataclass(frozen=True, slots=True)
class Metrics:
    """The counters of one application; each has a registry of its own, so that two can live in one process."""

    registry: CollectorRegistry
    accepted: Counter
    """By model."""
    accepted_of_tenant: Counter
    refused: Counter
    """By reason: the name of the error's class."""
    refused_of_tenant: Counter
    errors: Counter
    """By reason: the name of the error's class."""
    tenant_label: BoundedLabel
    ended: Counter
    """By model, state and reason."""
    janitor_actions: Counter
    """By action."""
    takeovers: Counter
    """By model."""
    publish_failures: Counter
    """Messages whose way to the broker failed or took too long; the janitor sends them again."""
    open_streams: Gauge
    stream_resumes: Counter
    streams_refused: Counter
    """Because their key had as many as it may have."""
    streams_dismissed: Counter
    """By reason: `age`, or `key` (it was revoked, or has expired)."""
    keys_unusable: Gauge
    """1 while the file of API keys cannot be used and those that were read before hold."""
    provider_unusable: Gauge
    """1 while the identity provider's signing keys cannot be fetched and those that were fetched before hold."""
    slow_readers: Counter
    """By outcome: `behind` (its buffer was dropped, it reads from the stored stream) or `cut`."""


def make_metrics(models: Iterable[str] = ()) -> Metrics:
    """All counters at zero, those with known labels too, so that their first increment is one."""
    disable_created_metrics()  # type: ignore[no-untyped-call]  # half of the series, and nobody reads them
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)

    def counter(name: str, text: str, *labels: str) -> Counter:
        return Counter(f"headrace_{name}", text, labels, registry=registry)

    metrics = Metrics(
        registry,
        accepted=counter("tasks_accepted", "Tasks accepted.", "model"),
        accepted_of_tenant=counter("tenant_tasks_accepted", "Tasks accepted, by tenant.", "tenant"),
        refused=counter("tasks_refused", "Tasks refused, by the name of the error.", "reason"),
        refused_of_tenant=counter("tenant_tasks_refused", "Tasks refused, by tenant.", "tenant"),
        errors=counter("request_errors", "Requests, or members of a batch, answered with an error.", "reason"),
        tenant_label=BoundedLabel(),
        ended=tasks_ended(registry),
        janitor_actions=counter("janitor_actions", "Tasks put right, by what was done.", "action"),
        takeovers=counter("lease_takeovers", "Tasks taken from workers whose lease ran out.", "model"),
        publish_failures=counter("publish_failures", "Messages that did not reach the broker in time."),
        open_streams=Gauge("headrace_open_streams", "Streams that clients read now.", registry=registry),
        stream_resumes=counter("stream_resumes", "Streams that clients went on reading behind an event."),
        streams_refused=counter("streams_refused", "Streams that were one too many for their key."),
        streams_dismissed=counter("streams_dismissed", "Streams that were closed before their end.", "reason"),
        keys_unusable=Gauge(
            "headrace_api_keys_unusable", "1 while the file of API keys cannot be used.", registry=registry
        ),
        provider_unusable=Gauge(
            "headrace_identity_provider_unusable",
            "1 while the identity provider's signing keys cannot be fetched.",
            registry=registry,
        ),
        slow_readers=counter("slow_readers", "Readers slower than their stream.", "outcome"),
    )
    for model in models:
        metrics.accepted.labels(model)
        metrics.takeovers.labels(model)
    for action in get_args(JanitorAction):
        metrics.janitor_actions.labels(action)
    for reason in ("age", "key"):
        metrics.streams_dismissed.labels(reason)
    for outcome in ("behind", "cut"):
        metrics.slow_readers.labels(outcome)
    return metrics
