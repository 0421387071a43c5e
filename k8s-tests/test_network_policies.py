"""NetworkPolicies of the chart: what must pass passes, and what must not is refused where the cluster enforces them."""

import functools
from collections.abc import Iterator
from typing import Any

import pytest

from testbed.history import check_client

from .cluster import START_SECONDS, Cluster, until
from .release import Json, Release, merged, scripted_text
from .scripted_values import SCRIPT, python_image

ENFORCED_WITHIN = 30.0
"""Seconds after which a policy that is enforced at all is in force."""
KNOCK = """
import socket, sys, threading, time
listener = socket.create_server(("", 8080))
threading.Thread(target=lambda: [listener.accept()[0].close() for _ in iter(int, 1)], daemon=True).start()
while True:
    for target in sys.argv[1:]:
        host, port = target.split(":")
        try:
            socket.create_connection((host, int(port)), 3).close()
            state = "open"
        except OSError as error:
            state = f"shut: {error}"
        print('{"target": "%s", "state": "%s"}' % (target, state), flush=True)
    time.sleep(1)
"""
"""Listens on 8080 and knocks at other doors, again and again."""


def at(cluster: Cluster, pod: str, target: str) -> str:
    """How the last knock ended."""
    states = [one["state"] for one in cluster.log_objects(pod) if one["target"] == target]
    return str(states[-1])[:4] if states else ""


def shut(cluster: Cluster, pod: str, target: str) -> bool:
    return at(cluster, pod, target) == "shut"


@pytest.fixture(scope="module")
def enforced(cluster: Cluster, base_values: Json, remarks: list[str]) -> Iterator[bool]:
    """Found out by a probe: a policy that refuses everything, and a pod that tries."""
    image = python_image(base_values)
    for name, target in (("door", "localhost:8080"), ("knocker", "door:8080")):
        cluster.run_python(name, *image, {"knock.py": KNOCK}, target)
    until(lambda: at(cluster, "knocker", "door:8080") == "open", START_SECONDS, "pods reach each other")
    nothing: dict[str, Any] = {"podSelector": {"matchLabels": {"app": "door"}}, "policyTypes": ["Ingress"]}
    policy = {"metadata": {"name": "refuse-all"}, "spec": nothing}
    cluster.networking.create_namespaced_network_policy(cluster.namespace, policy)
    try:
        until(lambda: at(cluster, "knocker", "door:8080") == "shut", ENFORCED_WITHIN, "a refusal")
        result = True
    except AssertionError:
        result = False
    remarks.append(f"NetworkPolicies are {'enforced' if result else 'NOT enforced'} on this cluster (probed)")
    yield result
    cluster.networking.delete_namespaced_network_policy("refuse-all", cluster.namespace)
    for name in ("door", "knocker"):
        cluster.remove_python(name)


@pytest.fixture
def guarded(scripted: Release) -> Iterator[Release]:
    """With policies; only pods with the label `app: friend` may reach the API. API and workers start under them."""
    friend = {"podSelector": {"matchLabels": {"app": "friend"}}}
    renewed = {"podAnnotations": {"k8s-test/policies": "1"}}  # a connection from before would go on
    policies = {"networkPolicy": {"enabled": True, "apiFrom": [friend]}}
    scripted.upgrade(merged(policies, {"api": renewed, "modelDefaults": renewed}))
    scripted.until_ready(SCRIPT)
    yield scripted
    scripted.upgrade()
    scripted.until_ready(SCRIPT)


def test_with_policies_on_a_chat_still_reaches_its_end(guarded: Release) -> None:
    policies = guarded.cluster.networking.list_namespaced_network_policy(
        guarded.cluster.namespace, label_selector=f"app.kubernetes.io/instance={guarded.name}"
    ).items
    assert len(policies) == 4  # API, Redis, two models
    check_client(guarded.ask(SCRIPT, 40).finish(), scripted_text(40))


def test_strangers_are_refused_by_redis_and_by_the_api(guarded: Release, enforced: bool, base_values: Json) -> None:
    if not enforced:
        pytest.skip("this cluster's CNI does not enforce NetworkPolicy: a policy that refuses everything let a pod in")
    cluster, image = guarded.cluster, python_image(base_values)
    redis, api = f"{guarded.name}-redis:6379", f"{guarded.api}:8000"
    for name in ("stranger", "friend"):
        cluster.run_python(name, *image, {"knock.py": KNOCK}, redis, api)
    try:
        until(lambda: at(cluster, "friend", api) == "open", ENFORCED_WITHIN, "a friend reaches the API")
        until(lambda: at(cluster, "stranger", api) == "shut", ENFORCED_WITHIN, "a stranger is refused by the API")
        for name in ("stranger", "friend"):
            until(functools.partial(shut, cluster, name, redis), ENFORCED_WITHIN, f"{name} is refused by Redis")
    finally:
        for name in ("stranger", "friend"):
            cluster.remove_python(name)
