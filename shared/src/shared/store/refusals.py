"""Why the ledger does not accept a task."""


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


class IdempotencyConflict(Refusal):
    """The idempotency key was used before with other parameters."""


class ConversationBusy(Refusal):
    """The conversation has a turn that has not ended yet."""

    def __init__(self, task_id: str) -> None:
        super().__init__(task_id)
        self.task_id = task_id


class ConversationChanged(Refusal):
    """The conversation is not, or no longer, at the version that the request was built on."""
