"""KEDA's own operator scales the workers of a model by the work that the API counts."""

from collections.abc import Iterator

import pytest
from helm_python import Config

from testbed.history import check_client

from .cluster import Cluster, until
from .release import Json, Release, merged, scripted_text
from .scripted_values import SCRIPT, SCRIPTED

PER_WORKER = 2
COOLDOWN_SECONDS = 20
SCALING_SECONDS = 300.0
"""Within which KEDA and its HPA have done what the work asks for; an HPA looks every 15 s."""
SHORT, LONG = 600, 3600
"""Words: half a minute and three minutes."""
VALUES: Json = {
    "autoscaling": {
        "provider": "keda",
        "keda": {
            "pollingInterval": 2,
            "cooldownPeriod": COOLDOWN_SECONDS,
            "initialCooldownPeriod": COOLDOWN_SECONDS,
            "scaleDownStabilizationSeconds": 15,
        },
    },
    "models": {
        SCRIPT: {
            "source": "scripted:?token_ms=50",
            "scaling": {"min": 0, "max": 3, "targetInFlight": PER_WORKER},
        }
    },
}


@pytest.fixture(scope="module")
def keda(cluster: Cluster, remarks: list[str]) -> str:
    """Its version; without KEDA there is nothing to test here."""
    version = cluster.keda_version()
    if not version:
        pytest.skip("KEDA is not installed on this cluster: it does not know keda.sh/v1alpha1")
    remarks.append(f"KEDA {version}")
    return version


@pytest.fixture(scope="module")
def scaled(keda: str, cluster: Cluster, helm: Config, base_values: Json) -> Iterator[Release]:
    values = merged({**SCRIPTED, "models": VALUES["models"]}, {"autoscaling": VALUES["autoscaling"]})
    release = Release(cluster, helm, "headrace-scaled", merged(base_values, values))
    release.install()
    release.until_ready()
    yield release
    release.uninstall()


def workers(release: Release) -> list[str]:
    """Names of the pods that are there or coming, in no order."""
    pods = release.cluster.pods(f"{release.selector('worker')},headrace/model={SCRIPT}")
    return [pod.metadata.name for pod in pods]


def until_workers(release: Release, count: int) -> None:
    until(lambda: len(workers(release)) == count, SCALING_SECONDS, f"{count} workers of {SCRIPT}")


def test_a_task_at_zero_is_told_so_and_brings_the_first_worker(scaled: Release) -> None:
    until_workers(scaled, 0)  # the one of the installation has gone
    scaled.cluster.pause_keda(scaled.worker(SCRIPT), True)  # it may be faster than the news of it
    reader = scaled.ask(SCRIPT, 40)
    reader.until_told("scaled to zero: waiting for the autoscaler")
    scaled.cluster.pause_keda(scaled.worker(SCRIPT), False)
    check_client(reader.finish(), scripted_text(40))
    assert len(workers(scaled)) == 1


def test_more_work_brings_more_workers_and_its_end_takes_the_idle_ones(scaled: Release) -> None:
    long = scaled.ask(SCRIPT, LONG)
    long.until_tokens(20)
    busy = scaled.holder(long.history)
    many = [scaled.ask(SCRIPT, SHORT) for _ in range(2 * PER_WORKER + 1)]
    until_workers(scaled, 3)
    for reader in many:
        check_client(reader.finish(), scripted_text(SHORT))
    until_workers(scaled, 1)
    assert workers(scaled) == [busy]
    check_client(long.finish(), scripted_text(LONG))
    assert long.attempts == [1], long.story


def test_a_worker_in_the_middle_of_an_answer_outlives_the_cooldown_and_goes_after_it(scaled: Release) -> None:
    reader = scaled.ask(SCRIPT, 2 * COOLDOWN_SECONDS * 20)  # twice the cooldown
    check_client(reader.finish(), scripted_text(2 * COOLDOWN_SECONDS * 20))
    assert reader.attempts == [1], reader.story
    until_workers(scaled, 0)


def test_an_answer_outlives_an_api_that_is_away_for_longer_than_the_cooldown(
    scaled: Release, keda: str, remarks: list[str]
) -> None:
    words = 4 * COOLDOWN_SECONDS * 20
    reader = scaled.ask(SCRIPT, words)
    reader.until_tokens(20)
    busy = scaled.holder(reader.history)
    scaled.cluster.scale(scaled.api, 0)
    try:
        until(
            lambda: scaled.recorded(reader.history, "state") == "ended" or busy not in workers(scaled),
            SCALING_SECONDS,
            "the worker has ended the task by itself, or KEDA has taken it away",
        )
        stayed = busy in workers(scaled)
    finally:
        scaled.cluster.scale(scaled.api, 2)
    check_client(reader.finish(), scripted_text(words))
    assert reader.attempts == ([1] if stayed else [1, 2]), reader.story
    remarks.append(f"while the API was away KEDA {'kept' if stayed else 'TOOK AWAY'} the busy worker")
    # From 2.20.0 on KEDA sometimes takes its own scaler that it is closing after an error for "no work".
    assert stayed or not keda.startswith(("2.16", "2.17", "2.18", "2.19"))
