"""`helm install` with default values: SmolLM2-135M on a CPU, the bundled Valkey, two API replicas."""

from collections.abc import Iterator
from typing import Literal

import pytest
from helm_python import Config

from headrace import Client
from testbed.history import check_client

from .cluster import Cluster
from .release import Json, Reader, Release, merged

MODEL = "smollm2-135m-instruct"
DRAIN_SECONDS = 5
"""Less than an answer takes, and more than the two seconds that a kubelet gives even a pod that is deleted at once."""


@pytest.fixture(scope="module")
def default(cluster: Cluster, helm: Config, base_values: Json) -> Iterator[Release]:
    """Ready. The drain alone is another, so that a deleted worker hands over before its answer is whole."""
    release = Release(
        cluster, helm, "headrace", merged(base_values, {"modelDefaults": {"drainSeconds": DRAIN_SECONDS}})
    )
    release.install()
    release.until_ready(MODEL)
    yield release
    release.uninstall()


def test_helm_test_has_a_chat_with_the_model(default: Release) -> None:
    logs = default.test()
    assert "answer:" in logs
    assert "Paris" in logs


def test_a_chat_with_a_tool_round_trip_through_a_port_forward(default: Release) -> None:
    asked: list[str] = []

    def weather(city: Literal["Paris", "London"]) -> str:
        """The weather in a city."""
        asked.append(city)
        return "It is sunny, 21 degrees."

    with Client(default.doors.url(f"service/{default.api}"), timeout=60) as client:
        answer = client.run_tools(
            "What is the weather in Paris?", [weather], tool_choice="required", max_tokens=64, temperature=0
        )
    assert asked
    assert answer.text
    assert answer.finish_reason in ("stop", "length")


@pytest.mark.parametrize("at_once", [False, True], ids=["deleted", "killed"])
def test_the_model_goes_on_where_its_lost_worker_pod_stopped(default: Release, at_once: bool) -> None:
    question = "Tell me the story of a river, from its source to the sea."

    def ask() -> Reader:
        with Client(next(iter(default.doors)), timeout=60) as client:
            return Reader(default.doors, client.create(question, max_tokens=400, temperature=0))

    undisturbed = ask().finish()
    check_client(undisturbed)
    reader = ask()
    reader.until_tokens(10)
    default.cluster.delete_pod(default.holder(reader.history), at_once=at_once)
    history = reader.finish()
    assert history.state == "SUCCESS", reader.story
    assert reader.attempts == [1, 2], reader.story
    assert not any(one.data.get("restart") for one in history.seen), reader.story
    check_client(history, undisturbed.text)
