"""What a client is told of a task outside of its stream."""

from shared.wire.schemas import Failure, FinalText, State, ToolCalls, WireType


class TaskView(WireType):
    """The result of `get_message`: a task at one moment."""

    task_id: str
    state: State
    position: int | None = None
    """While it waits: its place in the queue, 1 is next."""
    text: str
    """The whole answer, or what there is of it so far."""
    reasoning: str | None = None
    """The same of the model's reasoning."""
    index: int
    """Tokens of the answer so far, those of its reasoning too."""
    result: FinalText | ToolCalls | None = None
    """Of a task that succeeded."""
    error: Failure | None = None
    """Of a task that failed."""


class StreamToken(WireType):
    """The result of `stream_token`."""

    stream_token: str
    """Goes into the URL of the task's stream, `?stream_token=`: for an EventSource, which sends no headers."""
    expires_in_seconds: int
    """Until then it opens the stream; one that is open stays so."""


class Cancellation(WireType):
    """The result of `cancel_message`."""

    cancelled: bool
    """False when the task had ended before."""
    state: State
    """A running task is still in its state: its worker stops it within a moment, unless it ends first."""
