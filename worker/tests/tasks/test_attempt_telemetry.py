"""What an attempt leaves in the metrics; its spans are looked at from outside, in faults/test_traces.py."""

import logging
from collections.abc import Callable

import pytest

from shared.store.task_record import Claim
from shared.wire.schemas import FinalTextEvent, Timings, Usage
from testbed.lone_attempt import no_metrics
from testbed.task_client import LEASE_SECONDS, SCRIPTED_MODEL, TaskClient
from worker.engine_protocol import Generate, Output
from worker.status.metrics import WorkerMetrics
from worker.tasks.attempt_telemetry import AttemptTelemetry
from worker.tasks.outcomes import AttemptEnd, Crashed, Errored, Finished, Lost

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def metrics() -> WorkerMetrics:
    return no_metrics()


@pytest.fixture
def telemetry(metrics: WorkerMetrics) -> AttemptTelemetry:
    return AttemptTelemetry(metrics, model=SCRIPTED_MODEL, task_id="t1", context=TRACE)


def value(metrics: WorkerMetrics, name: str, **labels: str) -> float:
    labels = labels if "tenant" in labels else {"model": SCRIPTED_MODEL, **labels}
    return metrics.registry.get_sample_value(f"headrace_{name}", labels) or 0.0


async def claim(client: TaskClient, task_id: str) -> Claim:
    claimed = await client.ledger.claim(task_id, worker="here", lease_seconds=LEASE_SECONDS, revision="r")
    assert isinstance(claimed, Claim)
    return claimed


async def test_only_the_first_attempt_counts_the_time_in_the_queue(
    client: TaskClient, metrics: WorkerMetrics, telemetry: AttemptTelemetry
) -> None:
    task_id = await client.accept("hello")
    with telemetry.claimed(await claim(client, task_id)):
        pass
    assert value(metrics, "task_queue_seconds_count") == 1
    await client.ledger.requeue(task_id, 1, "handover")
    second = AttemptTelemetry(metrics, model=SCRIPTED_MODEL, task_id=task_id, context=TRACE)
    with second.claimed(await claim(client, task_id)):
        pass
    assert value(metrics, "task_queue_seconds_count") == 1


async def test_an_answer_is_counted_by_tenant_and_timed_token_by_token(
    client: TaskClient, metrics: WorkerMetrics, telemetry: AttemptTelemetry
) -> None:
    with telemetry.claimed(await claim(client, await client.accept("hello"))):
        telemetry.submitted(Generate("r", (1,) * 10, max_new_tokens=5))
        telemetry.took(Output("r", (), admitted_at=1e-9))
        telemetry.took(Output("r", (1,), cached_tokens=4))
        telemetry.took(Output("r", (2, 3), "stop"))
        telemetry.ended(Finished("stop"))
        usage, timings = (
            Usage(prompt_tokens=10, completion_tokens=3),
            Timings(queued=0.1, first_token=0.2, total=0.5),
        )
        telemetry.answered(FinalTextEvent(task_id="t1", text="abc", finish_reason="stop", usage=usage, timings=timings))
    assert value(metrics, "prompt_tokens_total") == 10
    assert value(metrics, "cached_prompt_tokens_total") == 4
    assert value(metrics, "tenant_tokens_total", tenant="tenant", kind="prompt") == 10
    assert value(metrics, "tenant_tokens_total", tenant="tenant", kind="completion") == 3
    assert value(metrics, "task_seconds_sum") == 0.5
    assert value(metrics, "task_first_token_seconds_sum") == 0.2
    assert value(metrics, "task_admitted_first_token_seconds_count") == 1
    assert value(metrics, "task_output_token_seconds_count") == 1


@pytest.mark.parametrize(
    ("end", "outcome"),
    [(Finished("stop"), "finished"), (Errored("internal", "no"), "failed"), (Lost(), "lost"), (Crashed(), "crash")],
)
def test_each_attempt_is_counted_once_by_its_first_reason(
    metrics: WorkerMetrics, telemetry: AttemptTelemetry, end: AttemptEnd, outcome: str
) -> None:
    telemetry.ended(end)
    telemetry.ended(Finished("length"))
    assert value(metrics, "worker_attempts_total", outcome=outcome) == 1
    samples = [one for family in metrics.attempts.collect() for one in family.samples if one.name.endswith("_total")]
    assert sum(one.value for one in samples) == 1


def test_an_answer_that_is_drawn_anew_is_counted(metrics: WorkerMetrics, telemetry: AttemptTelemetry) -> None:
    telemetry.ended(Finished("stop"))
    telemetry.redrawn("It is no document.")
    assert value(metrics, "worker_redraws_total") == 1
    assert value(metrics, "worker_attempts_total", outcome="finished") == 1


def test_one_token_has_no_time_between_tokens(metrics: WorkerMetrics, telemetry: AttemptTelemetry) -> None:
    telemetry.took(Output("r", (1,), "stop"))
    telemetry.ended(Finished("stop"))
    timings = Timings(queued=0, first_token=None, total=0.5)
    usage = Usage(prompt_tokens=1, completion_tokens=1)
    telemetry.answered(FinalTextEvent(task_id="t1", text="a", finish_reason="stop", usage=usage, timings=timings))
    assert value(metrics, "task_output_token_seconds_count") == 0
    assert value(metrics, "task_first_token_seconds_count") == 0


def test_an_attempt_goes_on_in_the_trace_of_its_message(telemetry: AttemptTelemetry) -> None:
    assert telemetry.context.split("-")[1] == TRACE.split("-")[1]


@pytest.mark.parametrize("raises", [ValueError, MemoryError])
def test_what_telemetry_itself_raises_harms_nobody(
    telemetry: AttemptTelemetry, caplog: pytest.LogCaptureFixture, raises: Callable[[], Exception]
) -> None:
    with telemetry.harmless():
        raise raises()
    assert "An attempt cannot be told of." in caplog.text
    assert caplog.records[0].levelno == logging.ERROR


@pytest.mark.parametrize("leaving", [KeyboardInterrupt, SystemExit])
def test_who_leaves_is_not_held_up(telemetry: AttemptTelemetry, leaving: type[BaseException]) -> None:
    with pytest.raises(leaving), telemetry.harmless():
        raise leaving
