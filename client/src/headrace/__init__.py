"""Client, command line and local stack of Headrace."""

from headrace.client import AsyncClient, Client
from headrace.errors import (
    ConversationNotFound,
    DeadlineExceeded,
    HeadraceError,
    NotHeadrace,
    RequestRefused,
    TaskCancelled,
    TaskExpired,
    TaskFailed,
    TaskNotFound,
    TooManyRounds,
    Unreachable,
)
from headrace.events import (
    Cancellation,
    Conversation,
    Event,
    Failure,
    FinalText,
    Model,
    TaskView,
    ToolCall,
    ToolCalls,
)

__all__ = [
    "AsyncClient",
    "Cancellation",
    "Client",
    "Conversation",
    "ConversationNotFound",
    "DeadlineExceeded",
    "Event",
    "Failure",
    "FinalText",
    "HeadraceError",
    "Model",
    "NotHeadrace",
    "RequestRefused",
    "TaskCancelled",
    "TaskExpired",
    "TaskFailed",
    "TaskNotFound",
    "TaskView",
    "TooManyRounds",
    "ToolCall",
    "ToolCalls",
    "Unreachable",
]
