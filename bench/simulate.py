"""Carries measured costs to a cluster: how busy Redis and the API replicas are, and how long a token then waits.

    python -m bench simulate

Every engine step of a worker is one batch of token events to the Redis that holds its streams; every event goes on to
one API replica. Both are single servers (Redis runs commands in one thread, an API replica one event loop), so a
queue's waiting time follows from the arrivals and the measured service times: W' = max(0, W + S - A) (Lindley).
"""

import math
import random
from dataclasses import dataclass

from bench.measures import Metrics, percentile
from bench.results_file import RESULTS, Result, load

EVENTS = 200_000
"""Simulated at each queue."""


@dataclass(frozen=True)
class Cluster:
    """A cluster under load."""

    replicas: int = 100
    workers: int = 1000
    tasks_per_worker: int = 64
    """Running at once."""
    tokens_per_second: float = 30.0
    """Of one task: the rate of engine steps."""
    tokens_per_answer: float = 250.0
    stream_shards: int = 1
    """Redis servers that hold the streams, by the hash of the task id."""
    tokens_per_event: int = 1
    """More than one where workers gather the tokens of several steps before they write."""

    @property
    def events_per_second(self) -> float:
        return self.workers * self.tasks_per_worker * self.tokens_per_second / self.tokens_per_event

    @property
    def tasks_per_second(self) -> float:
        return self.workers * self.tasks_per_worker * self.tokens_per_second / self.tokens_per_answer


@dataclass(frozen=True)
class Costs:
    """Measured on the machine of `bench/results/costs.json`."""

    redis_event_s: float
    redis_task_s: float
    redis_worker_s: float
    """CPU seconds of Redis per second for the presence of one worker; likewise a replica."""
    redis_replica_s: float
    commands_event: float
    commands_task: float
    bytes_event: float
    memory_task: float
    memory_token: float
    api_event_s: float
    api_task_s: float
    connections_worker: float
    connections_replica: float
    shape: tuple[float, ...]
    """Quantiles of the time for one step's writes over their mean."""


def read_costs() -> Costs:
    arms = load(RESULTS / "costs.json").arms
    token, task = arms["per token"], arms["per task"]
    worker, replica = arms["idle worker, per second"], arms["idle API replica, per second"]
    quantiles = list(arms["one writer's steps, ms"].values())
    mean = sum(quantiles) / len(quantiles)
    # At full load an API process handles many events per turn of its loop; the delivery bench has that cost.
    delivery = load(RESULTS / "delivery.json").arms["500 streams x 10/s"]
    return Costs(
        redis_event_s=token["redis_cpu_s"],
        redis_task_s=task["redis_cpu_s"],
        redis_worker_s=max(0.0, worker["redis_cpu_s"]),
        redis_replica_s=max(0.0, replica["redis_cpu_s"]),
        commands_event=token["redis_commands"],
        commands_task=task["redis_commands"],
        bytes_event=token["redis_bytes_in"] + token["redis_bytes_out"],
        memory_task=task["redis_memory_bytes"],
        memory_token=token["redis_memory_bytes"],
        api_event_s=delivery["api_cpu_seconds_per_1000_tokens"] / 1000,
        api_task_s=task["api_cpu_s"],
        connections_worker=worker.get("redis_connections", 0.0),
        connections_replica=replica.get("redis_connections", 0.0),
        shape=tuple(quantile / mean for quantile in quantiles),
    )


