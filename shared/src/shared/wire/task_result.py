"""What `AsyncResult(task_id).get()` returns: the outcome of a task that succeeded, for clients of Celery."""

from typing import Any

from shared.wire.schemas import FinishReason, ToolCall, Usage, WireType


class TaskResult(WireType):
    """The Celery result, as the worker stores it and the ledger keeps it; snake_case on this wire, all through."""

    cleaned_response_text: str
    raw_response_text: str
    """As the model wrote it: with its tool calls and its thoughts."""
    tool_calls: list[ToolCall]
    reasoning: str | None = None
    """What the model wrote for itself; in neither text but the raw one."""
    finish_reason: FinishReason
    usage: Usage

    @classmethod
    def parse(cls, stored: bytes) -> "TaskResult":
        """The result that the ledger has; what only a newer worker knows to say is left out."""
        return cls.model_validate_json(stored, extra="ignore")

    def as_dict(self) -> dict[str, Any]:
        """What goes to Celery."""
        return self.model_dump(by_alias=False, exclude_none=True)

    def as_json(self) -> str:
        """What goes into the ledger."""
        return self.model_dump_json(by_alias=False, exclude_none=True)
