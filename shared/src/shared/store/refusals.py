"""Why the ledger does not accept a task."""

from shared.store.limits import Allowance, LimitName


class Refusal(Exception):
    """The ledger does not accept the task; nothing of it is left."""


class QueueFull(Refusal):
    """The model's queue has as many waiting tasks as it may have."""

    def __init__(self, waiting: int) -> None:
        super().__init__(waiting)
        self.waiting = waiting


class TenantFull(Refusal):
    """The tenant has as many unfinished tasks as it may have."""

    def __init__(self, active: int) -> None:
        super().__init__(active)
        self.active = active


class LimitReached(Refusal):
    """A limit of the task's key, or of its tenant, leaves no room for it."""

    def __init__(self, which: LimitName, limit: int, wait_seconds: float | None, allowance: Allowance | None) -> None:
        """`wait_seconds`: until there is room; None where that is when another task ends."""
        super().__init__(which, limit)
        self.which = which
        self.limit = limit
        self.wait_seconds = wait_seconds
        self.allowance = allowance


class ConversationsFull(Refusal):
    """The tenant has as many stored conversations as it may have."""

    def __init__(self, count: int) -> None:
        super().__init__(count)
        self.count = count


class IdempotencyConflict(Refusal):
    """The idempotency key was used before with other parameters."""


class ConversationBusy(Refusal):
    """The conversation has a turn that has not ended yet."""

    def __init__(self, task_id: str) -> None:
        super().__init__(task_id)
        self.task_id = task_id


class ConversationChanged(Refusal):
    """The conversation is not, or no longer, at the version that the request was built on."""
