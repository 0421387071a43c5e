"""A worker on the scripted engine, inside the test's own loop or as a real process; and a client of the ledger."""

import asyncio
import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pytest
from celery import Celery
from celery.states import READY_STATES
from redis.asyncio import Redis
from redis.exceptions import RedisError

from shared.celery_app import make_celery, send_task
from shared.settings import SharedSettings
from shared.store.event_stream import Entry, EventStream
from shared.store.keys import Keys
from shared.store.task_id import new_task_id
from shared.store.task_ledger import TaskLedger
from shared.store.task_record import TaskRecord
from shared.store.worker_registry import WorkerRegistry
from shared.wire.chat import UserMessage
from shared.wire.schemas import InferenceRequest, TokenEvent
from worker.engine_protocol import Command, EngineOptions, Generate, Message, Output, Ready, Step, Stop
from worker.engines.supervisor import EngineUnavailable
from worker.engines.transformers import process as engine_process
from worker.engines.transformers.weights import load_tokenizer
from worker.settings import PACKAGED_MODEL, WorkerSettings
from worker.worker_loop import WorkerLoop

T = TypeVar("T")

MODEL = "scripted"
LEASE_SECONDS = 1.5


class Client:
    """What the API does with the ledger, and what a test wants to see of a task."""

    def __init__(self, redis: Redis, keys: Keys, app: Celery) -> None:
        self.redis = redis
        self.keys = keys
        self.app = app
        self.ledger = TaskLedger(redis, keys, retention_seconds=60, max_failures=3)
        self.stream = EventStream(redis, keys)
        self.workers = WorkerRegistry(redis, keys, lease_seconds=LEASE_SECONDS)

    async def accept(self, text: str, *, timeout_seconds: float = 60, **fields: Any) -> str:
        """A new task; its message is not sent."""
        task_id = new_task_id()
        fields = {"model": MODEL, "messages": [UserMessage(role="user", content=text)], "max_tokens": 1000, **fields}
        await self.ledger.accept(
            task_id,
            InferenceRequest(**fields),
            tenant="tenant",
            timeout_seconds=timeout_seconds,
            max_waiting=1000,
            max_tenant_tasks=1000,
        )
        return task_id

    async def send(self, task_id: str, queue_class: str = "normal") -> None:
        await asyncio.to_thread(send_task, self.app, task_id, MODEL, queue_class, {})

    async def submit(self, text: str, **fields: Any) -> str:
        """A new task on its way to a worker."""
        task_id = await self.accept(text, **fields)
        await self.send(task_id)
        return task_id

    async def get(self, task_id: str, seconds: float = 20) -> Any:
        """What any Celery client gets. Celery's AsyncResult is not for several threads: one at a time."""
        pending = self.app.AsyncResult(task_id)
        backend = pending.backend
        try:
            return await asyncio.to_thread(lambda: pending.get(timeout=seconds))
        finally:
            backend.remove_pending_result(pending)
            pending.backend = None  # its __del__ would talk to Redis, whenever the garbage collector likes

    async def result(self, task_id: str, seconds: float = 20) -> Any:
        """The same, for many tasks at once and for a Redis that comes and goes."""

        async def stored() -> dict[str, Any] | None:
            with contextlib.suppress(RedisError):
                meta: dict[str, Any] = await asyncio.to_thread(self.app.backend.get_task_meta, task_id, cache=False)
                return meta if meta["status"] in READY_STATES else None
            return None

        meta = await eventually(stored, seconds)
        if meta["status"] != "SUCCESS":
            raise meta["result"]
        return meta["result"]

    async def ended(self, task_id: str, seconds: float = 20) -> TaskRecord:
        async def has_ended() -> TaskRecord | None:
            record = await self.ledger.get(task_id)
            return record if record is not None and record.state == "ended" else None

        return await eventually(has_ended, seconds)

    async def streaming(self, task_id: str, tokens: int = 3, seconds: float = 20) -> None:
        """Returns when the task has streamed so many tokens."""

        async def has_streamed() -> bool:
            return len(self.token_ids(await self.stream.read(task_id))) >= tokens

        await eventually(has_streamed, seconds)

    async def eventually(self, condition: Callable[[], Awaitable[T | None]], seconds: float = 20) -> T:
        """The first true answer of the condition."""
        return await eventually(condition, seconds)

    async def until(self, condition: Callable[[], bool], seconds: float = 20) -> None:
        """Returns when the condition holds."""

        async def holds() -> bool:
            return condition()

        await eventually(holds, seconds)

    def token_ids(self, entries: list[Entry]) -> list[int]:
        return [token for entry in entries for token in entry.token_ids]

    def text(self, entries: list[Entry]) -> str:
        """What a client that follows the stream reads."""
        events = [entry.data for entry in entries if entry.type == "token" and entry.data]
        return "".join(TokenEvent.model_validate_json(event).text for event in events)


