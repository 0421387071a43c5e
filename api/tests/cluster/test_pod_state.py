"""Why a pod does not serve, in words: from what the kubelet and the scheduler say of it."""

import json
from typing import Any

import pytest

from api.cluster.cluster_objects import Event, Pod
from api.cluster.pod_state import PodState, pod_state
from testbed.cluster_objects import creating, event, unschedulable

Json = dict[str, Any]

READY: Json = {"name": "worker", "ready": True, "state": {"running": {}}}
FETCH: Json = {"name": "fetch-model", "state": {"running": {}}}
NO_IMAGE: Json = {"name": "worker", "state": {"waiting": {"reason": "ErrImagePull", "message": "not found"}}}
LOOPING: Json = {
    "name": "worker",
    "state": {"waiting": {"reason": "CrashLoopBackOff"}},
    "lastState": {"terminated": {"exitCode": 1, "message": '{"level": "ERROR", "message": "There is no GPU."}\n\n'}},
}
KILLED: Json = {"name": "worker", "state": {"terminated": {"exitCode": 137}}, "lastState": None}
FAILED: Json = {"name": "worker", "state": {"terminated": {"exitCode": 3}}, "lastState": None}
FINISHED: Json = {"name": "istio-init", "ready": True, "state": {"terminated": {"exitCode": 0}}, "lastState": None}
ALIVE_AGAIN: Json = {
    "name": "worker",
    "ready": True,
    "state": {"running": {}},
    "lastState": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}},
}


def out_of_memory(name: str, state: str) -> Json:
    """By the state of a container whose last log line says something else."""
    end = {"terminated": {"exitCode": 137, "reason": "OOMKilled", "message": "loading weights 62 %\n"}}
    waiting = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 20s restarting failed container"}}
    states = {"terminated": (end, {}), "waiting": (waiting, end), "running": ({"running": {}}, end)}
    return {"name": name, "ready": False, "state": states[state][0], "lastState": states[state][1]}


SMALLER = "or lower its slots, contextLength or settings.kvMemoryGib"
RAISE = "raise the model's resources.limits.memory"
MIXED = "0/2 nodes are available: 1 Insufficient cpu, 1 node(s) did not match"
NO_CLAIM = event("a", "FailedMount", 'claim "models"\n not found', seconds=1, kind="Warning")


@pytest.mark.parametrize(
    ("status", "events", "state"),
    [
        ({"phase": "Running", "containerStatuses": [READY]}, [], PodState()),
        ({"phase": "Failed"}, [], PodState()),
        ({"phase": "Pending"}, [], PodState("creating the container", needs_events=True)),
        (
            {"initContainerStatuses": [FETCH], "containerStatuses": [creating()]},
            [],
            PodState("fetching the model"),
        ),
        ({"containerStatuses": [NO_IMAGE]}, [], PodState("ErrImagePull: not found", needs_events=True)),
        (
            {"containerStatuses": [KILLED]},
            [],
            PodState(f"CrashLoopBackOff: killed (exit code 137), probably out of memory: {RAISE}, {SMALLER}"),
        ),
        (
            {"containerStatuses": [out_of_memory("worker", "terminated")]},
            [],
            PodState(f"CrashLoopBackOff: OOMKilled: out of memory: {RAISE}, {SMALLER}"),
        ),
        (
            {"containerStatuses": [out_of_memory("worker", "waiting")]},
            [],
            PodState(f"CrashLoopBackOff: OOMKilled: out of memory: {RAISE}, {SMALLER}"),
        ),
        (
            {"containerStatuses": [out_of_memory("worker", "running")]},
            [],
            PodState(f"CrashLoopBackOff: OOMKilled: out of memory: {RAISE}, {SMALLER}", starting=True),
        ),
        (
            {"initContainerStatuses": [out_of_memory("fetch-model", "waiting")]},
            [],
            PodState("CrashLoopBackOff: OOMKilled: out of memory: raise the model's cache.resources.limits.memory"),
        ),
        (
            {"containerStatuses": [READY, out_of_memory("proxy", "waiting")]},
            [],
            PodState("CrashLoopBackOff: OOMKilled: out of memory: raise the memory limit of the container proxy"),
        ),
        ({"containerStatuses": [ALIVE_AGAIN]}, [], PodState()),
        ({"containerStatuses": [FAILED]}, [], PodState("CrashLoopBackOff: exit code 3")),
        ({"initContainerStatuses": [FINISHED], "containerStatuses": [READY]}, [], PodState()),
        ({"containerStatuses": [LOOPING]}, [], PodState("CrashLoopBackOff: There is no GPU.")),
        (
            {"containerStatuses": [creating()]},
            [NO_CLAIM],
            PodState('FailedMount: claim "models" not found', needs_events=True),
        ),
        ({"conditions": [unschedulable(f"{MIXED}. more")]}, [], PodState(f"Unschedulable: {MIXED}")),
    ],
)
def test_a_pods_state_in_words(status: Json, events: list[Json], state: PodState) -> None:
    parsed = Pod.model_validate_json(json.dumps({"metadata": {"name": "a", "labels": None}, "status": status}))
    assert pod_state(parsed, [Event.model_validate(one) for one in events]) == state


@pytest.mark.parametrize(
    ("containers", "message", "told"),
    [
        ([{"limits": {"nvidia.com/gpu": "3"}}], "1 Insufficient nvidia.com/gpu", "3 of nvidia.com/gpu"),
        ([{"requests": {"cpu": "4"}}, {"requests": {"cpu": "100m"}}], "1 Insufficient cpu", "4 + 100m of cpu"),
        (
            [{"requests": {"cpu": "4", "memory": "16Gi"}, "limits": {"memory": "64Gi"}}],
            "1 Insufficient cpu, 1 Insufficient memory",
            "4 of cpu and 16Gi of memory",
        ),
        ([], "1 Insufficient ephemeral-storage", "more of ephemeral-storage"),
    ],
)
def test_what_no_node_has_room_for_is_told_with_its_amount(containers: list[Json], message: str, told: str) -> None:
    spec = {"containers": [{"name": str(number), "resources": one} for number, one in enumerate(containers)]}
    whole = f"0/1 nodes are available: {message}. preemption: 0/1 nodes are available: 1 No preemption victims found."
    body = {"metadata": {"name": "a"}, "spec": spec, "status": {"conditions": [unschedulable(whole)]}}
    assert pod_state(Pod.model_validate(body), ()) == PodState(f"Unschedulable: 0/1 nodes have room for {told}")
