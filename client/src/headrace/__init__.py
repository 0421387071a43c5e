"""Client, command line and local stack of Headrace."""

from headrace.client import AsyncClient, Client
from headrace.errors import (
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
from headrace.events import Cancellation, Event, Failure, FinalText, Model, TaskView, ToolCall, ToolCalls

__all__ = [
    "AsyncClient",
    "Cancellation",
    "Client",
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
