"""A worker's pod deletion cost, written to a stand-in for the Kubernetes API server."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from kubernetes.aio.client import ApiClient, Configuration, CoreV1Api

from shared.cancellation import cancel_and_wait
from testbed.live_worker import StartLive
from worker import worker_loop
from worker.status import deletion_cost
from worker.status.deletion_cost import ANNOTATION, BUSY_COST, DeletionCost, keep_deletion_cost

PATH = "/api/v1/namespaces/ml/pods/worker-1/status"


class PodStatus:
    """Takes the patches of one pod's status; refuses the first `refusals` of them."""

    def __init__(self, refusals: int = 0) -> None:
        self.refusals = refusals
        self.patches: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    async def patch(self, request: web.Request) -> web.Response:
        if self.refusals:
            self.refusals -= 1
            return web.json_response({"kind": "Status", "code": 403, "reason": "Forbidden"}, status=403)
        assert request.content_type == "application/strategic-merge-patch+json"
        body = await request.json()
        self.patches.put_nowait(body)
        return web.json_response({"kind": "Pod", "apiVersion": "v1", **body})

    async def next_cost(self) -> str:
        patch = await asyncio.wait_for(self.patches.get(), 5)
        assert list(patch) == ["metadata"]
        return str(patch["metadata"]["annotations"][ANNOTATION])


@asynccontextmanager
async def following(status: PodStatus, busy: Callable[[], bool]) -> AsyncIterator[None]:
    app = web.Application()
    app.router.add_patch(PATH, status.patch)
    server = TestServer(app)
    await server.start_server()
    async with server, ApiClient(Configuration(host=f"http://127.0.0.1:{server.port}")) as client:
        running = asyncio.create_task(DeletionCost(CoreV1Api(client), "ml", "worker-1", busy, idle_seconds=0.05).run())
        yield
        await cancel_and_wait(running)


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deletion_cost, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(deletion_cost, "RETRY_SECONDS", 0.01)


async def test_the_cost_is_written_on_edges_only() -> None:
    held: set[str] = set()
    status = PodStatus()
    async with following(status, lambda: bool(held)):
        held.add("task")
        assert await status.next_cost() == str(BUSY_COST)
        held.clear()
        assert await status.next_cost() == "0"
        held.add("another")
        assert await status.next_cost() == str(BUSY_COST)
        assert status.patches.empty()


async def test_a_cluster_that_refuses_is_asked_again(caplog: pytest.LogCaptureFixture) -> None:
    status = PodStatus(refusals=2)
    async with following(status, lambda: True):
        assert await status.next_cost() == str(BUSY_COST)
    assert sum("could not be set to 1000" in line for line in caplog.messages) == 2


async def test_outside_of_a_cluster_nothing_is_written(caplog: pytest.LogCaptureFixture) -> None:
    await keep_deletion_cost("worker-1", busy=lambda: True)
    assert "there is no cluster to tell" in caplog.text


async def test_a_worker_is_busy_while_it_holds_a_task(start_live: StartLive, monkeypatch: pytest.MonkeyPatch) -> None:
    followed: asyncio.Future[tuple[str, Callable[[], bool]]] = asyncio.get_running_loop().create_future()

    async def keep(pod: str, busy: Callable[[], bool]) -> None:
        followed.set_result((pod, busy))

    monkeypatch.setattr(worker_loop, "keep_deletion_cost", keep)
    worker = await start_live(deletion_cost=True)
    pod, busy = await asyncio.wait_for(followed, 5)
    assert pod == "worker-under-test"
    assert not busy()
    held: Any = object()
    worker.runner.held.add(held)
    assert busy()
    worker.runner.held.remove(held)
    assert worker.takes_tasks
