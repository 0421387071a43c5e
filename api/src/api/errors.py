"""Every error that a client can meet, its JSON-RPC code, and the one place where exceptions become errors."""

import logging
from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import JsonValue
from redis.exceptions import RedisError

from shared.conversation.rules import Place
from shared.store.limits import Allowance
from shared.store.outage import Kind, kind_of

log = logging.getLogger(__name__)

PARSE_ERROR = -32700
"""The body is not JSON."""
INVALID_REQUEST = -32600
"""The JSON is not a JSON-RPC 2.0 request."""
METHOD_NOT_FOUND = -32601
"""There is no such method."""
INVALID_PARAMS = -32602
"""The parameters are wrong; `data.errors` says which and why."""
INTERNAL_ERROR = -32603
"""A fault of the server; its log has the traceback."""
UNAUTHORIZED = -32001
"""No API key, or an unknown or expired one."""
TASK_NOT_FOUND = -32002
"""There is no such task of this tenant (any more)."""
QUEUE_FULL = -32003
"""The model has as many waiting tasks as it may have."""
RATE_EXCEEDED = -32004
"""A limit of the key or of its tenant is reached; `data.limit` says which."""
UNKNOWN_MODEL = -32005
"""There is no such model."""
CONTEXT_TOO_LONG = -32006
"""Prompt or answer cannot fit into the model's context."""
UNAVAILABLE = -32007
"""Redis does not answer, refuses this server, or takes no more data."""
CONVERSATION_NOT_FOUND = -32008
"""There is no stored conversation of this name (any more)."""
TOOL_LOOP = -32009
"""A tool call is demanded where loop prevention withholds the tools."""

CONVERSATION_BUSY = -32010
"""A turn of the stored conversation has not ended yet; `data.taskId` is its task."""

FORBIDDEN = -32011
"""The API key does not have the scope that the call needs."""

RETRY_UNAVAILABLE_SECONDS = 2
"""A restart of Redis or a failover by Sentinel takes a few seconds."""
RETRY_FULL_SECONDS = 5
"""Memory comes free as tasks expire."""


class ApiError(Exception):
    """An error that is meant for the client."""

    code: ClassVar[int]
    retryable: ClassVar[bool]
    status: ClassVar[int]
    """HTTP status where the whole HTTP request fails; a JSON-RPC reply that reports this error has status 200."""

    def __init_subclass__(cls, *, code: int, status: int, retryable: bool = False) -> None:
        cls.code, cls.status, cls.retryable = code, status, retryable

    def __init__(
        self,
        message: str = "",
        *,
        place: Place = (),
        retry_after: float | None = None,
        allowance: Allowance | None = None,
        **data: JsonValue,
    ) -> None:
        """`message` defaults to the docstring. `place` is where the fault stands in the request; the door that tells
        the client spells it. `retry_after` is in seconds; `allowance` is what the caller has left of its limits, for
        doors with headers that say it; `data` goes out beside them.
        """
        self.message = message or (type(self).__doc__ or "")
        self.place = place
        self.retry_after = None if retry_after is None else max(1, round(retry_after))
        self.allowance = allowance
        self.data = data
        super().__init__(self.message)


class ParseError(ApiError, code=PARSE_ERROR, status=400):
    """The body is not valid JSON."""


class InvalidRequest(ApiError, code=INVALID_REQUEST, status=400):
    """The request is not a JSON-RPC 2.0 request."""


class UnsupportedMediaType(ApiError, code=INVALID_REQUEST, status=415):
    """The body must be JSON: send `Content-Type: application/json`."""


class BodyTooLarge(ApiError, code=INVALID_REQUEST, status=413):
    """The body is too long."""


class BodyTooSlow(ApiError, code=INVALID_REQUEST, status=408, retryable=True):
    """The body did not arrive in time."""


class MethodNotFound(ApiError, code=METHOD_NOT_FOUND, status=404):
    """There is no such method."""


class NoSuchPath(ApiError, code=METHOD_NOT_FOUND, status=404):
    """There is nothing at this path."""


class NotThisVerb(ApiError, code=METHOD_NOT_FOUND, status=405):
    """What is at this path is not asked this way."""


class InvalidParams(ApiError, code=INVALID_PARAMS, status=400):
    """The parameters are wrong."""


class KeyReused(InvalidParams, code=INVALID_PARAMS, status=409):
    """The idempotency key was used before with other parameters."""


class InternalError(ApiError, code=INTERNAL_ERROR, status=500):
    """Internal error; the server's log has the details."""


class Unauthorized(ApiError, code=UNAUTHORIZED, status=401):
    """A valid API key is needed: send `Authorization: Bearer <key>`."""


class Forbidden(ApiError, code=FORBIDDEN, status=403):
    """The API key may not do that."""


