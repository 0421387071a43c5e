"""What Prometheus reads from a worker."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from worker.engine_protocol import Step

STEP_SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)


class WorkerMetrics:
    """The worker's instruments in a registry of their own."""

    def __init__(self, model: str, tasks: Callable[[], int], restarts: Callable[[], int]) -> None:
        self.registry = CollectorRegistry()

        def gauge(name: str, text: str) -> Gauge:
            return Gauge(name, text, ["model"], registry=self.registry).labels(model)

        self._tokens = Counter("headrace_worker_tokens", "Tokens generated", ["model"], registry=self.registry).labels(
            model
        )
        self._steps = Histogram(
            "headrace_worker_step_seconds", "Length of an engine step", ["model"], buckets=STEP_SECONDS,
            registry=self.registry,
        ).labels(model)  # fmt: skip
        self._batch = gauge("headrace_worker_batch_size", "Requests in the running batch")
        self._waiting = gauge("headrace_worker_engine_waiting", "Requests the engine holds but has not admitted")
        self._kv_used = gauge("headrace_worker_kv_cache_used_ratio", "Used part of the KV cache")
        gauge("headrace_worker_tasks_running", "Tasks this worker holds").set_function(tasks)
        gauge("headrace_worker_engine_restarts", "Restarts of the engine process").set_function(restarts)

    def observe(self, step: Step) -> None:
        """Notes one engine step."""
        stats = step.stats
        self._batch.set(stats.running)
        self._waiting.set(stats.waiting)
        self._kv_used.set(stats.kv_used)
        if step.outputs:
            self._steps.observe(stats.step_seconds)
            self._tokens.inc(sum(len(output.token_ids) for output in step.outputs))
