"""Tasks driven through the ledger and their streams without an API or a worker."""

import json
from typing import Any

from redis.asyncio import Redis

from shared.store.event_stream import Entry, TokenWrite, TokenWriter
from shared.store.keys import Keys
from shared.store.task_id import new_task_id
from shared.store.task_ledger import TaskLedger
from shared.store.task_record import Claim
from shared.wire.schemas import ErrorEvent, FinalTextEvent, InferenceRequest, Timings, Usage

REQUEST = InferenceRequest.model_validate({"model": "m", "messages": [{"role": "user", "content": "hi"}]})


async def accept(ledger: TaskLedger, task_id: str | None = None, **changes: Any) -> str:
    """A new task of the tenant `t`; `request` and the options of `TaskLedger.accept` may be changed."""
    options: dict[str, Any] = {
        "tenant": "t", "timeout_seconds": 60, "max_waiting": 100, "max_tenant_tasks": 100, **changes
    }  # fmt: skip
    request = options.pop("request", REQUEST)
    return (await ledger.accept(task_id or new_task_id(), request, **options)).task_id


async def claim(ledger: TaskLedger, task_id: str, worker: str = "w1", revision: str = "r", lease: float = 10) -> Claim:
    """The task's next attempt."""
    claimed = await ledger.claim(task_id, worker=worker, lease_seconds=lease, revision=revision)
    assert isinstance(claimed, Claim)
    return claimed


def answer(task_id: str) -> FinalTextEvent:
    """The event that ends a task in success."""
    return FinalTextEvent(
        task_id=task_id,
        text="hello",
        finish_reason="stop",
        usage=Usage(prompt_tokens=1, completion_tokens=1),
        timings=Timings(queued=0, first_token=0, total=0),
    )


def failure(task_id: str) -> ErrorEvent:
    """The event that ends a task in failure."""
    return ErrorEvent(task_id=task_id, code="internal", message="broken", retryable=True)


def taken(writer: TokenWriter) -> list[TokenWrite]:
    """What the writer has gathered, as `EventStream.write` takes it."""
    write = writer.take()
    return [write] if write else []


def states(entries: list[Entry]) -> list[str]:
    """`<id> <type> <state>` of each entry."""
    return [f"{entry.id} {entry.type} {json.loads(entry.data or b'{}').get('state', '')}".rstrip() for entry in entries]


def token(writer: TokenWriter) -> list[TokenWrite]:
    """One more token, as a write."""
    writer.add([7], "x")
    return taken(writer)


async def roll_back(redis: Redis, keys: Keys, task_id: str, *entries: str) -> None:
    """What a failover does that loses the last writes."""
    assert await redis.xdel(keys.events(task_id), *entries) == len(entries)
