"""A client of the task ledger: what the API does with it, without the API, and what a test wants to see of a task."""

import asyncio
import contextlib
from typing import Any

from celery import Celery
from celery.states import READY_STATES
from redis.asyncio import Redis
from redis.exceptions import RedisError

from shared.celery_app import send_task
from shared.store.conversations import Conversations
from shared.store.event_stream import Entry, EventStream
from shared.store.keys import Keys
from shared.store.task_id import new_task_id
from shared.store.task_ledger import TaskLedger
from shared.store.task_record import TaskRecord
from shared.store.worker_registry import WorkerRegistry
from shared.wire.chat import UserMessage
from shared.wire.schemas import InferenceRequest, QueueClass, TokenEvent
from shared.wire.task_result import TaskResult
from testbed.celery_view import told
from testbed.waiting import until

SCRIPTED_MODEL = "scripted"
LEASE_SECONDS = 1.5


class TaskClient:
    """Accepts, sends and watches tasks."""

    def __init__(self, redis: Redis, keys: Keys, app: Celery, celery_client: Celery) -> None:
        """`app` sends messages, `celery_client` waits for results."""
        self.redis = redis
        self.keys = keys
        self.app = app
        self.celery_client = celery_client
        self.ledger = TaskLedger(redis, keys, retention_seconds=60, max_failures=3)
        self.conversations = Conversations(redis, keys)
        self.stream = EventStream(redis, keys)
        self.workers = WorkerRegistry(redis, keys, lease_seconds=LEASE_SECONDS)

    async def accept(self, text: str, *, timeout_seconds: float = 60, **fields: Any) -> str:
        """A new task; its message is not sent."""
        task_id = new_task_id()
        fields = {
            "model": SCRIPTED_MODEL,
            "messages": [UserMessage(role="user", content=text)],
            "max_tokens": 1000,
            **fields,
        }
        await self.ledger.accept(
            task_id,
            InferenceRequest(**fields),
            tenant="tenant",
            timeout_seconds=timeout_seconds,
            max_waiting=1000,
            max_tenant_tasks=1000,
        )
        return task_id

    async def send(self, task_id: str, queue_class: QueueClass = "normal") -> None:
        await asyncio.to_thread(send_task, self.app, task_id, SCRIPTED_MODEL, queue_class, {})

    async def submit(self, text: str, **fields: Any) -> str:
        """A new task on its way to a worker."""
        task_id = await self.accept(text, **fields)
        await self.send(task_id)
        return task_id

    async def take_from_live(self, task_id: str) -> str:
        """Takes a running task from its worker as from a dead one, whose lease has run out; the outcome.

        The worker renews its leases meanwhile: where that comes in between, once more.
        """

        async def taken() -> str | None:
            await self.redis.zadd(self.keys.running(SCRIPTED_MODEL), {task_id: 0})
            outcome: str = (await self.ledger.take_from_dead(task_id)).outcome
            return None if outcome == "alive" else outcome

        return await until(taken)

    async def get(self, task_id: str, seconds: float = 20) -> Any:
        """What any Celery client gets, as `told`."""
        return (await asyncio.to_thread(told, self.celery_client, task_id, seconds, propagate=True))[1]

    async def result(self, task_id: str, seconds: float = 20) -> Any:
        """The same, for many tasks at once and for a Redis that comes and goes."""

        async def stored() -> dict[str, Any] | None:
            with contextlib.suppress(RedisError):
                backend = self.celery_client.backend
                meta: dict[str, Any] = await asyncio.to_thread(backend.get_task_meta, task_id, cache=False)
                return meta if meta["status"] in READY_STATES else None
            return None

        meta = await until(stored, seconds)
        if meta["status"] != "SUCCESS":
            raise meta["result"]
        return meta["result"]

    async def answer(self, task_id: str) -> TaskResult:
        """The same of a task that succeeds."""
        return TaskResult.model_validate(await self.result(task_id))

    async def ended(self, task_id: str, seconds: float = 20) -> TaskRecord:
        async def has_ended() -> TaskRecord | None:
            record = await self.ledger.get(task_id)
            return record if record is not None and record.state == "ended" else None

        return await until(has_ended, seconds)

    async def streaming(self, task_id: str, tokens: int = 3, seconds: float = 20) -> None:
        """Returns when the task has streamed so many tokens."""

        async def has_streamed() -> bool:
            return len(self.token_ids(await self.stream.read(task_id))) >= tokens

        await until(has_streamed, seconds)

    def token_ids(self, entries: list[Entry]) -> list[int]:
        return [token for entry in entries for token in entry.token_ids]

    def text(self, entries: list[Entry]) -> str:
        """What a client that follows the stream reads."""
        events = [entry.data for entry in entries if entry.type == "token" and entry.data]
        return "".join(TokenEvent.model_validate_json(event).text for event in events)
