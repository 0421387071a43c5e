"""A running API on a real Valkey, and ways to call it."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from pydantic import SecretStr
from redis.asyncio import Redis

from api.app import create_app
from api.backend import Backend
from api.settings import Settings
from shared.keys import Keys
from shared.schemas import ModelAbilities, ModelCard
from shared.settings import SharedSettings
from shared.task_ledger import TaskLedger
from shared.workers import WorkerRegistry

MODEL = "smollm2-135m-instruct"

StartApp = Callable[..., AbstractAsyncContextManager[httpx.AsyncClient]]
Call = Callable[..., Awaitable[dict[str, Any]]]


@pytest.fixture
def settings(shared_settings: SharedSettings) -> Settings:
    return Settings(redis_url=shared_settings.redis_url, redis_timeout=2)


@asynccontextmanager
async def serving(settings: Settings) -> AsyncIterator[tuple[FastAPI, httpx.AsyncClient]]:
    """The application in its lifespan, and a client of it."""
    app = create_app(settings)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with app.router.lifespan_context(app), httpx.AsyncClient(transport=transport, base_url="http://api") as http:
        yield app, http


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


async def rpc(http: httpx.AsyncClient, method: str, params: Any, *, key: str = "") -> dict[str, Any]:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
    reply: dict[str, Any] = (await http.post("/rpc", json=body, headers=headers)).json()
    return reply


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
        name=MODEL,
        revision="r1",
        context_length=100,
        max_token_bytes=10,
        slots=4,
        abilities=ModelAbilities(tools="prompt"),
    )


def secret_url(valkey_url: str) -> SecretStr:
    return SecretStr(valkey_url)
