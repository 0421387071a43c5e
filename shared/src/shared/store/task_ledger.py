"""The life of a task in Redis: accept, claim, heartbeat, requeue, end. Each step is one Lua script, all or nothing.

States: waiting -> running -> ended, and running -> waiting when a worker is lost. Every accepted task ends once.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Literal

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from shared.store.beginnings import Beginnings
from shared.store.conversations import ConversationSave
from shared.store.keys import Keys
from shared.store.limits import Account, ExpectedTokens, Rate, read_allowance
from shared.store.outage import kind_of
from shared.store.redis_client import replies_of
from shared.store.refusals import (
    ConversationBusy,
    ConversationChanged,
    ConversationsFull,
    IdempotencyConflict,
    LimitReached,
    QueueFull,
    TenantFull,
)
from shared.store.scripts import Argument, Scripts
from shared.store.task_record import (
    Acceptance,
    Cancelled,
    Claim,
    NoClaim,
    Requeued,
    Resent,
    TaskMessage,
    TaskRecord,
    parse_record,
)
from shared.wire.schemas import SCHEMA_VERSION, EndState, ErrorEvent, InferenceRequest, Outcome

RequeueCause = Literal["handover", "crash", "redraw"]
"""A planned stop of the worker; the engine died under the task; the answer is not what was demanded."""
HeartbeatReply = Literal["ok", "cancel", "lost"]
"""Of an attempt: go on; somebody has cancelled the task; the task is not this attempt's any more."""


NOTHING_EXPECTED = ExpectedTokens(0, 0)
NO_BEGINNINGS = Beginnings()
HINT_MS = 900_000
"""Where a beginning was computed is known for so long at least, and for twice as long at most."""
RESENT_MS = 600_000
"""How long a request's bytes are remembered: longer than these clients' time-outs and back-off."""


