"""What the ledger says of a task: its record, a claim on it, and why there is none."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, cast

from shared.store.limits import Allowance
from shared.wire.schemas import QueueClass, State


@dataclass(frozen=True, slots=True)
class Acceptance:
    """A task that the ledger holds."""

    task_id: str
    model: str
    new: bool
    """False for a request that was sent before: its task was accepted then."""
    allowance: Allowance | None = None
    """What the task has left of the limits of its account."""
    home: str | None = None
    """The worker that has a free slot, and has computed the longest beginning of the prompt last; None for none."""


@dataclass(frozen=True, slots=True)
class Resent:
    """A request whose client, after a failure, sends the same bytes again and names no key."""

    digest: str
    """Of the bytes."""
    joins: bool
    """Whether this is such a later try: it joins the task that the bytes made before, unless that was in vain."""


@dataclass(frozen=True, slots=True)
class TaskRecord:
    """What the ledger knows of one task. Times are milliseconds of Redis's clock."""

    task_id: str
    version: int
    model: str
    tenant: str
    priority: str
    request: bytes
    """JSON of the InferenceRequest."""
    state: Literal["waiting", "running", "ended"]
    wire_state: State
    attempt: int
    crashes: int
    losses: int
    redraws: int
    """Answers that were not what the request demanded, and were begun anew."""
    accepted_at: int
    deadline: int
    started_at: int | None
    ended_at: int | None
    outcome: bytes
    """JSON of the outcome event of an ended task; empty for none (cancelled)."""
    cancel_on_disconnect: bool
    """The task is cancelled when nobody has read its stream for a while."""
    context: str
    """Place in its trace under which the task was accepted (`tracing.context_text`); empty for none."""
    attempt_context: str
    """Trace context of the newest attempt; inside a Claim, of the attempt before it. Empty where nobody traced it."""
    home: str
    """The worker where its prompt's beginning was warm when it was accepted; empty for none."""
    note: bytes
    """What the door that made the task wants to find again with it; empty for nothing."""


@dataclass(frozen=True, slots=True)
class Claim:
    """One attempt at a task, held by one worker as long as it renews its lease."""

    record: TaskRecord
    attempt: int
    claimed_at: int
    """Milliseconds of Redis's clock."""
    restart: bool
    """True: text that earlier attempts streamed is void, because another model revision goes on, or because the answer
    is drawn anew."""
    warmth: Literal["here", "elsewhere", "nowhere"] = "nowhere"
    """Where the prompt's beginning was warm when the task was accepted, as far as anybody knows."""

    @property
    def suspect(self) -> bool:
        """True when the task may be what killed an engine before: run it alone."""
        return self.record.crashes > 0 or self.record.losses > 1


@dataclass(frozen=True, slots=True)
class NoClaim:
    """Why a message leads to no attempt, and at which task."""

    task_id: str
    reason: Literal["missing", "version", "ended", "held", "late"]


@dataclass(frozen=True, slots=True)
class Requeued:
    """What became of a task whose attempt is over without an answer."""

    outcome: Literal["requeued", "revoked", "poisoned", "alive", "not_running", "data_lost"]


class Cancelled(NamedTuple):
    """What a cancellation met."""

    outcome: Literal["missing", "revoked", "asked", "ended"]
    """No such task; it was waiting and has ended; its worker will stop it; it had ended before."""
    state: State | None
    """None for a task that is missing."""


@dataclass(frozen=True, slots=True)
class Message:
    """What goes to the broker for a waiting task."""

    task_id: str
    model: str
    queue_class: QueueClass
    context: str
    """Place in its trace under which the task was accepted (`tracing.context_text`); empty for none."""


@dataclass(frozen=True, slots=True)
class TaskMessage:
    """A task's message, written, and where it goes."""

    text: str
    """As it stands in the queue."""
    queue: str
    """Of all the model's workers."""
    own_queues: str
    """What a worker's name follows in the name of the queue of that worker alone."""


@dataclass(frozen=True, slots=True)
class Load:
    """How much work a model has."""

    waiting: int
    running: int
    mean_seconds: float | None
    """Of the tasks that succeeded so far, from claim to end."""

    @property
    def work(self) -> int:
        """What autoscaling goes by."""
        return self.waiting + self.running


def parse_record(task_id: str, fields: Mapping[Any, Any]) -> TaskRecord:
    """The record from the fields of its hash, as Redis returns them (bytes)."""

    def text(name: str) -> str:
        return str(fields.get(name.encode(), b""), "utf-8")

    def number(name: str) -> int | None:
        value = text(name)
        return int(value) if value else None

    return TaskRecord(
        task_id=task_id,
        version=int(text("v")),
        model=text("model"),
        tenant=text("tenant"),
        priority=text("priority"),
        request=fields[b"request"],
        state=cast(Literal["waiting", "running", "ended"], text("state")),
        wire_state=cast(State, text("wire")),
        attempt=int(text("attempt")),
        crashes=int(text("crashes")),
        losses=int(text("losses")),
        redraws=number("redraws") or 0,
        accepted_at=int(text("accepted_at")),
        deadline=int(text("deadline")),
        started_at=number("started_at"),
        ended_at=number("ended_at"),
        outcome=fields.get(b"outcome", b""),
        cancel_on_disconnect=text("cancel_on_disconnect") == "1",
        context=text("context"),
        attempt_context=text("attempt_context"),
        home=text("home"),
        note=fields.get(b"note", b""),
    )
