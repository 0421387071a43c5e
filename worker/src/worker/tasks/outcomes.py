"""Every way in which a task can stop on this worker: how its attempt ends, and what then becomes of its message.

| the attempt ends | the task | the message |
|---|---|---|
| `Finished` | SUCCESS | `Answered` |
| `Finished`, but its schema refuses it | waits again, or FAILURE after one draw too many | `HandedOver`, or `Failed` |
| `Errored` | FAILURE | `Failed` |
| `Cancelled` | REVOKED | `Revoked` |
| `Crashed`, `GivenBack` | waits again, or FAILURE after one crash too many | `HandedOver`, or `Failed` |
| `Lost` | is another worker's | `Dropped` |

What the ledger has recorded goes before: an attempt that finishes behind a cancellation leads to `Revoked`.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

from shared.wire.schemas import ErrorCode, FinishReason

EndCause = Literal["finished", "failed", "cancelled", "lost", "crash", "handover"]
"""The same in metrics and spans."""


@dataclass(frozen=True, slots=True)
class Finished:
    """The answer is complete, or as long as it may be."""

    cause: ClassVar[EndCause] = "finished"
    reason: FinishReason


@dataclass(frozen=True, slots=True)
class Errored:
    """The task cannot be answered; the message says why, to its client."""

    cause: ClassVar[EndCause] = "failed"
    code: ErrorCode
    message: str


@dataclass(frozen=True, slots=True)
class Cancelled:
    """Somebody has cancelled the task."""

    cause: ClassVar[EndCause] = "cancelled"


@dataclass(frozen=True, slots=True)
class Lost:
    """The task is no longer this worker's: its lease has run out."""

    cause: ClassVar[EndCause] = "lost"


@dataclass(frozen=True, slots=True)
class Crashed:
    """The engine died under it."""

    cause: ClassVar[EndCause] = "crash"


@dataclass(frozen=True, slots=True)
class GivenBack:
    """Nothing is wrong with it, it goes on elsewhere: this worker leaves, or its engine is another one now."""

    cause: ClassVar[EndCause] = "handover"


AttemptEnd = Finished | Errored | Cancelled | Lost | Crashed | GivenBack


@dataclass(frozen=True, slots=True)
class Answered:
    """The task succeeded."""


@dataclass(frozen=True, slots=True)
class Failed:
    """The task ended in FAILURE."""

    message: str


@dataclass(frozen=True, slots=True)
class Revoked:
    """The task was cancelled."""


@dataclass(frozen=True, slots=True)
class HandedOver:
    """The task waits again: a new message takes it to a worker, ahead of the backlog."""


@dataclass(frozen=True, slots=True)
class Dropped:
    """The message leads to nothing: another worker has the task, or nobody knows it."""


MessageEnd = Answered | Failed | Revoked | HandedOver | Dropped
"""What the runner answers the Celery thread that took the message."""