class TaskLedger:
    """The tasks of one installation."""

    def __init__(
        self, redis: Redis, keys: Keys, *, retention_seconds: float, max_failures: int, unstored_seconds: float = 60
    ) -> None:
        """`retention_seconds`: how long an ended task is kept; `unstored_seconds`: one that is not to be stored."""
        self._redis = redis
        self._keys = keys
        self._retention_ms = int(retention_seconds * 1000)
        self._unstored_ms = int(min(retention_seconds, unstored_seconds) * 1000)
        self._max_failures = max_failures
        self._scripts = Scripts(
            redis,
            keys,
            "accept",
            "claim",
            "note_context",
            "heartbeat",
            "requeue",
            "end",
            "cancel",
            "find",
            "get",
            "delete",
            "spend",
        )

    async def accept(
        self,
        task_id: str,
        request: InferenceRequest,
        *,
        tenant: str,
        timeout_seconds: float,
        max_waiting: int,
        max_tenant_tasks: int,
        max_conversations: int | None = None,
        idempotency_key: str | None = None,
        fingerprint: str = "",
        resent: Resent | None = None,
        built_on: str | None = None,
        conversation_seconds: float | None = None,
        note: str = "",
        context: str = "",
        account: Account | None = None,
        expected: ExpectedTokens = NOTHING_EXPECTED,
        tenant_rate: Rate | None = None,
        weight: float | None = None,
        beginnings: Beginnings = NO_BEGINNINGS,
        slots: int | None = None,
        message: TaskMessage | None = None,
    ) -> Acceptance:
        """Makes the task durable, or raises a Refusal, which leaves nothing behind.

        In the same step `message` is put into the model's queue, or into that of the worker that `Acceptance.home` then
        names. Where Redis refuses that, it is lost like any other message: the janitor sends another one.

        `account`: against whose limits the task counts, with `expected` as its tokens until it has ended. `weight`: the
        tenant's share of the model's slots, beside the shares of others; None for 1. `beginnings`: of the
        prompt; `slots`: of each of the model's workers, None while nobody has said.

        `fingerprint` tells two requests with one idempotency key apart. A request with a conversation begins a
        turn of it; `built_on` is the version that it goes on from, None when it starts it anew;
        `conversation_seconds`: how long it is then kept, None for as long as conversations are.
        `max_conversations`: how many the tenant may have. `resent`: the client may send the same bytes again,
        without a key. `note` is the record's. Safe to repeat with the same `task_id`.
        """
        status, *rest = await self._scripts.run(
            "accept",
            task_id,
            model=request.model,
            priority=request.priority,
            tenant=tenant,
            request=request.model_dump_json(exclude_none=True),
            version=SCHEMA_VERSION,
            timeout_ms=int(timeout_seconds * 1000),
            retention_ms=self._retention_ms,
            max_waiting=max_waiting,
            max_tenant_tasks=max_tenant_tasks,
            max_conversations=max_conversations,
            **self._names(tenant, idempotency_key, fingerprint, resent),
            resent_ms=RESENT_MS,
            context=context,
            conversation=self._keys.conversation(tenant, request.conversation_id) if request.conversation_id else None,
            built_on=built_on,
            conversation_ms=None if conversation_seconds is None else int(conversation_seconds * 1000),
            note=note,
            unstored=1 if request.store is False else None,
            cancel_on_disconnect=int(request.cancel_on_disconnect),
            guard=f',"guard":{request.guard.model_dump_json()}' if request.guard else "",
            **_limits(account, tenant_rate),
            prompt_expected=expected.prompt,
            answer_expected=expected.answer,
            weight=None if weight is None else repr(weight),
            hints=self._hints(request, beginnings),
            slots=slots,
            message=message.text if message else None,
            queue=message.queue if message else None,
            own_queues=message.own_queues if message else None,
        )
        match status:
            case b"accepted":
                left = read_allowance(account.limits, rest[3:]) if account and rest[3:] else None
                home = rest[2].decode() if rest[2:] else ""
                return Acceptance(rest[0].decode(), rest[1].decode(), new=True, allowance=left, home=home or None)
            case b"existing":
                return Acceptance(rest[0].decode(), rest[1].decode(), new=False)
            case b"limit":
                raise _limit_reached(account, rest)
            case b"queue_full":
                raise QueueFull(rest[0])
            case b"tenant_full":
                raise TenantFull(rest[0])
            case b"conversations_full":
                raise ConversationsFull(rest[0])
            case b"conversation_busy":
                raise ConversationBusy(rest[0].decode())
            case b"conversation_changed":
                raise ConversationChanged
            case _:
                raise IdempotencyConflict

    def _hints(self, request: InferenceRequest, beginnings: Beginnings) -> str | None:
        """For lua/warm.lua. Of what is not stored, digests are gone no later than its record would be."""
        if not beginnings.long:
            return None
        period = HINT_MS if request.store is not False else max(1, self._unstored_ms // 2)
        return " ".join([str(period), str(len(beginnings.long)), *beginnings.long, *beginnings.short])

    async def spend(self, tenant: str, *, account: Account | None, tenant_rate: Rate | None) -> None:
        """Takes one request from the rates, for what is kept and is no task. Raises LimitReached."""
        if account is None and tenant_rate is None:
            return
        status, *rest = await self._scripts.run("spend", "", tenant=tenant, **_limits(account, tenant_rate))
        if status == b"limit":
            raise _limit_reached(account, rest)

    async def find(
        self, tenant: str, *, idempotency_key: str | None, fingerprint: str, resent: Resent | None
    ) -> Acceptance | None:
        """The task that the request made when it was sent before, as `accept` would find it; None when it is new.

        Raises IdempotencyConflict.
        """
        names = self._names(tenant, idempotency_key, fingerprint, resent)
        status, *rest = await self._scripts.run("find", "", **names)
        match status:
            case b"new":
                return None
            case b"existing":
                return Acceptance(rest[0].decode(), rest[1].decode(), new=False)
            case _:
                raise IdempotencyConflict

    def _names(
        self, tenant: str, idempotency_key: str | None, fingerprint: str, resent: Resent | None
    ) -> dict[str, Argument]:
        """What names the request, for `sent_before` of the scripts."""
        return {
            "idempotency": self._keys.idempotency(tenant, idempotency_key) if idempotency_key else None,
            "fingerprint": fingerprint,
            "resent": self._keys.resent(tenant, resent.digest) if resent else None,
            "joins": 1 if resent and resent.joins else None,
        }

    async def claim(
        self,
        task_id: str,
        *,
        worker: str,
        lease_seconds: float,
        revision: str,
        context: str = "",
        next_of: str | None = None,
    ) -> Claim | NoClaim:
        """Takes the task for this worker and opens the next attempt in its stream; `context`: of the attempt's span.

        `next_of`: a model, of whose waiting tasks the one that is next is taken instead, if any waits; the context is
        then to be noted by `note_context` if it is another one.
        """
        status, *rest = await self._scripts.run(
            "claim",
            task_id,
            worker=worker,
            lease_ms=int(lease_seconds * 1000),
            version=SCHEMA_VERSION,
            revision=revision,
            context=context,
            model=next_of,
            retention_ms=self._retention_ms,
        )
        task_id = rest[0].decode()
        if status != b"claimed":
            return NoClaim(task_id, status.decode())
        _, attempt, flat, now, restart = rest
        record = parse_record(task_id, dict(zip(flat[::2], flat[1::2], strict=True)))
        warmth: Literal["here", "elsewhere", "nowhere"] = "nowhere"
        if record.home:
            warmth = "here" if record.home == worker else "elsewhere"
        return Claim(record, attempt, now, bool(restart), warmth)

    async def note_context(self, task_id: str, attempt: int, context: str) -> None:
        """Notes the place of this attempt's span, as long as the attempt holds the task."""
        await self._scripts.run("note_context", task_id, attempt=attempt, context=context)

    async def heartbeat(self, held: Sequence[tuple[str, int]], *, lease_seconds: float) -> list[HeartbeatReply]:
        """Renews the leases of (task id, attempt) pairs; of each, whether it may go on. One whose record is none (any
        more) is lost.
        """
        pipeline = self._redis.pipeline(transaction=False)
        for task_id, attempt in held:
            await self._scripts.add_to(
                pipeline, "heartbeat", task_id, attempt=attempt, lease_ms=int(lease_seconds * 1000)
            )
        replies = await replies_of(pipeline)
        return ["lost" if isinstance(reply, ResponseError) else reply.decode() for reply in replies]

    async def requeue(self, task_id: str, attempt: int, cause: RequeueCause, *, written: str | None = None) -> Requeued:
        """Closes the running attempt and puts the task back to its old place among the waiting ones.

        After a `redraw` the next attempt begins the answer anew, and the record has counted it.
        A task that has used up its failures ends as poisoned; one that was to be cancelled ends as REVOKED; one whose
        entry `written`, the worker's last, Redis has lost, ends as data_lost.
        """
        return await self._requeue(task_id, attempt=attempt, cause=cause, written=written)

    async def take_from_dead(self, task_id: str) -> Requeued:
        """As `requeue`, whoever holds the task, but only after its lease has run out; `alive` before."""
        return await self._requeue(task_id, cause="loss")

    async def _requeue(
        self, task_id: str, *, cause: str, attempt: int | None = None, written: str | None = None
    ) -> Requeued:
        poisoned = ErrorEvent(
            task_id=task_id,
            code="poisoned",
            message=f"The task ended its engine or its worker {self._max_failures} times; it is not tried again.",
            retryable=False,
        )
        status, *_ = await self._scripts.run(
            "requeue",
            task_id,
            attempt=attempt,
            cause=cause,
            limit=self._max_failures,
            poisoned=_json(poisoned),
            **self._ending(),
            written=written,
        )
        return Requeued(status.decode())

    async def end(
        self,
        task_id: str,
        attempt: int | None,
        state: EndState,
        outcome: Outcome | None,
        *,
        result: str = "null",
        save: ConversationSave | None = None,
        written: str | None = None,
    ) -> bool:
        """Ends the task with its outcome event, a failure with an error; False when it has ended already or the attempt
        has lost its lease.

        With an attempt, only while that attempt holds the task; without one, from whatever state (janitor, deadline).
        When Redis has lost `written`, the last entry of the attempt, the task ends as data_lost instead.
        An error event gets the id of the task's trace. `result` is JSON, what clients of Celery get of a success; an
        error raises there. `save` replaces the request's conversation; where another turn has come in between, the task
        ends as conversation_changed.
        """
        changed = ErrorEvent(
            task_id=task_id,
            code="conversation_changed",
            message="The conversation went on without this answer, which is not part of it; send the message again.",
            retryable=True,
        )
        usage = None if outcome is None or isinstance(outcome, ErrorEvent) else outcome.usage
        status, *_ = await self._scripts.run(
            "end",
            task_id,
            attempt=attempt,
            state=state,
            prompt_tokens=usage.prompt_tokens if usage else None,
            answer_tokens=usage.completion_tokens if usage else None,
            outcome_type=outcome.type if outcome else None,
            outcome=_json(outcome) if outcome else None,
            result=result,
            **self._ending(),
            messages=save.messages if save else None,
            changed=_json(changed) if save else None,
            conversation_ms=int(save.seconds * 1000) if save else None,
            written=written,
        )
        return bool(status == b"done")

    async def tell_lost(self, task_id: str, attempt: int, written: str) -> None:
        """Ends the task as data_lost if this attempt still holds it, but Redis has lost its entry `written`."""
        await self._scripts.run("end", task_id, attempt=attempt, written=written, **self._ending())

    async def cancel(self, task_id: str, tenant: str) -> Cancelled:
        """Cancels the tenant's task; another tenant's is missing."""
        return await self._cancel(task_id, tenant)

    async def cancel_abandoned(self, task_id: str) -> Cancelled:
        """Cancels the task, whosever it is."""
        return await self._cancel(task_id, None)

    async def _cancel(self, task_id: str, tenant: str | None) -> Cancelled:
        status, *rest = await self._scripts.run("cancel", task_id, tenant=tenant, **self._ending())
        return Cancelled(status.decode(), rest[0].decode() if rest else None)

    def _ending(self) -> dict[str, Argument]:
        """What every script gets that may end a task."""
        ended_at = datetime.now(UTC).isoformat()
        return {"retention_ms": self._retention_ms, "unstored_ms": self._unstored_ms, "ended_at": ended_at}

    async def delete(self, task_id: str, tenant: str, *, conversation_id: str) -> Literal["done", "missing", "open"]:
        """Forgets the tenant's task and the conversation of this name, which it alone left; `open` before its end."""
        conversation = self._keys.conversation(tenant, conversation_id)
        status, *_ = await self._scripts.run("delete", task_id, tenant=tenant, conversation=conversation)
        reply: Literal["done", "missing", "open"] = status.decode()
        return reply

    async def get_own(self, task_id: str, tenant: str) -> TaskRecord | None:
        """The record of this tenant's task; None when there is none (any more), or something else under its name."""
        try:
            flat = await self._scripts.run("get", task_id, tenant=tenant)
        except ResponseError as error:
            if kind_of(error) is not None:
                raise
            return None
        return parse_record(task_id, dict(zip(flat[::2], flat[1::2], strict=True))) if flat else None

    async def get(self, task_id: str) -> TaskRecord | None:
        """The task's record, whosever it is; None when there is none (any more), or something else under its name."""
        try:
            fields = await self._redis.hgetall(self._keys.task(task_id))
        except ResponseError as error:
            if kind_of(error) is not None:
                raise
            return None
        return parse_record(task_id, fields) if fields else None


def _limits(account: Account | None, tenant_rate: Rate | None) -> dict[str, Argument]:
    """For `charge` of lua/accounts.lua."""
    return {
        "account": account.name if account else None,
        **(account.limits.model_dump(by_alias=False, exclude={"open_streams"}) if account else {}),
        "tenant_rate": tenant_rate.tasks if tenant_rate else None,
        "tenant_rate_ms": tenant_rate.seconds * 1000 if tenant_rate else None,
    }


def _limit_reached(account: Account | None, reply: Sequence[Any]) -> LimitReached:
    which, limit, wait_ms, *left = reply
    allowance = read_allowance(account.limits, left) if account else None
    return LimitReached(which.decode(), limit, None if wait_ms < 0 else wait_ms / 1000, allowance)


def _json(event: Outcome) -> str:
    return event.model_dump_json(exclude_none=True)
