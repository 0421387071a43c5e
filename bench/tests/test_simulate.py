"""The simulation's queues and sums."""

import random

import pytest

from bench.measures import percentile
from bench.simulate import Cluster, Costs, predict, waits

COSTS = Costs(
    redis_event_s=10e-6,
    redis_task_s=500e-6,
    redis_worker_s=1e-4,
    redis_replica_s=1e-4,
    commands_event=2,
    commands_task=30,
    bytes_event=500,
    memory_task=3000,
    memory_token=40,
    api_event_s=40e-6,
    api_task_s=5e-3,
    connections_worker=5,
    connections_replica=10,
    shape=(1.0,),
)


def test_a_queue_waits_as_queueing_theory_says() -> None:
    # M/D/1 at load 0.5: mean time in the system is S + S * rho / (2 * (1 - rho)) = 1.5 S.
    times = waits(random.Random(7), per_second=500, batch=1, service=1e-3, shape=(1.0,), events=100_000)
    assert sum(times) / len(times) == pytest.approx(1.5e-3, rel=0.05)


def test_an_idle_queue_serves_a_batch_one_by_one() -> None:
    times = waits(random.Random(7), per_second=1, batch=10, service=1e-3, shape=(1.0,), events=1000)
    assert percentile(times, 50) == pytest.approx(5.5e-3, rel=0.05)


def test_a_cluster_adds_up() -> None:
    found = predict(Cluster(replicas=10, workers=10, tasks_per_worker=10, tokens_per_second=30), COSTS)
    assert found["tokens_per_s"] == 3000
    assert found["tasks_per_s"] == 12
    assert found["redis_commands_per_s"] == 3000 * 2 + 12 * 30
    assert found["stream_cores_per_shard"] == pytest.approx(0.03)
    assert found["open_streams_per_replica"] == 10
    assert found["redis_ms_p99"] < 5


def test_what_is_overloaded_has_no_waiting_time() -> None:
    found = predict(Cluster(), COSTS)
    assert found["stream_cores_per_shard"] > 1
    assert "redis_ms_p99" not in found
