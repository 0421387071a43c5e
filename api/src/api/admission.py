"""Who may start new work, and when a refused client should come back."""

import asyncio
import time

from pydantic.alias_generators import to_camel
from redis.asyncio import Redis

from api.errors import (
    ApiError,
    BeyondLimit,
    ConversationBusy,
    KeyReused,
    ModelQueueFull,
    RateExceeded,
    StoreFull,
    TooManyConversations,
    TooManyTasks,
)
from api.settings import Settings
from api.tenants.caller import Caller
from shared.store import refusals
from shared.store.limits import ExpectedTokens
from shared.store.refusals import ConversationChanged, ConversationsFull, LimitReached, QueueFull, Refusal, TenantFull
from shared.store.task_lists import TaskLists
from shared.store.worker_registry import WorkerRegistry

LONGEST_RETRY_SECONDS = 300.0
UNKNOWN_WAIT_SECONDS = 30.0
"""For a model that no worker has served yet: nobody knows how long its tasks take."""
UNKNOWN_TURN_SECONDS = 1.0
"""For a turn of a conversation whose model has answered nothing yet."""
MEMORY_AGE_SECONDS = 1.0
"""How old what we know of Redis's memory may be."""
MEMORY_RETRY_SECONDS = 10


class Admission:
    """The doors that a new task passes before the ledger's own, which count its queue and its tenant's tasks."""

    def __init__(self, settings: Settings, redis: Redis, lists: TaskLists, registry: WorkerRegistry) -> None:
        self._settings = settings
        self._redis = redis
        self._lists = lists
        self._registry = registry
        self._memory_checked = float("-inf")
        self._memory_used = 0.0
        self._memory_lock = asyncio.Lock()

    async def admit(self) -> None:
        """Raises StoreFull; Redis's own errors when it does not answer."""
        async with self._memory_lock:
            if time.monotonic() - self._memory_checked > MEMORY_AGE_SECONDS:
                memory = await self._redis.info("memory")
                limit = int(memory.get("maxmemory", 0))
                self._memory_used = int(memory["used_memory"]) / limit if limit else 0.0
                self._memory_checked = time.monotonic()
        if self._memory_used > self._settings.memory_threshold:
            raise StoreFull(retry_after=MEMORY_RETRY_SECONDS)

    def check_size(self, caller: Caller, expected: ExpectedTokens) -> None:
        """Raises BeyondLimit for a request that no waiting would let through."""
        limits, needed = caller.policy.limits, expected.prompt + expected.answer
        for most, unit in ((limits.tokens_per_minute, "minute"), (limits.tokens_per_day, "day")):
            if most is not None and needed > most:
                raise BeyondLimit(
                    f"the request may need {needed} tokens, about {expected.prompt} of its prompt and at most "
                    f"{expected.answer} of its answer; this API key has {most} per {unit}: ask for a shorter answer",
                    place=("max_tokens",),
                    limit=f"tokensPer{unit.capitalize()}",
                )

    async def refused(self, model: str, refusal: Refusal) -> ApiError:
        """What a client is told of the ledger's refusal, and when it should come back."""
        match refusal:
            case QueueFull():
                return await self._queue_full(model, refusal)
            case TenantFull():
                return await self._tenant_full(model, refusal)
            case LimitReached():
                return await self._limit_reached(model, refusal)
            case ConversationsFull():
                return too_many_conversations(refusal)
            case refusals.ConversationBusy():
                return await self._conversation_busy(model, refusal)
            case ConversationChanged():
                return ConversationBusy("the conversation went on meanwhile; send this message again", retry_after=1)
            case _:
                return key_reused()

    async def _queue_full(self, model: str, refusal: QueueFull) -> ModelQueueFull:
        """With the time in which about a tenth of the queue drains."""
        return ModelQueueFull(
            f"{refusal.waiting} tasks are waiting for the model {model!r}; no more are accepted",
            retry_after=await self._drain_seconds(model, max(1, refusal.waiting // 10)),
        )

    async def _tenant_full(self, model: str, refusal: TenantFull) -> TooManyTasks:
        return TooManyTasks(
            f"{refusal.active} of your tasks have not ended yet; at most {self._settings.max_tenant_tasks} are allowed",
            retry_after=await self._drain_seconds(model, 1),
        )

    async def _limit_reached(self, model: str, refusal: LimitReached) -> ApiError:
        wait = await self._drain_seconds(model, 1) if refusal.wait_seconds is None else refusal.wait_seconds
        said = {
            "tenant_rate": f"at most {self._settings.tenant_rate.replace('/', ' calls per ')} are allowed",
            "requests_per_minute": f"this API key may make {refusal.limit} requests per minute",
            "tokens_per_minute": f"this API key may use {refusal.limit} tokens per minute",
            "tokens_per_day": f"this API key may use {refusal.limit} tokens per day (UTC)",
            "unfinished_tasks": f"{refusal.limit} tasks of this API key have not ended yet; no more are allowed",
            "waiting_tasks": f"{refusal.limit} tasks of this API key wait for a worker; no more are allowed",
        }[refusal.which]
        kind = TooManyTasks if refusal.wait_seconds is None else RateExceeded
        return kind(said, retry_after=wait, allowance=refusal.allowance, limit=to_camel(refusal.which))

    async def _conversation_busy(self, model: str, refusal: refusals.ConversationBusy) -> ConversationBusy:
        load = await self._lists.load(model)
        return ConversationBusy(
            f"the conversation waits for the answer of the task {refusal.task_id}; "
            "send this message again when that task has ended, or cancel it",
            retry_after=min(LONGEST_RETRY_SECONDS, load.mean_seconds or UNKNOWN_TURN_SECONDS),
            taskId=refusal.task_id,
        )

    async def _drain_seconds(self, model: str, tasks: int) -> float:
        """How long the model's ready workers take for so many tasks, by how long tasks took so far."""
        load = await self._lists.load(model)
        card, workers = await self._registry.card(model), await self._registry.ready(model)
        if load.mean_seconds is None or card is None or not workers:
            return UNKNOWN_WAIT_SECONDS
        return min(LONGEST_RETRY_SECONDS, tasks * load.mean_seconds / (workers * card.slots))


def too_many_conversations(refusal: ConversationsFull) -> TooManyConversations:
    """The error for a conversation that is one too many. It is not worth trying again: most are kept for days."""
    return TooManyConversations(
        f"{refusal.count} conversations and stored responses are kept for this tenant, and no more are; delete some",
        limit="conversations",
    )


def key_reused() -> KeyReused:
    """The error for an idempotency key that names another request."""
    return KeyReused("was used before with other parameters", place=("idempotency_key",))
