"""A running API on a real Valkey, and ways to call it."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from redis.asyncio import Redis

from api.backend import Backend
from api.settings import Settings
from shared.settings import SharedSettings
from shared.store.event_stream import EventStream
from shared.store.keys import Keys
from shared.store.task_ledger import TaskLedger
from shared.store.worker_registry import WorkerRegistry
from shared.wire.schemas import ModelAbilities, ModelCard
from testbed import api_replica
from testbed.api_app import Call, StartApp, rpc, serving
from testbed.api_process import ApiProcess, StartProcess
from testbed.api_replica import Replica, StartReplica
from testbed.celery_view import CeleryView, celery_client
from testbed.fake_worker import DEFAULT_MODEL, FakeWorker
from testbed.valkey import Valkey


@pytest.fixture
def settings(shared_settings: SharedSettings) -> Settings:
    return Settings(redis_url=shared_settings.redis_url, redis_timeout=2)


@pytest.fixture
def celery_view(redis: Redis, keys: Keys, shared_settings: SharedSettings) -> Iterator[CeleryView]:
    with celery_client(shared_settings.redis_url.get_secret_value()) as client:
        yield CeleryView(redis, keys, client)


@pytest.fixture
def start_app(settings: Settings) -> StartApp:
    """`async with start_app(max_waiting=2) as http`: an application with these settings."""

    @asynccontextmanager
    async def start(**changes: Any) -> AsyncIterator[httpx.AsyncClient]:
        async with serving(settings.model_copy(update=changes)) as (_, http):
            yield http

    return start


@pytest.fixture
async def app_and_client(settings: Settings) -> AsyncIterator[tuple[FastAPI, httpx.AsyncClient]]:
    async with serving(settings) as both:
        yield both


@pytest.fixture
def http(app_and_client: tuple[FastAPI, httpx.AsyncClient]) -> httpx.AsyncClient:
    return app_and_client[1]


@pytest.fixture
def backend(app_and_client: tuple[FastAPI, httpx.AsyncClient]) -> Backend:
    backend: Backend = app_and_client[0].state.backend
    return backend


@pytest.fixture
def call(http: httpx.AsyncClient) -> Call:
    """`await call("method", name=value)` -> the reply's object; `key=` is the API key."""

    async def call(method: str, *, key: str = "", **params: Any) -> dict[str, Any]:
        return await rpc(http, method, params, key=key)

    return call


@pytest.fixture
def ledger(redis: Redis, keys: Keys, settings: Settings) -> TaskLedger:
    """What a worker uses."""
    return TaskLedger(redis, keys, retention_seconds=settings.retention_seconds, max_failures=settings.max_failures)


@pytest.fixture
def registry(redis: Redis, keys: Keys) -> WorkerRegistry:
    return WorkerRegistry(redis, keys, lease_seconds=10)


@pytest.fixture
def card() -> ModelCard:
    return ModelCard(
        name=DEFAULT_MODEL,
        revision="r1",
        context_length=100,
        max_token_bytes=10,
        slots=4,
        abilities=ModelAbilities(tools="prompt"),
    )


@pytest.fixture
def stream(redis: Redis, keys: Keys) -> EventStream:
    return EventStream(redis, keys)


@pytest.fixture
def worker(ledger: TaskLedger, stream: EventStream) -> FakeWorker:
    return FakeWorker(ledger, stream)


@pytest.fixture
async def start_replica(settings: Settings) -> AsyncIterator[StartReplica]:
    """`await start_replica(setting=value)` -> a replica that listens; its replies are judged at the end."""
    replicas: list[Replica] = []

    async def start(**changes: Any) -> Replica:
        replicas.append(await api_replica.start_replica(settings.model_copy(update=changes)))
        return replicas[-1]

    yield start
    for replica in replicas:
        if not replica.task.done():
            await replica.stop()
    for replica in replicas:
        replica.judged.check()


@pytest.fixture
def start(valkey: Valkey) -> Iterator[StartProcess]:
    processes: list[ApiProcess] = []

    def start(**settings: str) -> ApiProcess:
        defaults = {"redis_url": valkey.url, "port": "0", "internal_port": "0", "redis_timeout": "1"}
        processes.append(ApiProcess(**defaults | settings))
        return processes[-1]

    yield start
    for process in processes:
        if process.popen.poll() is None:
            with suppress(ProcessLookupError):
                process.popen.kill()
            process.wait()
