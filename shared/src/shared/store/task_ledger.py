"""The life of a task in Redis: accept, claim, heartbeat, requeue, end. Each step is one Lua script, all or nothing.

States: waiting -> running -> ended, and running -> waiting when a worker is lost. Every accepted task ends once.
"""

from collections.abc import Sequence
from importlib.resources import files
from typing import Any, Literal, cast

from redis.asyncio import Redis

from shared.store.keys import Keys
from shared.store.task_record import Acceptance, Claim, Load, Message, NoClaim, Requeued, TaskRecord, parse_record
from shared.wire.schemas import SCHEMA_VERSION, EndState, ErrorEvent, InferenceRequest, Outcome, State

RequeueCause = Literal["handover", "crash", "loss"]
"""A planned stop of the worker; the engine died under the task; the worker's lease ran out."""


class Refusal(Exception):
    """The ledger does not accept the task."""


class QueueFull(Refusal):
    """The model's queue has as many waiting tasks as it may have."""

    def __init__(self, waiting: int, running: int) -> None:
        super().__init__(waiting, running)
        self.waiting, self.running = waiting, running


class TenantFull(Refusal):
    """The tenant has as many unfinished tasks as it may have."""

    def __init__(self, active: int) -> None:
        super().__init__(active)
        self.active = active


class IdempotencyConflict(Refusal):
    """The idempotency key was used before with other parameters."""


