"""What `AsyncResult(task_id).get()` returns: the outcome of a task that succeeded, for clients of Celery."""

from shared.wire.schemas import FinishReason, ToolCall, Usage, WireType


class TaskResult(WireType):
    """The Celery result, as the ledger stores it; snake_case on this wire, all through."""

    cleaned_response_text: str
    raw_response_text: str
    """As the model wrote it: with its tool calls and its thoughts."""
    tool_calls: list[ToolCall]
    reasoning: str | None = None
    """What the model wrote for itself; in neither text but the raw one."""
    finish_reason: FinishReason
    usage: Usage

    def as_json(self) -> str:
        """For `TaskLedger.end`."""
        return self.model_dump_json(by_alias=False, exclude_none=True)
