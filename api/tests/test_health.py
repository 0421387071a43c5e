"""What probes and autoscalers are told."""

import os
import signal
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from api.app import create_app, create_internal_app
from api.backend import Backend
from api.settings import Settings
from shared.store.worker_registry import WorkerRegistry
from shared.wire.schemas import ModelCard
from testbed.api_app import Call
from testbed.fake_worker import FakeWorker
from testbed.valkey import Valkey

MODEL = "smollm2-135m-instruct"


@pytest.fixture
async def internal(app_and_client: tuple[FastAPI, Any]) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(create_internal_app(app_and_client[0]))
    async with httpx.AsyncClient(transport=transport, base_url="http://internal") as client:
        yield client


async def test_a_replica_that_serves_is_alive_and_ready(internal: httpx.AsyncClient) -> None:
    for path in ("/healthz", "/readyz"):
        assert (await internal.get(path)).status_code == 200


async def test_a_replica_that_has_not_started_is_alive_and_nothing_else(settings: Settings) -> None:
    transport = httpx.ASGITransport(create_internal_app(create_app(settings)))
    async with httpx.AsyncClient(transport=transport, base_url="http://internal") as internal:
        assert (await internal.get("/healthz")).status_code == 200
        for path in ("/readyz", "/metrics", f"/internal/scaling/{MODEL}", "/internal/scaling/gpt-9"):
            reply = await internal.get(path)
            assert (reply.status_code, reply.json()["reason"]) == (503, "starting"), path


async def test_a_replica_that_stops_is_not_ready(internal: httpx.AsyncClient, backend: Backend) -> None:
    backend.shutdown.set()
    reply = await internal.get("/readyz")
    assert (reply.status_code, reply.json()["reason"]) == (503, "shutting down")


async def test_without_redis_a_replica_is_not_ready_until_redis_is_back(
    internal: httpx.AsyncClient, valkey: Valkey
) -> None:
    valkey.stop()
    reply = await internal.get("/readyz")
    assert reply.status_code == 503
    cannot = f"Redis at 127.0.0.1:{valkey.port} cannot be used: it cannot be reached (Connection refused)"
    assert reply.json()["reason"] == cannot
    assert (await internal.get("/healthz")).status_code == 200
    valkey.start()
    assert (await internal.get("/readyz")).status_code == 200


async def test_with_a_silent_redis_a_replica_is_not_ready(internal: httpx.AsyncClient, valkey: Valkey) -> None:
    await internal.get("/readyz")
    os.kill(valkey.pid, signal.SIGSTOP)
    try:
        reply = await internal.get("/readyz")
    finally:
        os.kill(valkey.pid, signal.SIGCONT)
    assert (reply.status_code, reply.json()["reason"]) == (503, "Redis did not answer within 1 s")


async def test_scaling_counts_waiting_and_running_tasks_and_ready_workers(
    internal: httpx.AsyncClient, worker: FakeWorker, registry: WorkerRegistry, card: ModelCard
) -> None:
    await registry.announce("w1", card)
    await worker.begin()
    await worker.accept()
    await worker.accept()
    reply = await internal.get(f"/internal/scaling/{MODEL}")
    assert reply.json() == {"work": 3, "waiting": 2, "running": 1, "readyWorkers": 1}


async def test_scaling_of_an_unknown_model_is_not_found(internal: httpx.AsyncClient) -> None:
    assert (await internal.get("/internal/scaling/gpt-9")).status_code == 404


async def test_scaling_never_says_zero_because_it_does_not_know(internal: httpx.AsyncClient, valkey: Valkey) -> None:
    valkey.stop()
    reply = await internal.get(f"/internal/scaling/{MODEL}")
    assert reply.status_code == 503
    assert "work" not in reply.json()


async def test_metrics_are_in_the_form_of_prometheus(internal: httpx.AsyncClient, call: Call) -> None:
    await call("create_message", message="hi")
    reply = await internal.get("/metrics")
    assert reply.headers["Content-Type"].startswith("text/plain")
    assert f'headrace_tasks_accepted_total{{model="{MODEL}"}} 1.0' in reply.text.splitlines()
    assert "headrace_open_streams 0.0" in reply.text.splitlines()


async def test_the_public_port_has_no_probes(http: httpx.AsyncClient) -> None:
    for path in ("/healthz", "/readyz", "/metrics", f"/internal/scaling/{MODEL}"):
        assert (await http.get(path)).status_code == 404