async def eventually(condition: Callable[[], Awaitable[T | None]], seconds: float = 20) -> T:
    """The first true answer of the condition; fails after `seconds`."""
    async with asyncio.timeout(seconds):
        while not (answer := await condition()):  # noqa: ASYNC110  # nothing announces what tests wait for
            await asyncio.sleep(0.02)
        return answer


@pytest.fixture
def app(shared_settings: SharedSettings) -> Iterator[Celery]:
    app = make_celery(shared_settings)
    yield app
    app.close()
    app.backend.result_consumer.stop()
    app.backend.client.connection_pool.disconnect()  # its client's `close` leaves them to the garbage collector


@pytest.fixture
def client(redis: Redis, keys: Keys, app: Celery) -> Client:
    return Client(redis, keys, app)


@pytest.fixture
def worker_settings(shared_settings: SharedSettings) -> WorkerSettings:
    """Of a worker on the scripted engine, as patient as a test is."""
    return WorkerSettings(
        redis_url=shared_settings.redis_url,
        redis_timeout=2,
        model_name=MODEL,
        model_source="scripted:?token_ms=10",
        worker_name="worker-under-test",
        lease_seconds=LEASE_SECONDS,
        engine_stall_seconds=2,
        drain_seconds=1,
        handover_seconds=4,
        internal_port=0,
        stop_loops=False,
    )