class TaskNotFound(ApiError, code=TASK_NOT_FOUND, status=404):
    """There is no task of this id; it may have expired."""


class TaskExpired(ApiError, code=TASK_NOT_FOUND, status=410):
    """The task has expired."""


class TaskNotEnded(ApiError, code=TASK_NOT_FOUND, status=409, retryable=True):
    """The task has not ended: it can be cancelled, and deleted when it has."""


class EventsLost(ApiError, code=TASK_NOT_FOUND, status=410):
    """Events that the client has seen are not in the stream (any more)."""


class ModelQueueFull(ApiError, code=QUEUE_FULL, status=429, retryable=True):
    """The model's queue is full."""


class RateExceeded(ApiError, code=RATE_EXCEEDED, status=429, retryable=True):
    """Too many calls."""


class BeyondLimit(ApiError, code=RATE_EXCEEDED, status=429):
    """The request needs more than the API key may ever use."""


class TooManyTasks(ApiError, code=RATE_EXCEEDED, status=429, retryable=True):
    """Too many unfinished tasks."""


class TooManyConversations(ApiError, code=RATE_EXCEEDED, status=429):
    """Too many stored conversations."""


class TooManyStreams(ApiError, code=RATE_EXCEEDED, status=429, retryable=True):
    """Too many open streams."""


class UnknownModel(ApiError, code=UNKNOWN_MODEL, status=404):
    """There is no such model."""


class ContextTooLong(ApiError, code=CONTEXT_TOO_LONG, status=400):
    """Prompt and answer do not fit into the model's context."""


class Unavailable(ApiError, code=UNAVAILABLE, status=503, retryable=True):
    """The task store does not answer."""


class Refusing(Unavailable, code=UNAVAILABLE, status=503, retryable=True):
    """The task store refuses this server, for a reason that its operator reads in its log."""


class StoreFull(ApiError, code=UNAVAILABLE, status=503, retryable=True):
    """The task store has no memory left for new work."""


class ConversationNotFound(ApiError, code=CONVERSATION_NOT_FOUND, status=404):
    """There is no such conversation."""


class ConversationBusy(ApiError, code=CONVERSATION_BUSY, status=409, retryable=True):
    """Another message came first: the conversation has gone on, or waits for the answer to that one."""


class ToolLoopRefused(ApiError, code=TOOL_LOOP, status=400):
    """The conversation is in a tool loop."""


class NoTokenizer(ApiError, code=UNAVAILABLE, status=503, retryable=True):
    """No worker of the model is ready to tell its tokens."""


class TaskFailed(ApiError, code=INTERNAL_ERROR, status=500):
    """The task failed."""


class TaskFailedForNow(ApiError, code=INTERNAL_ERROR, status=500, retryable=True):
    """The task failed, and the same request may succeed."""


class TaskRefused(ApiError, code=INVALID_PARAMS, status=400):
    """The model cannot answer this request."""


class TaskTooLate(ApiError, code=INTERNAL_ERROR, status=504, retryable=True):
    """The task's time is over."""


class TaskCancelled(ApiError, code=TASK_NOT_FOUND, status=409):
    """The task was cancelled."""


class AnswerRestarted(ApiError, code=INTERNAL_ERROR, status=500, retryable=True):
    """The answer starts over with another revision of the model; what was sent is void. Send the request again."""


class StreamTooOld(ApiError, code=UNAVAILABLE, status=503, retryable=True):
    """A connection is closed when it has lasted for some time; the task goes on. Go on behind the last event."""


class ReplicaStops(ApiError, code=UNAVAILABLE, status=503, retryable=True):
    """This replica of the API stops; the task goes on. Send the same request again to get its answer."""


def failure_of(event: Mapping[str, Any]) -> ApiError:
    """The error that an `error` event of a task tells, for doors whose reply is the task's end."""
    message = str(event["message"])
    match event["code"]:
        case "context_too_long":
            return ContextTooLong(message)
        case "invalid_request":
            return TaskRefused(message)
        case "deadline_exceeded":
            return TaskTooLate(message)
        case _:
            return TaskFailedForNow(message) if event["retryable"] else TaskFailed(message)


def as_api_error(error: BaseException) -> ApiError:
    """The error that the client gets for an exception. One that is not meant for clients is only logged."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, RedisError) and (kind := kind_of(error)) is not None:
        log.debug("Redis is unavailable: %s", kind.value)  # what is wrong with it is told once, by the outage
        if kind is Kind.FULL:
            return StoreFull(retry_after=RETRY_FULL_SECONDS)
        return (Refusing if kind.refuses else Unavailable)(retry_after=RETRY_UNAVAILABLE_SECONDS)
    log.error("unexpected error: %s", type(error).__name__, exc_info=error)
    return InternalError()
