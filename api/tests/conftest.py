"""A running API on a real Valkey, and ways to call it."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI
from redis.asyncio import Redis

from api.app import create_app
from api.backend import Backend
from api.settings import Settings
from shared.settings import SharedSettings
from shared.store.event_stream import EventStream, TokenWriter
from shared.store.keys import Keys
from shared.store.task_id import new_task_id
from shared.store.task_ledger import TaskLedger
from shared.store.task_record import Claim
from shared.store.worker_registry import WorkerRegistry
from shared.wire.schemas import EndState, FinalTextEvent, InferenceRequest, ModelAbilities, ModelCard, Timings, Usage
from shared.wire.task_result import TaskResult

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


@pytest.fixture
def stream(redis: Redis, keys: Keys) -> EventStream:
    return EventStream(redis, keys)


class FakeWorker:
    """Accepts tasks and answers them as a worker does, through the ledger and the stream, at the test's command."""

    def __init__(self, ledger: TaskLedger, stream: EventStream) -> None:
        self.ledger = ledger
        self.stream = stream
        self.writers: dict[str, TokenWriter] = {}

    async def accept(
        self, *, seconds: float = 60, cancel_on_disconnect: bool = False, model: str = MODEL, tenant: str = "default"
    ) -> str:
        request = InferenceRequest.model_validate(
            {
                "model": model,
                "messages": [{"role": "user", "content": "hello"}],
                "cancel_on_disconnect": cancel_on_disconnect,
            }
        )
        accepted = await self.ledger.accept(
            new_task_id(), request, tenant=tenant, timeout_seconds=seconds, max_waiting=10_000, max_tenant_tasks=10_000
        )
        return accepted.task_id

    async def claim(self, task_id: str, *, lease_seconds: float = 60) -> int:
        claim = await self.ledger.claim(task_id, worker="fake", lease_seconds=lease_seconds, revision="r")
        assert isinstance(claim, Claim), claim
        written = self.writers[task_id].index if task_id in self.writers else 0
        self.writers[task_id] = TokenWriter(task_id, claim.attempt, written)
        return claim.attempt

    async def begin(self, **options: Any) -> str:
        """A task that runs."""
        task_id = await self.accept(**options)
        await self.claim(task_id)
        return task_id

    async def say(self, task_id: str, *texts: str) -> None:
        """One token and one write for each text."""
        writer = self.writers[task_id]
        for text in texts:
            writer.add([7], text)
            write = writer.take()
            assert write is not None
            assert not await self.stream.write([write])

    async def end(self, task_id: str, state: EndState = "SUCCESS") -> None:
        text = FinalTextEvent(
            task_id=task_id,
            text="done",
            finish_reason="stop",
            usage=Usage(prompt_tokens=1, completion_tokens=1),
            timings=Timings(queued=0, first_token=0, total=0),
        )
        if state == "SUCCESS":
            result = TaskResult(
                cleaned_response_text=text.text,
                raw_response_text=text.text,
                tool_calls=[],
                finish_reason=text.finish_reason,
                usage=text.usage,
            )
            assert await self.ledger.end(task_id, None, state, text, result=result.as_json())
        else:
            assert await self.ledger.end(task_id, None, state, None)


@pytest.fixture
def worker(ledger: TaskLedger, stream: EventStream) -> FakeWorker:
    return FakeWorker(ledger, stream)


@dataclass
class Replica:
    """One API replica on a port of its own."""

    app: FastAPI
    server: uvicorn.Server
    task: asyncio.Task[None]
    port: int

    @property
    def backend(self) -> Backend:
        backend: Backend = self.app.state.backend
        return backend

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def stop(self) -> None:
        """As SIGTERM does."""
        self.server.should_exit = True
        self.backend.shutdown.set()
        await asyncio.wait_for(self.task, 10)


StartReplica = Callable[..., Awaitable[Replica]]


@pytest.fixture
async def start_replica(settings: Settings) -> AsyncIterator[StartReplica]:
    """`await start_replica(setting=value)` -> a replica that listens."""
    replicas: list[Replica] = []

    async def start(**changes: Any) -> Replica:
        app = create_app(settings.model_copy(update=changes))
        listener = socket.create_server(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, timeout_graceful_shutdown=5))
        task = asyncio.create_task(server._serve(sockets=[listener]))
        replica = Replica(app, server, task, listener.getsockname()[1])
        replicas.append(replica)
        async with asyncio.timeout(10):
            while not server.started:  # noqa: ASYNC110  # uvicorn has no event for it
                await asyncio.sleep(0.01)
        return replica

    yield start
    for replica in replicas:
        if not replica.task.done():
            await replica.stop()
