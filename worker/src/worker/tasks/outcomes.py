"""What became of a message: the runner's answer to the Celery thread that took it."""

from dataclasses import dataclass

from shared.wire.task_result import TaskResult


@dataclass(frozen=True, slots=True)
class Answered:
    """The task succeeded."""

    result: TaskResult


@dataclass(frozen=True, slots=True)
class Failed:
    """The task ended in FAILURE."""

    message: str


@dataclass(frozen=True, slots=True)
class Revoked:
    """The task was cancelled."""


@dataclass(frozen=True, slots=True)
class HandedOver:
    """The task waits again: a new message takes it to another worker, ahead of the backlog."""


@dataclass(frozen=True, slots=True)
class Dropped:
    """The message leads to nothing: another worker has the task, or nobody knows it."""


Verdict = Answered | Failed | Revoked | HandedOver | Dropped
