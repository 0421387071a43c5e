"""Puts right what nobody else can: tasks of dead workers, vanished messages, deadlines, abandoned streams.

Every replica has a janitor; a lock in Redis lets one of them work. All it does may be done twice without harm.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from redis.asyncio import Redis
from redis.asyncio.lock import Lock
from redis.exceptions import LockError, RedisError

from api.hub.reader_marks import ReaderMarks
from api.metrics import JanitorAction, Metrics
from api.publisher import Publisher
from api.repair.lost_messages import LostMessages
from api.task_spans import export_lost_attempt
from shared.store.keys import Keys
from shared.store.outage import Outage, kind_of, level
from shared.store.redis_client import answered_within, now_ms
from shared.store.task_ledger import TaskLedger
from shared.store.task_lists import TaskLists
from shared.store.task_record import Message, TaskRecord
from shared.telemetry.logs import scope
from shared.telemetry.tracing import message_headers, trace_id
from shared.wire.schemas import ErrorEvent

log = logging.getLogger(__name__)

Item = TypeVar("Item")

SWEEP_SECONDS = 1.0
LOCK_SECONDS = 5.0
"""A janitor that died is replaced after this."""
RUNNING_GRACE_SECONDS = 1.0
"""A worker ends its own tasks at their deadline; the janitor comes after it."""
AT_ONCE = 32
"""Tasks handled at the same time."""


class Janitor:
    """One replica's janitor."""

    def __init__(
        self,
        redis: Redis,
        keys: Keys,
        *,
        ledger: TaskLedger,
        lists: TaskLists,
        publisher: Publisher,
        marks: ReaderMarks,
        lost_messages: LostMessages,
        metrics: Metrics,
        models: Sequence[str],
        lease_seconds: float,
        outage: Outage,
    ) -> None:
        """`lease_seconds`: of the workers' leases."""
        self._redis = redis
        self._ledger = ledger
        self._lists = lists
        self._publisher = publisher
        self._marks = marks
        self._lost_messages = lost_messages
        self._metrics = metrics
        self._models = models
        self._outage = outage
        self._lock = Lock(redis, keys.janitor, timeout=LOCK_SECONDS, thread_local=False)
        self._grace_seconds = max(lease_seconds, marks.renew_seconds + SWEEP_SECONDS)
        self._gap_seconds = max(lease_seconds / 2, 2 * SWEEP_SECONDS)
        self._contact: float | None = None
        """When Redis last answered."""
        self._judge_from = 0.0

    async def run(self) -> None:
        """Until cancelled."""
        try:
            while True:
                try:
                    await self.take_turn()
                except (RedisError, OSError) as error:
                    log.log(level(error), "the janitor rests: %s", error)
                except Exception:
                    log.exception("a sweep failed")
                await asyncio.sleep(SWEEP_SECONDS)
        finally:
            await self._release()

    async def take_turn(self) -> None:
        """Puts right all that is to be put right now, unless another replica's janitor works.

        Raises redis.exceptions.RedisError when Redis does not answer.
        """
        try:
            if await self._has_lock():
                await self._sweep()
        except (RedisError, OSError):
            self._contact = None
            raise
        self._note_contact()
        self._outage.worked()

    async def _has_lock(self) -> bool:
        try:
            return bool(await self._lock.reacquire())
        except LockError:  # it is not this one's, or not any more
            return bool(await self._lock.acquire(blocking=False))

    async def _release(self) -> None:
        try:
            async with answered_within(1):
                if await self._lock.owned():
                    await self._lock.release()
        except (RedisError, OSError):
            log.debug("the lock was not released; it runs out")

    def _note_contact(self) -> None:
        """After a start, an outage or a freeze, workers and readers first get the time to renew their claims."""
        now = asyncio.get_running_loop().time()
        if self._contact is None or now - self._contact > self._gap_seconds:
            self._judge_from = now + self._grace_seconds
        self._contact = now

    async def _sweep(self) -> None:
        loop_now = asyncio.get_running_loop().time()
        now = await now_ms(self._redis)
        if self._contact is not None and loop_now - self._contact <= self._gap_seconds and loop_now >= self._judge_from:
            for model in self._models:
                await _each(await self._lists.expired(model, now), self._take_from_the_dead)
            await _each(await self._marks.abandoned(now), self._cancel_abandoned)
        await _each(await self._lists.overdue(now, running_grace_seconds=RUNNING_GRACE_SECONDS), self._end_overdue)
        for model in self._models:
            await _each(await self._lost_messages.find(model), self._send_again)

    async def _take_from_the_dead(self, task_id: str) -> None:
        outcome = (await self._ledger.take_from_dead(task_id)).outcome
        record = await self._ledger.get(task_id)
        if record is None:
            await self._lists.forget(task_id, self._models)
        if record is None or outcome in ("alive", "not_running"):
            return
        self._metrics.takeovers.labels(record.model).inc()
        export_lost_attempt(record)
        match outcome:
            case "requeued":
                self._count("requeued", record)
                # Also where another task's message has taken it by now: that other one waits for this message.
                await self._send(Message(task_id, record.model, "handover", record.context))
            case "poisoned":
                self._count("poisoned", record)
                self._note_end(record, "poisoned")
            case "revoked":
                self._count("revoked", record)
                self._note_end(record, "cancelled")

    async def _cancel_abandoned(self, task_id: str) -> None:
        outcome, _ = await self._ledger.cancel_abandoned(task_id)
        await self._marks.forget([task_id])
        record = await self._ledger.get(task_id)
        if record is not None and outcome in ("revoked", "asked"):
            self._count("abandoned", record)
            if outcome == "revoked":
                self._note_end(record, "abandoned")

    async def _end_overdue(self, task_id: str) -> None:
        record = await self._ledger.get(task_id)
        if record is None:
            await self._lists.forget(task_id, self._models)
            return
        seconds = (record.deadline - record.accepted_at) / 1000
        message = f"The task was not finished within its {seconds:g} seconds."
        event = ErrorEvent(task_id=task_id, code="deadline_exceeded", message=message, retryable=True)
        if await self._ledger.end(task_id, None, "FAILURE", event):
            self._count("deadline_exceeded", record)
            self._metrics.ended.labels(record.model, "FAILURE", "deadline_exceeded").inc()

    async def _send_again(self, message: Message) -> None:
        record = await self._ledger.get(message.task_id)
        if record is not None:
            self._count("resent", record)
        await self._send(message)

    async def _send(self, message: Message) -> None:
        headers = message_headers(message.context)
        await self._publisher.send(message.task_id, message.model, message.queue_class, headers)

    def _count(self, action: JanitorAction, record: TaskRecord) -> None:
        self._metrics.janitor_actions.labels(action).inc()
        with scope(task_id=record.task_id, model=record.model, tenant=record.tenant, attempt=record.attempt):
            log.info("task %s: %s", record.task_id, action, extra={"trace_id": trace_id(record.context)})

    def _note_end(self, record: TaskRecord, reason: str) -> None:
        self._metrics.ended.labels(record.model, record.wire_state, reason).inc()


async def _each(items: Sequence[Item], act: Callable[[Item], Awaitable[None]]) -> None:
    """Acts on every item; one that cannot be put right keeps nobody from the others. Raises what says that Redis is
    away or refuses everybody.
    """

    async def one(item: Item) -> None:
        try:
            await act(item)
        except Exception as error:
            if kind_of(error) is not None:
                raise
            log.exception("%s cannot be put right", item)

    for at in range(0, len(items), AT_ONCE):
        await asyncio.gather(*(one(item) for item in items[at : at + AT_ONCE]))
