"""What the doors stand on: built once per application, in its lifespan."""

import asyncio
from dataclasses import dataclass

from redis.asyncio import Redis

from api.metrics import Metrics
from api.models import Models
from api.settings import Settings
from api.snapshot import Snapshot
from api.streaming.readers import Readers
from api.tasks.new_task import NewTasks
from api.tasks.own_conversations import OwnConversations
from api.tasks.own_task import OwnTasks
from api.tasks.tokens import Tokens
from api.tasks.usage import Usage
from api.tenants.key_ring import KeyRing
from api.tenants.stream_tokens import StreamTokens
from shared.store.event_stream import EventStream
from shared.store.outage import Outage
from shared.store.task_lists import TaskLists
from shared.store.worker_registry import WorkerRegistry


@dataclass(frozen=True, slots=True)
class Backend:
    """The parts; `app.state.backend`."""

    settings: Settings
    redis: Redis
    outage: Outage
    lists: TaskLists
    stream: EventStream
    registry: WorkerRegistry
    key_ring: KeyRing
    stream_tokens: StreamTokens
    models: Models
    new_tasks: NewTasks
    own_tasks: OwnTasks
    own_conversations: OwnConversations
    tokens: Tokens
    usage: Usage
    readers: Readers
    metrics: Metrics
    snapshot: Snapshot
    shutdown: asyncio.Event
    """Set on SIGTERM: not ready any more, streams say farewell."""