class TaskLedger:
    """The tasks of one installation."""

    def __init__(self, redis: Redis, keys: Keys, *, retention_seconds: float, max_failures: int) -> None:
        self._redis = redis
        self._keys = keys
        self._retention_ms = int(retention_seconds * 1000)
        self._max_failures = max_failures
        lua = files("shared.store") / "lua"
        prelude = (lua / "prelude.lua").read_text()
        self._scripts = {
            name: redis.register_script(prelude + (lua / f"{name}.lua").read_text())
            for name in ("accept", "claim", "heartbeat", "requeue", "end", "cancel", "resend")
        }

    async def _run(self, script: str, task_id: str, *args: str | bytes | int) -> list[Any]:
        reply = await self._scripts[script](args=[self._keys.prefix, task_id, *args])
        return reply if isinstance(reply, list) else [reply]

    async def accept(
        self,
        task_id: str,
        request: InferenceRequest,
        *,
        tenant: str,
        timeout_seconds: float,
        max_waiting: int,
        max_tenant_tasks: int,
        idempotency_key: str | None = None,
        fingerprint: str = "",
        context: str = "",
    ) -> Acceptance:
        """Makes the task durable, or raises QueueFull, TenantFull or IdempotencyConflict.

        `fingerprint` tells two requests with one idempotency key apart. Safe to repeat with the same `task_id`.
        """
        guard = f',"guard":{request.guard.model_dump_json()}' if request.guard else ""
        status, *rest = await self._run(
            "accept", task_id, request.model, request.priority, tenant, request.model_dump_json(exclude_none=True),
            SCHEMA_VERSION, int(timeout_seconds * 1000), self._retention_ms, max_waiting, max_tenant_tasks,
            idempotency_key or "", fingerprint, context, guard,
        )  # fmt: skip
        match status:
            case b"accepted" | b"existing":
                return Acceptance(rest[0].decode(), new=status == b"accepted")
            case b"queue_full":
                raise QueueFull(*rest)
            case b"tenant_full":
                raise TenantFull(*rest)
            case _:
                raise IdempotencyConflict(rest[0].decode())

    async def claim(
        self, task_id: str, *, worker: str, lease_seconds: float, revision: str, context: str = ""
    ) -> Claim | NoClaim:
        """Takes the task for this worker and opens the next attempt in its stream; `context`: of the attempt's span."""
        status, *rest = await self._run(
            "claim", task_id, worker, int(lease_seconds * 1000), SCHEMA_VERSION, revision, context
        )
        if status == b"claimed":
            attempt, flat, now, restart = rest
            record = parse_record(task_id, dict(zip(flat[::2], flat[1::2], strict=True)))
            return Claim(record, attempt, now, bool(restart))
        if status == b"ended":
            return NoClaim("ended", rest[0].decode(), rest[1] or b"")
        return NoClaim(status.decode())

    async def heartbeat(self, held: Sequence[tuple[str, int]], *, lease_seconds: float) -> dict[str, str]:
        """Renews the leases of (task id, attempt) pairs; returns the ids that are not `ok`: `cancel` or `lost`."""
        pipeline = self._redis.pipeline(transaction=False)
        for task_id, attempt in held:
            args: list[str | int] = [self._keys.prefix, task_id, attempt, int(lease_seconds * 1000)]
            await self._scripts["heartbeat"](args=args, client=pipeline)
        replies = await pipeline.execute()
        return {task_id: reply.decode() for (task_id, _), reply in zip(held, replies, strict=True) if reply != b"ok"}

    async def requeue(self, task_id: str, attempt: int, cause: RequeueCause, *, written: str = "") -> Requeued:
        """Closes a running attempt and puts the task back to its old place among the waiting ones.

        With cause `loss` whoever holds the task is closed out, but only after the lease has run out. A task that has
        used up its failures ends as poisoned; one that was to be cancelled ends as REVOKED; one whose entry `written`,
        the worker's last, Redis has lost, ends as data_lost.
        """
        poisoned = ErrorEvent(
            task_id=task_id,
            code="poisoned",
            message=f"The task ended its engine or its worker {self._max_failures} times; it is not tried again.",
            retryable=False,
        )
        status, *rest = await self._run(
            "requeue", task_id, attempt, cause, self._max_failures, _json(poisoned), self._retention_ms,
            written,
        )  # fmt: skip
        return Requeued(status.decode(), rest[0].decode() if rest else "")

    async def end(
        self,
        task_id: str,
        attempt: int | None,
        state: EndState,
        outcome: Outcome | None,
        *,
        result: str = "",
        conversation: tuple[str, str] | None = None,
        conversation_seconds: float = 0,
        written: str = "",
    ) -> bool:
        """Ends the task with its outcome event; False when it has ended already or the attempt has lost its lease.

        With an attempt, only while that attempt holds the task; without one, from whatever state (janitor, deadline).
        When Redis has lost `written`, the last entry of the attempt, the task ends as data_lost instead.
        An error event gets the id of the task's trace.
        `result` is the JSON for the result backend; `conversation` its id (with tenant) and its new JSON.
        """
        conversation_id, messages = conversation or ("", "")
        status, *_ = await self._run(
            "end", task_id, "" if attempt is None else attempt, state, outcome.type if outcome else "",
            _json(outcome) if outcome else "", result, self._retention_ms, conversation_id, messages,
            int(conversation_seconds * 1000), written,
        )  # fmt: skip
        return bool(status == b"done")

    async def tell_lost(self, task_id: str, attempt: int, written: str) -> None:
        """Ends the task as data_lost if this attempt still holds it, but Redis has lost its entry `written`."""
        await self._run("end", task_id, attempt, "", "", "", "", self._retention_ms, "", "", 0, written)

    async def cancel(self, task_id: str, tenant: str) -> tuple[str, State | None]:
        """Cancels: `revoked` (was waiting), `asked` (its worker will stop it), `ended` (too late) or `missing`."""
        status, *rest = await self._run("cancel", task_id, tenant, self._retention_ms)
        return status.decode(), rest[0].decode() if rest else None

    async def get(self, task_id: str) -> TaskRecord | None:
        """The task's record; None when there is none (any more)."""
        fields = await self._redis.hgetall(self._keys.task(task_id))
        return parse_record(task_id, fields) if fields else None

    async def position(self, task_id: str, model: str) -> int | None:
        """Place among the model's waiting tasks, 1 is next; None when the task does not wait."""
        rank = cast(int | None, await self._redis.zrank(self._keys.waiting(model), task_id))
        return None if rank is None else rank + 1

    async def positions(self, tasks: Sequence[tuple[str, str]]) -> list[int | None]:
        """As `position`, for many (task id, model) in one round trip."""
        pipeline = self._redis.pipeline(transaction=False)
        for task_id, model in tasks:
            pipeline.zrank(self._keys.waiting(model), task_id)
        return [None if rank is None else int(rank) + 1 for rank in await pipeline.execute()]

    async def load(self, model: str) -> Load:
        """Waiting and running tasks of the model."""
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.zcard(self._keys.waiting(model))
        pipeline.zcard(self._keys.running(model))
        pipeline.hmget(self._keys.done(model), "tasks", "busy_ms")
        waiting, running, (tasks, busy) = cast(tuple[int, int, list[bytes | None]], await pipeline.execute())
        return Load(waiting, running, int(busy) / int(tasks) / 1000 if tasks and busy else None)

    async def expired(self, model: str) -> list[str]:
        """Running tasks of the model whose lease has run out."""
        return _ids(await self._redis.zrangebyscore(self._keys.running(model), "-inf", await self._now_ms()))

    async def overdue(self, *, running_grace_seconds: float) -> list[str]:
        """Tasks past their deadline; running ones only after the grace, because their worker ends them itself."""
        now = await self._now_ms()
        late = _ids(await self._redis.zrangebyscore(self._keys.deadlines, "-inf", now))
        very_late = set(
            _ids(await self._redis.zrangebyscore(self._keys.deadlines, "-inf", now - running_grace_seconds * 1000))
        )
        pipeline = self._redis.pipeline(transaction=False)
        for task_id in late:
            pipeline.hget(self._keys.task(task_id), "state")
        states = zip(late, await pipeline.execute(), strict=True)
        return [task_id for task_id, state in states if state != b"running" or task_id in very_late]

    async def waiting(self, model: str) -> list[str]:
        """Waiting tasks of the model, oldest first."""
        return _ids(await self._redis.zrange(self._keys.waiting(model), 0, -1))

    async def resend(self, task_ids: Sequence[str], *, model: str, after_seconds: float) -> list[Message]:
        """Messages to send again: of those that still wait and were last sent that long ago; notes the time of it."""
        pipeline = self._redis.pipeline(transaction=False)
        for task_id in task_ids:
            await self._scripts["resend"](args=[self._keys.prefix, task_id, int(after_seconds * 1000)], client=pipeline)
        messages = []
        for task_id, (status, *rest) in zip(task_ids, await pipeline.execute(), strict=True):
            if status == b"send":
                messages.append(Message(task_id, *(part.decode() for part in rest)))
            elif status == b"missing":
                await self.forget(task_id, [model])
        return messages

    async def ended(self, *, seconds_ago: float, count: int) -> list[str]:
        """Tasks that ended at least so long ago and are not `settled`, oldest first."""
        until = await self._now_ms() - int(seconds_ago * 1000)
        return _ids(await self._redis.zrange(self._keys.ended, "-inf", until, byscore=True, offset=0, num=count))

    async def settled(self, task_ids: Sequence[str]) -> None:
        """Notes that the tasks' Celery results are where they belong."""
        if task_ids:
            await self._redis.zrem(self._keys.ended, *task_ids)

    async def forget(self, task_id: str, models: Sequence[str]) -> None:
        """Takes a task whose record is gone out of every list."""
        pipeline = self._redis.pipeline(transaction=False)
        for model in models:
            pipeline.zrem(self._keys.waiting(model), task_id)
            pipeline.zrem(self._keys.running(model), task_id)
        pipeline.zrem(self._keys.deadlines, task_id)
        await pipeline.execute()

    async def _now_ms(self) -> int:
        seconds, microseconds = await self._redis.time()
        return int(seconds) * 1000 + int(microseconds) // 1000

    async def conversation(self, tenant: str, conversation_id: str) -> bytes | None:
        """JSON list of the conversation's messages; None when there is none (any more)."""
        return cast(bytes | None, await self._redis.get(self._keys.conversation(tenant, conversation_id)))


def _ids(members: Any) -> list[str]:
    return [member.decode() for member in members]


def _json(event: Outcome) -> str:
    return event.model_dump_json(exclude_none=True)