def waits(
    random_: random.Random,
    per_second: float,
    batch: int,
    service: float,
    shape: tuple[float, ...],
    events: int = EVENTS,
) -> list[float]:
    """Seconds from arrival to the end of service, in a queue with Poisson arrivals of whole batches.

    `per_second` counts events; `service` is the mean seconds of one event.
    """
    waiting, times = 0.0, []
    between = batch / per_second
    for _ in range(max(1, events // batch)):
        waiting = max(0.0, waiting - random_.expovariate(1 / between))
        for _ in range(batch):
            waiting += service * random_.choice(shape)
            times.append(waiting)
    return times


def predict(cluster: Cluster, costs: Costs, seed: int = 0) -> Metrics:
    """How busy each part is, and the time a token spends in Redis and in its API replica, in milliseconds."""
    random_ = random.Random(seed)
    events, tasks = cluster.events_per_second, cluster.tasks_per_second
    shard = events / cluster.stream_shards
    ledger = (
        tasks * costs.redis_task_s + cluster.workers * costs.redis_worker_s + cluster.replicas * costs.redis_replica_s
    )
    stream = shard * costs.redis_event_s
    api = events / cluster.replicas * costs.api_event_s + tasks / cluster.replicas * costs.api_task_s
    running = cluster.workers * cluster.tasks_per_worker
    kept_tasks = tasks * 3600 + running
    metrics = {
        "tokens_per_s": events * cluster.tokens_per_event,
        "tasks_per_s": tasks,
        "redis_commands_per_s": events * costs.commands_event + tasks * costs.commands_task,
        "ledger_cores": ledger,
        "stream_cores_per_shard": stream,
        "stream_mbit_per_s_per_shard": 8 * shard * costs.bytes_event / 1e6,
        "api_cores_per_replica": api,
        "open_streams_per_replica": running / cluster.replicas,
        "redis_connections": cluster.workers * costs.connections_worker + cluster.replicas * costs.connections_replica,
        "redis_memory_gib_per_hour_kept": kept_tasks
        * (costs.memory_task + costs.memory_token * cluster.tokens_per_answer)
        / 2**30,
    }
    for name, load_, rate, batch, service in (
        ("redis", stream, shard, max(1, round(cluster.tasks_per_worker / cluster.stream_shards)), costs.redis_event_s),
        ("api", api, events / cluster.replicas, 1, api / (events / cluster.replicas)),
    ):
        if load_ < 1:
            times = waits(random_, rate, batch, service, costs.shape)
            metrics |= {f"{name}_ms_p{p}": 1000 * percentile(times, p) for p in (50, 95, 99)}
    return metrics


def simulate() -> Result:
    """The cluster of the document with one Redis, with streams apart, and with as many shards as it takes."""
    costs = read_costs()
    result = Result("simulate", "python -m bench simulate")
    one = Cluster()
    shards = math.ceil(one.events_per_second * costs.redis_event_s / 0.6)
    gathered = Cluster(tokens_per_event=3)
    fewer = math.ceil(gathered.events_per_second * costs.redis_event_s / 0.6)
    for name, cluster in (
        ("10 replicas, 20 workers, one Redis", Cluster(replicas=10, workers=20)),
        ("100 replicas, 1,000 workers, one Redis", one),
        (f"the same, streams on {shards} Redis servers", Cluster(stream_shards=shards)),
        (f"the same, 3 tokens an event, {fewer} Redis servers", Cluster(stream_shards=fewer, tokens_per_event=3)),
    ):
        metrics = predict(cluster, costs)
        result.arms[name] = {metric: float(f"{value:.3g}") for metric, value in metrics.items()}
    result.arms["check: 500 streams x 10/s on one API process"] = _check(costs)
    return result


def _check(costs: Costs) -> Metrics:
    """The delivery bench's own shape, predicted: 20 writers of 25 streams, 10 tokens/s each."""
    measured = load(RESULTS / "delivery.json").arms["500 streams x 10/s"]
    random_ = random.Random(1)
    redis = waits(random_, 5000, 25, costs.redis_event_s, costs.shape)
    api = waits(random_, 5000, 25, costs.api_event_s, costs.shape)
    both = [a + b for a, b in zip(redis, api, strict=True)]
    predicted = {f"predicted_ms_p{p}": round(1000 * percentile(both, p), 2) for p in (50, 95)}
    return predicted | {f"measured_ms_p{p}": measured[f"latency_ms_p{p}"] for p in (50, 95)}
