"""What Prometheus reads from a worker."""

from collections.abc import Callable, Iterable

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Metric,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from shared.telemetry import semantic_conventions as names
from shared.telemetry.metrics import REQUEST_BUCKETS, TOKEN_BUCKETS, WAIT_BUCKETS, Alias, BoundedLabel, tasks_ended
from worker.engine_protocol import Ready, Step
from worker.status.gpus import Gpus

STEP_SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)


class WorkerMetrics:
    """The worker's instruments in a registry of their own; all about its one model."""

    def __init__(self, model: str, *, tasks: Callable[[], int], restarts: Callable[[], int]) -> None:
        """`tasks`: how many this worker holds; `restarts`: of its engine."""
        disable_created_metrics()  # type: ignore[no-untyped-call]  # half of the series, and nobody reads them
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self.registry.register(Gpus())
        self.model = model

        self.queue_seconds = self._histogram("task_queue", "From acceptance to the first claim.", WAIT_BUCKETS)
        self.first_token_seconds = self._histogram(
            "task_first_token", "From acceptance to the first token.", WAIT_BUCKETS, names.SERVER_FIRST_TOKEN_SECONDS
        )
        self.admitted_first_token_seconds = self._histogram(
            "task_admitted_first_token", "From admission to the batch to the first token.", WAIT_BUCKETS
        )
        self.output_token_seconds = self._histogram(
            "task_output_token", "Per token after the first.", TOKEN_BUCKETS, names.SERVER_OUTPUT_TOKEN_SECONDS
        )
        self.task_seconds = self._histogram(
            "task", "From acceptance to the whole answer.", REQUEST_BUCKETS, names.SERVER_REQUEST_SECONDS
        )
        self.ended = tasks_ended(self.registry)
        self.attempts = Counter(
            "headrace_worker_attempts", "Attempts ended, by outcome.", ["model", "outcome"], registry=self.registry
        )
        self.claims = Counter(
            "headrace_worker_claims",
            "Tasks taken, by class and by where their prompt was warm.",
            ["model", "priority", "warm"],
            registry=self.registry,
        )
        self.redraws = self._counter("worker_redraws", "Answers drawn anew: they were not what was demanded.")
        self._prompt_tokens = self._counter("prompt_tokens", "Prompt tokens given to the engine.")
        self.cached_tokens = self._counter("cached_prompt_tokens", "Of these, found in the prefix cache.")
        self._tenant_tokens = Counter(
            "headrace_tenant_tokens", "Tokens by tenant.", ["tenant", "kind"], registry=self.registry
        )
        self._tenant_label = BoundedLabel()

        self._tokens = self._counter("worker_tokens", "Tokens generated.")
        self._steps = self._histogram("worker_step", "Length of an engine step.", STEP_SECONDS)
        self._batch = self._gauge("worker_batch_size", "Requests in the running batch.")
        self._slots = self._gauge("worker_batch_slots", "Requests that fit into the batch.")
        self._waiting = self._gauge("worker_engine_waiting", "Requests the engine holds but has not admitted.")
        self._kv_used = self._gauge("worker_kv_cache_used_ratio", "Used part of the KV cache.")
        self._load = self._gauge("worker_model_load_seconds", "From the engine's start to a model that is ready.")
        self._gauge("worker_tasks_running", "Tasks this worker holds.").set_function(tasks)
        self._preempted = self._preempted_by_engine = 0
        self.count("worker_engine_restarts", "Restarts of the engine process.", restarts)
        self.count("worker_preemptions", "Requests put out of the batch for memory.", lambda: self._preempted)

    def gauge(self, name: str, text: str, value: Callable[[], float]) -> None:
        """Adds a gauge that is asked at each scrape."""
        self._gauge(name, text).set_function(value)

    def count(self, name: str, text: str, value: Callable[[], int]) -> None:
        """Adds a counter that somebody else keeps."""
        self.registry.register(_Kept(f"headrace_{name}", text, self.model, value))

    def watch(self, *, connects: Callable[[], int], stalled_seconds: Callable[[], float]) -> None:
        """Adds what is known of the broker's consumer: how often it has connected, for how long it takes nothing."""
        reconnects = "Connections to the broker after the first."
        self.count("worker_broker_reconnects", reconnects, lambda: max(0, connects() - 1))
        stalled = "Time without a request for work although there was room, or without a turn of the consumer."
        self.gauge("worker_consumption_stalled_seconds", stalled, stalled_seconds)

    def ready(self, engine: Ready) -> None:
        """Notes an engine that has started."""
        self._slots.set(engine.slots)
        self._load.set(engine.load_seconds)

    def observe(self, step: Step) -> None:
        """Notes one engine step."""
        stats = step.stats
        self._batch.set(stats.running)
        self._waiting.set(stats.waiting)
        self._kv_used.set(stats.kv_used)
        # The engine counts from its own start.
        self._preempted += max(0, stats.preemptions - self._preempted_by_engine)
        self._preempted_by_engine = stats.preemptions
        if step.outputs:
            self._steps.observe(stats.step_seconds)
            self._tokens.inc(sum(len(output.token_ids) for output in step.outputs))

    def count_prompt(self, tokens: int, tenant: str) -> None:
        """Notes the prompt of one attempt."""
        self._prompt_tokens.inc(tokens)
        self._tenant_tokens.labels(self._tenant_label(tenant), "prompt").inc(tokens)

    def count_answer(self, tokens: int, tenant: str) -> None:
        """Notes what one attempt generated; `worker_tokens` has it since each step."""
        self._tenant_tokens.labels(self._tenant_label(tenant), "completion").inc(tokens)

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(f"headrace_{name}", text, ["model"], registry=self.registry).labels(self.model)

    def _counter(self, name: str, text: str) -> Counter:
        return Counter(f"headrace_{name}", text, ["model"], registry=self.registry).labels(self.model)

    def _histogram(self, name: str, text: str, buckets: Iterable[float], alias: str = "") -> Histogram:
        family = Histogram(f"headrace_{name}_seconds", text, ["model"], buckets=tuple(buckets), registry=self.registry)
        if alias:
            labels = {names.OPERATION: names.CHAT, names.PROVIDER: names.HEADRACE, names.REQUEST_MODEL: "{model}"}
            self.registry.register(Alias(family, alias, labels))
        return family.labels(self.model)


class _Kept(Collector):
    """A counter whose value stands elsewhere."""

    def __init__(self, name: str, text: str, model: str, value: Callable[[], int]) -> None:
        self._name, self._text, self._model, self._value = name, text, model, value

    def collect(self) -> Iterable[Metric]:
        family = CounterMetricFamily(self._name, self._text, labels=["model"])
        family.add_metric([self._model], self._value())
        return [family]
