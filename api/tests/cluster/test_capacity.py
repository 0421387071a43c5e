"""What the cluster says of a model's workers, read from a stand-in for the Kubernetes API server."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from kubernetes.aio.client import ApiClient, AppsV1Api, Configuration, CoreV1Api

from api.cluster import capacity as capacity_module
from api.cluster.capacity import Capacity, capacity_of_this_cluster
from api.cluster.cluster_objects import Event, Pod
from api.cluster.pod_state import PodState, pod_state

Json = dict[str, Any]
SELECTOR = "app.kubernetes.io/instance=headrace,app.kubernetes.io/component=worker"
START = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass
class Cluster:
    """The three lists that the API asks for, and what it asked."""

    deployments: list[Json] = field(default_factory=list)
    pods: list[Json] = field(default_factory=list)
    events: list[Json] = field(default_factory=list)
    asked: list[tuple[str, str]] = field(default_factory=list)
    refuses: bool = False
    held: asyncio.Event = field(default_factory=asyncio.Event)
    """While it is clear, nothing is answered."""

    async def answer(self, request: web.Request) -> web.Response:
        kind = request.match_info["kind"]
        await self.held.wait()
        self.asked.append((request.path, request.query.get("labelSelector") or request.query["fieldSelector"]))
        if self.refuses:
            return web.json_response({"kind": "Status", "code": 403}, status=403)
        items = getattr(self, kind)
        if kind == "events":
            name = request.query["fieldSelector"].rpartition("=")[2]
            items = [event for event in items if event["involvedObject"]["name"] == name]
        return web.json_response({"kind": "List", "metadata": {"resourceVersion": "1"}, "items": items})


@pytest.fixture
async def cluster() -> AsyncIterator[tuple[Cluster, Capacity]]:
    cluster = Cluster()
    cluster.held.set()
    app = web.Application()
    app.router.add_get("/api/v1/namespaces/ml/{kind:pods|events}", cluster.answer)
    app.router.add_get("/apis/apps/v1/namespaces/ml/{kind:deployments}", cluster.answer)
    server = TestServer(app)
    await server.start_server()
    async with server, ApiClient(Configuration(host=f"http://127.0.0.1:{server.port}")) as client:
        capacity = Capacity(CoreV1Api(client), AppsV1Api(client), "ml", SELECTOR, max_age=0)
        yield cluster, capacity
        cluster.held.set()
        await capacity.close()


def deployment(model: str, *, desired: int, ready: int | None = None, **status: Any) -> Json:
    return {
        "metadata": {"name": f"headrace-worker-{model}", "labels": {"headrace/model": model}},
        "spec": {"replicas": desired},
        "status": status if ready is None else {"readyReplicas": ready, **status},
    }


def pod(model: str, name: str, **status: Any) -> Json:
    return {"metadata": {"name": name, "labels": {"headrace/model": model}}, "status": {"phase": "Pending", **status}}


def creating(name: str = "worker") -> Json:
    return {"name": name, "ready": False, "state": {"waiting": {"reason": "ContainerCreating"}}, "lastState": {}}


def unschedulable(message: str) -> Json:
    return {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}


def event(name: str, reason: str, message: str, *, seconds: int, kind: str = "Normal") -> Json:
    return {
        "involvedObject": {"kind": "Pod", "name": name},
        "type": kind,
        "reason": reason,
        "message": message,
        "lastTimestamp": (START + timedelta(seconds=seconds)).isoformat().replace("+00:00", "Z"),
    }


async def test_a_missing_gpu_is_told_by_its_name(cluster: tuple[Cluster, Capacity]) -> None:
    api_server, capacity = cluster
    message = (
        "0/3 nodes are available: 3 Insufficient nvidia.com/gpu. preemption: 0/3 nodes are available: 3 No victims."
    )
    api_server.deployments = [deployment("qwen", desired=2)]
    api_server.pods = [pod("qwen", "a", conditions=[unschedulable(message)])]
    assert await capacity.detail("qwen", []) == "0 of 2 workers ready: Unschedulable: 0/3 nodes have nvidia.com/gpu"


async def test_the_image_is_being_pulled(cluster: tuple[Cluster, Capacity]) -> None:
    api_server, capacity = cluster
    api_server.deployments = [deployment("qwen", desired=1)]
    api_server.pods = [pod("qwen", "a", containerStatuses=[creating()])]
    api_server.events = [
        event("a", "Pulling", 'Pulling image "headrace-worker:1"', seconds=2),
        event("a", "Scheduled", "Successfully assigned", seconds=1),
        event("b", "FailedMount", "of another pod", seconds=9, kind="Warning"),
    ]
    assert await capacity.detail("qwen", []) == "0 of 1 workers ready: pulling image"
    assert api_server.asked[-1] == (
        "/api/v1/namespaces/ml/events",
        "involvedObject.kind=Pod,involvedObject.name=a",
    )


async def test_what_a_starting_worker_says_of_itself_is_passed_on(cluster: tuple[Cluster, Capacity]) -> None:
    api_server, capacity = cluster
    running = {"name": "worker", "ready": False, "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}}}
    api_server.deployments = [deployment("qwen", desired=1)]
    api_server.pods = [pod("qwen", "a", phase="Running", containerStatuses=[running])]
    assert await capacity.detail("qwen", ["loading weights 62 %"]) == "0 of 1 workers ready: loading weights 62 %"
    assert await capacity.detail("qwen", []) == "0 of 1 workers ready: starting"


async def test_a_crash_loop_shows_the_last_line(cluster: tuple[Cluster, Capacity]) -> None:
    api_server, capacity = cluster
    crashed = {
        "name": "worker",
        "ready": False,
        "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 5m0s restarting failed container"}},
        "lastState": {
            "terminated": {"exitCode": 1, "reason": "Error", "message": "Loading ...\nThere is no model at /x\n"}
        },
    }
    api_server.deployments = [deployment("qwen", desired=1)]
    api_server.pods = [pod("qwen", "a", phase="Running", containerStatuses=[crashed])]
    assert await capacity.detail("qwen", []) == "0 of 1 workers ready: CrashLoopBackOff: There is no model at /x"


async def test_a_quota_that_refuses_pods_is_told(cluster: tuple[Cluster, Capacity]) -> None:
    api_server, capacity = cluster
    condition = {
        "type": "ReplicaFailure",
        "status": "True",
        "reason": "FailedCreate",
        "message": "exceeded quota: gpus",
    }
    api_server.deployments = [deployment("qwen", desired=1, conditions=[condition])]
    assert await capacity.detail("qwen", []) == "0 of 1 workers ready: FailedCreate: exceeded quota: gpus"


async def test_a_model_at_zero_waits_for_the_autoscaler(cluster: tuple[Cluster, Capacity]) -> None:
    api_server, capacity = cluster
    api_server.deployments = [deployment("qwen", desired=0)]
    assert await capacity.detail("qwen", []) == "scaled to zero: waiting for the autoscaler to start a worker"
    assert await capacity.detail("unknown", []) is None


async def test_models_do_not_hear_of_each_others_pods(cluster: tuple[Cluster, Capacity]) -> None:
    api_server, capacity = cluster
    api_server.deployments = [deployment("a", desired=1), deployment("b", desired=1, ready=1)]
    api_server.pods = [pod("a", "x", conditions=[unschedulable("0/1 nodes are available: 1 Insufficient cpu.")])]
    assert await capacity.detail("a", []) == "0 of 1 workers ready: Unschedulable: 0/1 nodes have cpu"
    assert await capacity.detail("b", []) == "1 of 1 workers ready"


async def test_one_look_serves_all_who_ask_at_the_same_time(cluster: tuple[Cluster, Capacity]) -> None:
    api_server, capacity = cluster
    capacity._max_age = 60
    api_server.deployments = [deployment("qwen", desired=1)]
    await asyncio.gather(*(capacity.detail("qwen", []) for _ in range(3)))
    assert sorted(path.rpartition("/")[2] for path, _ in api_server.asked) == ["deployments", "pods"]
    assert {selector for _, selector in api_server.asked} == {SELECTOR}


async def test_a_cluster_that_refuses_is_asked_seldom(
    cluster: tuple[Cluster, Capacity], caplog: pytest.LogCaptureFixture
) -> None:
    api_server, capacity = cluster
    api_server.deployments = [deployment("qwen", desired=1)]
    api_server.refuses = True
    assert await capacity.detail("qwen", []) is None
    api_server.refuses = False
    assert await capacity.detail("qwen", []) is None
    assert capacity._look is None
    assert ["The cluster does not say what it is doing" in line for line in caplog.messages] == [True]


async def test_a_slow_cluster_keeps_nobody_waiting_and_is_heard_later(
    cluster: tuple[Cluster, Capacity], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capacity_module, "PATIENCE_SECONDS", 0.01)
    api_server, capacity = cluster
    api_server.held.clear()
    api_server.deployments = [deployment("qwen", desired=1)]
    assert await capacity.detail("qwen", []) is None
    monkeypatch.setattr(capacity_module, "PATIENCE_SECONDS", 5)
    api_server.held.set()
    assert await capacity.detail("qwen", []) == "0 of 1 workers ready"


async def test_outside_of_a_cluster_there_is_no_capacity(caplog: pytest.LogCaptureFixture) -> None:
    async with capacity_of_this_cluster("") as capacity:
        assert capacity is None
    assert not caplog.messages
    async with capacity_of_this_cluster(SELECTOR) as capacity:
        assert capacity is None
    assert "Service host/port is not set" in caplog.text


READY: Json = {"name": "worker", "ready": True, "state": {"running": {}}}
FETCH: Json = {"name": "fetch-model", "state": {"running": {}}}
NO_IMAGE: Json = {"name": "worker", "state": {"waiting": {"reason": "ErrImagePull", "message": "not found"}}}
LOOPING: Json = {
    "name": "worker",
    "state": {"waiting": {"reason": "CrashLoopBackOff"}},
    "lastState": {"terminated": {"exitCode": 1, "message": '{"level": "ERROR", "message": "There is no GPU."}\n\n'}},
}
KILLED: Json = {"name": "worker", "state": {"terminated": {"exitCode": 137}}, "lastState": None}
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
        ({"containerStatuses": [NO_IMAGE]}, [], PodState("ErrImagePull: not found")),
        ({"containerStatuses": [KILLED]}, [], PodState("exit code 137")),
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
