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
from headrace.events import Event, FinalText, Model, ToolCall, ToolCalls

__all__ = [
    "AsyncClient",
    "Client",
    "DeadlineExceeded",
    "Event",
    "FinalText",
    "HeadraceError",
    "Model",
    "NotHeadrace",
    "RequestRefused",
    "TaskCancelled",
    "TaskExpired",
    "TaskFailed",
    "TaskNotFound",
    "TooManyRounds",
    "ToolCall",
    "ToolCalls",
    "Unreachable",
]