@contextlib.asynccontextmanager
async def live(settings: WorkerSettings) -> AsyncIterator[WorkerLoop]:
    """A worker without Celery, on the test's own loop, ready."""
    loop = WorkerLoop(settings, on_change=lambda: None)
    ready = asyncio.Event()
    living = asyncio.create_task(loop.live(ready.set))
    waiting = asyncio.create_task(ready.wait())
    await asyncio.wait([living, waiting], timeout=20, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    if living.done():
        await living
    assert ready.is_set()
    try:
        yield loop
    finally:
        loop.stop()
        with contextlib.suppress(EngineUnavailable):
            await asyncio.wait_for(living, 20)


StartLive = Callable[..., Awaitable[WorkerLoop]]


@pytest.fixture
async def start_live(worker_settings: WorkerSettings) -> AsyncIterator[StartLive]:
    """Starts workers without Celery; keyword arguments change their settings."""
    async with contextlib.AsyncExitStack() as stack:

        async def start(**changes: Any) -> WorkerLoop:
            settings = worker_settings.model_copy(update=changes)
            return await stack.enter_async_context(live(settings))

        yield start


class WorkerProcess:
    """A real worker process."""

    def __init__(self, settings: WorkerSettings, log: Path) -> None:
        changed = settings.model_dump(exclude_defaults=True, mode="json") | {
            "redis_url": settings.redis_url.get_secret_value()
        }
        variables = {f"HEADRACE_{name.upper()}": str(value) for name, value in changed.items()}
        self.log = log
        with log.open("wb") as file:
            self._process = subprocess.Popen(
                [sys.executable, "-W", "error::ResourceWarning", "-m", "worker"],
                env={**os.environ, **variables},
                stdout=file,
                stderr=subprocess.STDOUT,
            )
        self.pid = self._process.pid

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    async def exit_code(self, seconds: float = 20) -> int:
        return await asyncio.to_thread(self._process.wait, seconds)

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def kill(self) -> None:
        """SIGKILL, whatever state it is in."""
        self._process.kill()
        self._process.wait(10)


StartWorker = Callable[..., Awaitable[WorkerProcess]]


@pytest.fixture
async def start_worker(worker_settings: WorkerSettings, client: Client, tmp_path: Path) -> AsyncIterator[StartWorker]:
    """Starts worker processes and waits until they take tasks; their logs are shown when the test fails."""
    workers: list[WorkerProcess] = []

    async def start(*, wait: bool = True, startup_seconds: float = 30, **changes: Any) -> WorkerProcess:
        number = len(workers) + 1
        changes = {"worker_name": f"worker-{number}", **changes}
        worker = WorkerProcess(worker_settings.model_copy(update=changes), tmp_path / f"worker-{number}.log")
        workers.append(worker)

        async def registered() -> bool:
            assert worker.running, worker.log.read_text()
            return b"worker-%d" % number in await client.redis.zrange(client.keys.workers(MODEL), 0, -1)

        if wait:
            await eventually(registered, startup_seconds)
        return worker

    yield start
    for worker in workers:
        worker.kill()
        sys.stdout.write(f"--- {worker.log.name}\n{worker.log.read_text()}")


class RealEngine:
    """An engine process with the 135M model, spoken to over its pipe as the worker does."""

    def __init__(self, options: EngineOptions) -> None:
        self.options = options
        self.tokenizer = load_tokenizer(options)
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=engine_process.serve, args=(theirs, options))
        self.process.start()
        theirs.close()
        self.steps: list[Step] = []
        """All since the start."""
        self.started_with: list[Message] = []
        while not isinstance(message := self.receive(seconds=120), Ready):
            self.started_with.append(message)
        self.ready = message

    def prompt(self, text: str) -> tuple[int, ...]:
        """A user's message in the model's chat template."""
        ids = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": text}], add_generation_prompt=True, return_dict=False
        )
        return tuple(ids)

    def text(self, token_ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(token_ids), skip_special_tokens=True))

    def send(self, *commands: Command) -> None:
        for command in commands:
            self.connection.send(command)

    def receive(self, seconds: float = 30) -> Message:
        """The next message; fails when none comes."""
        assert self.connection.poll(seconds), "the engine is silent"
        message: Message = self.connection.recv()
        if isinstance(message, Step):
            self.steps.append(message)
        return message

    def follow(self, *request_ids: str) -> dict[str, list[Output]]:
        """The outputs of requests until each of them has ended."""
        outputs: dict[str, list[Output]] = defaultdict(list)
        open_requests = set(request_ids)
        while open_requests:
            message = self.receive()
            assert isinstance(message, Step)
            for output in message.outputs:
                outputs[output.request_id].append(output)
                if output.finish or output.error:
                    open_requests.discard(output.request_id)
        return outputs

    def run(self, *requests: Generate) -> dict[str, tuple[list[int], Output]]:
        """Generates together; per request its tokens and its last output."""
        self.send(*requests)
        outputs = self.follow(*(request.request_id for request in requests))
        return {
            request.request_id: (
                [token for output in outputs[request.request_id] for token in output.token_ids],
                outputs[request.request_id][-1],
            )
            for request in requests
        }

    def tokens(self, request: Generate) -> list[int]:
        """The tokens of one request alone."""
        return self.run(request)[request.request_id][0]

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.send(Stop())
        self.process.join(20)
        if self.process.is_alive():
            self.process.kill()
        self.connection.close()


@pytest.fixture(scope="session")
def engine_options() -> EngineOptions:
    """The packaged model, converted where `headrace up` keeps it too: once per machine."""
    cache_dir = str(WorkerSettings.model_fields["cache_dir"].default.expanduser())
    return EngineOptions(model=PACKAGED_MODEL, cache_dir=cache_dir, slots=8, kv_memory_gib=0.5, threads=2)


@pytest.fixture(scope="session")
def engine(engine_options: EngineOptions) -> Iterator[RealEngine]:
    engine = RealEngine(engine_options)
    yield engine
    engine.close()


@pytest.fixture(scope="session")
def tiny_model(engine_options: EngineOptions, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model of two layers and random weights, behind the packaged model's tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("tiny-model")
    load_tokenizer(engine_options).save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=49152,
        hidden_size=96,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=6,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        eos_token_id=2,
        tie_word_embeddings=True,
        initializer_range=0.2,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder
