"""What the metrics of both services share: names that exist once, buckets made for language models, bounded labels."""

from collections.abc import Iterable

from opentelemetry import trace
from prometheus_client import CollectorRegistry, Counter, Histogram, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

WAIT_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 0.75, 1, 1.5, 2.5, 5, 10, 20, 30, 60, 120, 300, 600)
"""Seconds: from a first token on a warm GPU to a model that is scaled up from zero."""
TOKEN_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 2.5)
"""Seconds per output token: 1000 to 0.4 tokens per second."""
REQUEST_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 60, 90, 120, 180, 300, 600, 1200, 3600)
"""Seconds of a whole task."""

MOST_LABELS = 100
OTHER = "other"
"""Stands for all values of a label after the first `MOST_LABELS`."""


class BoundedLabel:
    """The first values that are seen, by themselves; all later ones together."""

    def __init__(self) -> None:
        self._known: set[str] = set()

    def __call__(self, value: str) -> str:
        if value not in self._known and len(self._known) < MOST_LABELS:
            self._known.add(value)
        return value if value in self._known else OTHER


def tasks_ended(registry: CollectorRegistry) -> Counter:
    """Counted by whoever ends a task, once: mostly its worker; the API where no worker holds it.

    Reasons: a finish reason (SUCCESS), an error code (FAILURE), `cancelled` or `abandoned` (REVOKED).
    """
    return Counter("headrace_tasks_ended", "Tasks ended.", ["model", "state", "reason"], registry=registry)


def exemplar(span: trace.Span) -> dict[str, str] | None:
    """Points from an observation to its trace; None where the trace is not kept."""
    context = span.get_span_context()
    return {"trace_id": trace.format_trace_id(context.trace_id)} if context.trace_flags.sampled else None


def expose(registry: CollectorRegistry, accept: str) -> tuple[bytes, str]:
    """Body and content type of a reply to a scraper; exemplars only in OpenMetrics, which has a place for them."""
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type


class Alias(Collector):
    """A histogram once more, under the name and with the labels of OpenTelemetry's conventions."""

    def __init__(self, source: Histogram, name: str, labels: dict[str, str]) -> None:
        """`name` with dots, without a unit. `labels` with dots: fixed values, or `{model}` for the source's label."""
        self._source = source
        self._name = f"{name.replace('.', '_')}_seconds"
        self._labels = {key.replace(".", "_"): value for key, value in labels.items()}

    def collect(self) -> Iterable[Metric]:
        """What a scrape reads."""
        for family in self._source.collect():
            alias = Metric(self._name, f"{family.documentation} The same as {family.name}.", "histogram")
            for sample in family.samples:
                suffix = sample.name.removeprefix(family.name)
                labels = {key: value.format(**sample.labels) for key, value in self._labels.items()}
                if "le" in sample.labels:
                    labels["le"] = sample.labels["le"]
                alias.add_sample(self._name + suffix, labels, sample.value, sample.timestamp, sample.exemplar)
            yield alias
