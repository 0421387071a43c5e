"""What callers do with their own tasks: look one up, cancel it. Another tenant's task is as unknown as none."""

import logging
import time
from collections.abc import Sequence

from prometheus_client import Counter
from pydantic import TypeAdapter, ValidationError

from api.errors import ApiError, TaskExpired, TaskNotEnded, TaskNotFound
from api.tenants import audit
from api.tenants.caller import Caller
from shared.store.event_stream import Entry, EventStream
from shared.store.redis_client import answered_within
from shared.store.task_id import task_id_time
from shared.store.task_ledger import TaskLedger
from shared.store.task_lists import TaskLists
from shared.store.task_record import TaskRecord
from shared.wire.schemas import Failure, Outcome, TokenEvent
from shared.wire.task_view import Cancellation, TaskView

log = logging.getLogger(__name__)

_OUTCOME: TypeAdapter[Outcome] = TypeAdapter(Outcome)


class OwnTasks:
    """The tasks of this installation, each for callers of its tenant."""

    def __init__(
        self,
        *,
        ledger: TaskLedger,
        lists: TaskLists,
        stream: EventStream,
        ended: Counter,
        redis_timeout: float,
        retention_seconds: float,
    ) -> None:
        """`ended`: the tasks that end here, by model, state and reason. `redis_timeout`: in seconds, for each call.

        `retention_seconds`: how long a task is there after its end.
        """
        self._ledger = ledger
        self._lists = lists
        self._stream = stream
        self._ended = ended
        self._redis_timeout = redis_timeout
        self._retention_seconds = retention_seconds

    async def record(
        self, caller: Caller, task_id: str, *, seen: bool = False, why: audit.Action = "stream"
    ) -> TaskRecord:
        """The task's record; `seen`: the caller has read events of it. `why`: for the log of who did what.

        Raises Forbidden, TaskNotFound, TaskExpired, or redis.exceptions.RedisError.
        """
        async with answered_within(self._redis_timeout):
            return await self._own(caller, task_id, why, seen=seen)

    async def view(self, caller: Caller, task_id: str) -> TaskView:
        """The task at this moment: state, place in the queue, the text so far, result or error. Raises as `record`."""
        async with answered_within(self._redis_timeout):
            record = await self._own(caller, task_id, "read")
            position = await self._lists.position(task_id, record.model) if record.state == "waiting" else None
            outcome = _outcome(record)
            if outcome is None or isinstance(outcome, Failure):
                so_far = _so_far(task_id, await self._stream.read(task_id))
                return TaskView(
                    task_id=task_id,
                    state=record.wire_state,
                    position=position,
                    text=so_far.text,
                    reasoning=so_far.reasoning or None,
                    index=so_far.index,
                    error=outcome,
                )
        return TaskView(
            task_id=task_id,
            state=record.wire_state,
            text=outcome.text,
            reasoning=outcome.reasoning,
            index=outcome.usage.completion_tokens,
            result=outcome,
        )

    async def log(self, caller: Caller, task_id: str) -> tuple[TaskRecord, list[Entry]]:
        """The task's record and all events that are in its stream. Raises as `record`."""
        async with answered_within(self._redis_timeout):
            return await self._own(caller, task_id, "read"), await self._stream.read(task_id)

    async def asked_for(self, caller: Caller, task_id: str) -> TaskRecord:
        """The record of the task that a request of the caller's has started, or joined, just now: its reply needs no
        more than the leave to ask. Raises TaskNotFound, TaskExpired, or redis.exceptions.RedisError.
        """
        async with answered_within(self._redis_timeout):
            record = await self._ledger.get_own(task_id, caller.tenant)
        if record is None:
            raise self._unknown(task_id)
        return record

    async def said(self, task_id: str) -> list[Entry]:
        """All events that are in the stream of a task that is known to be the caller's."""
        async with answered_within(self._redis_timeout):
            return await self._stream.read(task_id)

    async def delete(self, caller: Caller, task_id: str, *, conversation_id: str) -> None:
        """Forgets a task that has ended, and the conversation of this name, which it alone left.

        Raises as `record`, or TaskNotEnded.
        """
        async with answered_within(self._redis_timeout):
            with audit.noted("delete", caller, task_id):
                caller.need("ask")
                match await self._ledger.delete(task_id, caller.tenant, conversation_id=conversation_id):
                    case "missing":
                        raise self._unknown(task_id)
                    case "open":
                        raise TaskNotEnded(retry_after=1)

    async def cancel(self, caller: Caller, task_id: str) -> Cancellation:
        """Cancels the task unless it has ended: at once while it waits, by its worker when it runs.

        Raises as `record`.
        """
        async with answered_within(self._redis_timeout):
            with audit.noted("cancel", caller, task_id):
                caller.need("ask")
                outcome, state = await self._ledger.cancel(task_id, caller.tenant)
                if state is None:
                    raise self._unknown(task_id)
            record = await self._ledger.get(task_id) if outcome == "revoked" else None
        if record is not None:
            self._ended.labels(record.model, "REVOKED", "cancelled").inc()
        return Cancellation(cancelled=outcome != "ended" or state == "REVOKED", state=state)

    async def _own(self, caller: Caller, task_id: str, why: audit.Action, *, seen: bool = False) -> TaskRecord:
        with audit.noted(why, caller, task_id):
            caller.need("read")
            record = await self._ledger.get_own(task_id, caller.tenant)
            if record is None:
                raise self._unknown(task_id, seen=seen)
        return record

    def _unknown(self, task_id: str, *, seen: bool = False) -> ApiError:
        """A task that there was once is told from one that there never was by the time in its id."""
        made = task_id_time(task_id)
        if made is not None and (seen or made < time.time() - self._retention_seconds):
            return TaskExpired()
        return TaskNotFound()


def _outcome(record: TaskRecord) -> Outcome | None:
    """The event that ended the task; None for one that has not ended, was cancelled, or ended in a newer version's way:
    what such a worker says beside what this replica knows is left out.
    """
    try:
        return _OUTCOME.validate_json(record.outcome, extra="ignore") if record.outcome else None
    except ValidationError as error:
        log.warning("the outcome of task %s cannot be read: %s", record.task_id, error.errors(include_input=False))
        return None


def _so_far(task_id: str, entries: Sequence[Entry]) -> TokenEvent:
    """All tokens since the last restart, as one event."""
    tokens: list[TokenEvent] = []
    for entry in entries:
        if entry.type == "token" and entry.data:
            tokens.append(TokenEvent.model_validate_json(entry.data, extra="ignore"))
        elif entry.restarts:
            tokens.clear()
    return TokenEvent(
        task_id=task_id,
        text="".join(token.text for token in tokens),
        reasoning="".join(token.reasoning or "" for token in tokens),
        index=tokens[-1].index if tokens else 0,
    )
