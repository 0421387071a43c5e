"""What the routes stand on: built once per application, in its lifespan."""

import asyncio
from dataclasses import dataclass

from celery import Celery
from redis.asyncio import Redis

from api.admission import Admission
from api.auth import KeyRing
from api.metrics import Metrics
from api.models import Models
from api.publisher import Publisher
from api.settings import Settings
from api.snapshot import Snapshot
from api.streaming.readers import Readers
from api.tasks.own_task import OwnTasks
from shared.conversation.loop_prevention import LoopPolicy
from shared.store.conversations import Conversations
from shared.store.event_stream import EventStream
from shared.store.keys import Keys
from shared.store.task_ledger import TaskLedger
from shared.store.task_lists import TaskLists
from shared.store.worker_registry import WorkerRegistry


@dataclass(frozen=True, slots=True)
class Backend:
    """Connections and parts; `app.state.backend`."""

    settings: Settings
    redis: Redis
    keys: Keys
    ledger: TaskLedger
    lists: TaskLists
    conversations: Conversations
    stream: EventStream
    registry: WorkerRegistry
    celery: Celery
    publisher: Publisher
    """The way to use `celery` from the event loop."""
    key_ring: KeyRing
    own_tasks: OwnTasks
    models: Models
    readers: Readers
    admission: Admission
    loop_policy: LoopPolicy
    metrics: Metrics
    snapshot: Snapshot
    shutdown: asyncio.Event
    """Set on SIGTERM: not ready any more, streams say farewell."""
