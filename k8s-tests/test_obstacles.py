"""Workers that cannot start: what their clients are told, once each and with the cause."""

from collections.abc import Iterator

import pytest
from helm_python import Config

from headrace import Client

from .cluster import START_SECONDS, Cluster, until
from .release import Json, Reader, Release, merged
from .scripted_values import SCRIPTED

NO_IMAGE = "no-image"
TOO_SMALL = "too-small"
UNPULLABLE = "localhost:1/headrace-worker:none"
"""Nobody answers there, in the same words each time."""
MEMORY = "48Mi"
"""A third of what a worker needs before it has a model."""
FAILURES = 3
"""Of a start; between them Kubernetes calls one trouble by several names."""


@pytest.fixture(scope="module")
def troubled(cluster: Cluster, helm: Config, base_values: Json) -> Iterator[Release]:
    """The API and Redis are ready; the workers never are."""
    models = {
        NO_IMAGE: {"source": "scripted:", "image": UNPULLABLE},
        TOO_SMALL: {"source": "scripted:", "resources": {"requests": {"memory": MEMORY}, "limits": {"memory": MEMORY}}},
    }
    values = merged(
        SCRIPTED, {"api": {"replicas": 1}, "defaultModel": NO_IMAGE, "image": {"pullPolicy": "IfNotPresent"}}
    )
    release = Release(cluster, helm, "headrace-troubled", merged(base_values, {**values, "models": models}))
    release.install()
    release.until_ready()
    yield release
    release.uninstall()


def told(release: Release, model: str, word: str) -> list[str]:
    """The details that a client has heard by the time that the worker has failed so often."""
    pods = f"{release.selector('worker')},headrace/model={model}"
    reader: Reader = release.ask(model, 5)
    reader.until_told(word)
    until(lambda: release.cluster.failures(pods) >= FAILURES, START_SECONDS, f"{FAILURES} failures of {model}")
    with Client(next(iter(release.doors))) as client:
        client.cancel(reader.history.task_id)
    reader.finish()
    return [detail for detail in reader.details if word in detail]


def test_an_image_that_cannot_be_pulled_is_told_once_with_the_registrys_answer(troubled: Release) -> None:
    details = told(troubled, NO_IMAGE, "ErrImagePull")
    assert len(set(details)) == 1, details
    assert details[0].startswith("0 of 1 workers ready: ErrImagePull: ")
    assert details[0].endswith("connection refused")


def test_a_worker_with_too_little_memory_is_told_so_in_one_text_whatever_it_is_doing(troubled: Release) -> None:
    details = told(troubled, TOO_SMALL, "out of memory")
    for part in (
        "CrashLoopBackOff: ",
        "out of memory: raise the model's resources.limits.memory",
        "or lower its slots",
    ):
        assert part in details[0]
    troubles = {detail.partition("; ")[0] for detail in details}
    assert len(troubles) == 1, troubles
