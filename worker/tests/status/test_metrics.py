import pytest
from prometheus_client import generate_latest

from shared.telemetry.metrics import MOST_LABELS
from worker.engine_protocol import Output, Ready, SamplingDefaults, Stats, Step
from worker.status.metrics import WorkerMetrics

READY = Ready(
    context_length=100,
    revision="r",
    eos_token_ids=(0,),
    slots=8,
    device="cpu",
    dtype="none",
    load_seconds=1.5,
    sampling=SamplingDefaults(),
    grammars=True,
    continues_draws=True,
)


@pytest.fixture
def metrics() -> WorkerMetrics:
    return WorkerMetrics("m", tasks=lambda: 3, restarts=lambda: 2)


def value(metrics: WorkerMetrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(f"headrace_{name}", {"model": "m", **labels})


def test_what_others_keep_is_asked_at_each_scrape(metrics: WorkerMetrics) -> None:
    assert value(metrics, "worker_tasks_running") == 3
    assert value(metrics, "worker_engine_restarts_total") == 2


def test_an_engine_that_has_started_says_how_large_its_batch_is(metrics: WorkerMetrics) -> None:
    metrics.ready(READY)
    assert value(metrics, "worker_batch_slots") == 8
    assert value(metrics, "worker_model_load_seconds") == 1.5


def test_a_step_sets_the_gauges_and_counts_its_tokens(metrics: WorkerMetrics) -> None:
    outputs = (Output("a", (1, 2)), Output("b", (3,)))
    metrics.observe(Step(outputs, Stats(step_seconds=0.02, running=2, waiting=1, kv_used=0.25)))
    metrics.observe(Step((), Stats(running=0)))
    assert value(metrics, "worker_tokens_total") == 3
    assert value(metrics, "worker_step_seconds_count") == 1, "a sign of life is no step"
    assert (value(metrics, "worker_batch_size"), value(metrics, "worker_kv_cache_used_ratio")) == (0, 0)


def test_preemptions_add_up_over_engines_that_count_from_their_own_start(metrics: WorkerMetrics) -> None:
    for preemptions in (1, 3, 3, 0, 2):
        metrics.observe(Step((), Stats(preemptions=preemptions)))
    assert value(metrics, "worker_preemptions_total") == 3 + 2


def test_tenants_beyond_the_first_share_a_label(metrics: WorkerMetrics) -> None:
    for number in range(MOST_LABELS + 5):
        metrics.count_prompt(10, f"t{number}")
        metrics.count_answer(1, f"t{number}")
    metrics.count_prompt(10, "t0")
    samples = [sample for family in metrics.registry.collect() for sample in family.samples]
    tenants = {one.labels["tenant"]: one.value for one in samples if one.labels.get("kind") == "prompt"}
    assert len(tenants) == MOST_LABELS + 1
    assert tenants["t0"] == 20
    assert sum(tenants.values()) == 10 * (MOST_LABELS + 6)
    assert value(metrics, "prompt_tokens_total") == 10 * (MOST_LABELS + 6)


def test_times_have_the_names_of_the_conventions_too(metrics: WorkerMetrics) -> None:
    metrics.first_token_seconds.observe(0.2)
    text = generate_latest(metrics.registry).decode()
    assert 'headrace_task_first_token_seconds_count{model="m"} 1.0' in text
    assert 'gen_ai_request_model="m"' in text
