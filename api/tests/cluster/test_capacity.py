"""What the cluster says of a model's workers, read from a stand-in for the Kubernetes API server."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from kubernetes.aio.client import ApiClient, AppsV1Api, Configuration, CoreV1Api

from api.cluster import capacity as capacity_module
from api.cluster.capacity import Capacity, capacity_of_this_cluster
from testbed.cluster_objects import creating, deployment, event, pod, unschedulable

Json = dict[str, Any]
SELECTOR = "app.kubernetes.io/instance=headrace,app.kubernetes.io/component=worker"


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


async def test_a_missing_gpu_is_told_by_its_name(cluster: tuple[Cluster, Capacity]) -> None:
    api_server, capacity = cluster
    message = (
        "0/3 nodes are available: 3 Insufficient nvidia.com/gpu. preemption: 0/3 nodes are available: 3 No victims."
    )
    api_server.deployments = [deployment("qwen", desired=2)]
    api_server.pods = [pod("qwen", "a", {"nvidia.com/gpu": "3"}, conditions=[unschedulable(message)])]
    detail = await capacity.detail("qwen", [])
    assert detail == "0 of 2 workers ready: Unschedulable: 0/3 nodes have room for 3 of nvidia.com/gpu"


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


async def test_a_crash_is_told_in_the_same_words_while_the_worker_tries_again(
    cluster: tuple[Cluster, Capacity],
) -> None:
    api_server, capacity = cluster
    end = {"exitCode": 1, "reason": "Error", "message": "There is no model at /x\n"}
    phases: list[Json] = [
        {"state": {"terminated": end}, "lastState": {}},
        {
            "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s"}},
            "lastState": {"terminated": end},
        },
        {"state": {"running": {}}, "lastState": {"terminated": end}},
    ]
    api_server.deployments = [deployment("qwen", desired=1)]
    for phase in phases:
        status = {"name": "worker", "ready": False, **phase}
        api_server.pods = [pod("qwen", "a", phase="Running", containerStatuses=[status])]
        assert await capacity.detail("qwen", []) == "0 of 1 workers ready: CrashLoopBackOff: There is no model at /x"
    loading = await capacity.detail("qwen", ["loading weights 62 %"])
    assert loading == "0 of 1 workers ready: CrashLoopBackOff: There is no model at /x; loading weights 62 %"


IMAGE = "registry.example.com/a-team-with-a-long-name/headrace-worker@sha256:" + "0123456789abcdef" * 4
PULL = (
    f'failed to pull and unpack image "{IMAGE}": failed to resolve reference "{IMAGE}": unexpected status from HEAD '
    f"request to https://registry.example.com/v2/a-team-with-a-long-name/headrace-worker: 401 unauthorized"
)


@pytest.mark.parametrize(
    ("waiting", "told_by_event"),
    [
        ({"reason": "ErrImagePull", "message": PULL}, False),
        ({"reason": "ErrImagePull", "message": f"rpc error: code = Unknown desc = {PULL}"}, False),
        ({"reason": "ImagePullBackOff", "message": f'Back-off pulling image "{IMAGE}": ErrImagePull: {PULL}'}, False),
        (
            {
                "reason": "ImagePullBackOff",
                "message": f'Back-off pulling image "{IMAGE}": ErrImagePull: rpc error: code = Unknown desc = {PULL}',
            },
            False,
        ),
        ({"reason": "ImagePullBackOff", "message": f'Back-off pulling image "{IMAGE}"'}, True),
    ],
)
async def test_a_failed_pull_is_told_once_and_with_its_end(
    cluster: tuple[Cluster, Capacity], waiting: Json, told_by_event: bool
) -> None:
    api_server, capacity = cluster
    status = {"name": "worker", "ready": False, "state": {"waiting": waiting}, "lastState": {}}
    api_server.deployments = [deployment("qwen", desired=1)]
    api_server.pods = [pod("qwen", "a", containerStatuses=[status])]
    if told_by_event:
        failure = f'Failed to pull image "{IMAGE}": rpc error: code = Unknown desc = {PULL}'
        api_server.events = [
            event("a", "Failed", failure, seconds=1, kind="Warning"),
            event("a", "Failed", "Error: ErrImagePull", seconds=2, kind="Warning"),
            event("a", "BackOff", f'Back-off pulling image "{IMAGE}"', seconds=3),
        ]
    detail = await capacity.detail("qwen", [])
    assert detail is not None
    assert detail.startswith(
        '0 of 1 workers ready: ErrImagePull: failed to pull and unpack image "registry.example.com'
    )
    assert detail.endswith("headrace-worker: 401 unauthorized")
    assert len(detail) < 250


async def test_the_port_of_a_try_makes_no_second_text(cluster: tuple[Cluster, Capacity]) -> None:
    api_server, capacity = cluster
    api_server.deployments = [deployment("qwen", desired=1)]
    told = set()
    for port in (40001, 51234):
        message = f"failed to resolve image: dial tcp: read udp 10.1.0.9:{port}->10.96.0.10:53: i/o timeout"
        waiting = {"reason": "ErrImagePull", "message": message}
        status = {"name": "worker", "ready": False, "state": {"waiting": waiting}, "lastState": {}}
        api_server.pods = [pod("qwen", "a", containerStatuses=[status])]
        told.add(await capacity.detail("qwen", []))
    assert len(told) == 1


async def test_many_troubles_keep_both_ends_too(cluster: tuple[Cluster, Capacity]) -> None:
    api_server, capacity = cluster
    api_server.deployments = [deployment("qwen", desired=4)]
    api_server.pods = [
        pod("qwen", name, conditions=[unschedulable(f"{name}: {'because ' * 40}of {name}")]) for name in "abcd"
    ]
    detail = await capacity.detail("qwen", [])
    assert detail is not None
    assert len(detail) <= capacity_module.LONGEST_DETAIL
    assert detail.startswith("0 of 4 workers ready: Unschedulable: a: because")
    assert detail.endswith("of d")


async def test_a_quota_that_refuses_pods_is_told(cluster: tuple[Cluster, Capacity]) -> None:
    api_server, capacity = cluster
    condition = {
        "type": "ReplicaFailure",
        "status": "True",
        "reason": "FailedCreate",
        "message": 'pods "headrace-worker-qwen-6d5f-x7k2p" is forbidden: exceeded quota: gpus',
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
    assert await capacity.detail("a", []) == "0 of 1 workers ready: Unschedulable: 0/1 nodes have room for more of cpu"
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
