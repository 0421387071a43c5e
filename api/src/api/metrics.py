"""What the API counts for Prometheus."""

from dataclasses import dataclass

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)


@dataclass(frozen=True, slots=True)
class Metrics:
    """The counters of one application; each has a registry of its own, so that two can live in one process."""

    registry: CollectorRegistry
    accepted: Counter
    """By model."""
    refused: Counter
    """By reason: the name of the error's class."""
    publish_failures: Counter
    """Messages whose way to the broker failed or took too long; the janitor sends them again."""
    open_streams: Gauge


def make_metrics() -> Metrics:
    """All counters at zero."""
    disable_created_metrics()  # type: ignore[no-untyped-call]  # half of the series, and nobody reads them
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    return Metrics(
        registry,
        Counter("headrace_tasks_accepted", "Tasks accepted.", ["model"], registry=registry),
        Counter("headrace_tasks_refused", "Calls of create_message refused.", ["reason"], registry=registry),
        Counter("headrace_publish_failures", "Messages that did not reach the broker in time.", registry=registry),
        Gauge("headrace_open_streams", "Streams that clients read now.", registry=registry),
    )
