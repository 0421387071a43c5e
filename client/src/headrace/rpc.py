"""One JSON-RPC call and its retries, without any I/O: the clients send what this builds and hand back what came."""

import uuid
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import httpx

from headrace.backoff import delays
from headrace.errors import (
    ConversationNotFound,
    HeadraceError,
    NotHeadrace,
    RequestRefused,
    TaskExpired,
    TaskNotFound,
    Unreachable,
)

T = TypeVar("T")

TASK_NOT_FOUND = -32002
CONVERSATION_NOT_FOUND = -32008
MAX_TRIES = 5
LONGEST_WAIT_SECONDS = 30.0
"""A server that asks for a longer pause is not waited for: the caller gets the error and its `retry_after`."""
GATEWAY_ERRORS = {502, 503, 504}


class Call(Generic[T]):
    """One call. A retry repeats it to the letter, so an idempotency key in `params` makes it the same task."""

    def __init__(self, method: str, params: dict[str, Any], decode: Callable[[Any], T]) -> None:
        self.body = {"jsonrpc": "2.0", "id": uuid.uuid4().hex, "method": method, "params": params}
        self._decode = decode
        self._delays = delays()
        self._tries = 0

    def result(self, response: httpx.Response) -> T:
        """The call's result; raises a HeadraceError for anything else."""
        if response.is_success and "result" in (reply := _json_object(response)):
            try:
                return self._decode(reply["result"])
            except (KeyError, TypeError, ValueError) as error:
                raise NotHeadrace(f"{response.url} answered {self.body['method']} with something else") from error
        raise refusal(response)

    def delay_after(self, error: httpx.TransportError | HeadraceError) -> float:
        """Seconds to wait before the next try after `error`; raises the error when there is to be none."""
        self._tries += 1
        failure = adapt(error)
        delay = failure.retry_after if failure.retry_after is not None else next(self._delays)
        if not failure.retryable or self._tries >= MAX_TRIES or delay > LONGEST_WAIT_SECONDS:
            raise failure from (None if failure is error else error)
        return delay


def authorization(api_key: str | None) -> dict[str, str]:
    """The headers that say who is calling."""
    return {} if api_key is None else {"Authorization": f"Bearer {api_key}"}


def adapt(error: httpx.TransportError | HeadraceError) -> HeadraceError:
    """The error as one of this package's."""
    if isinstance(error, HeadraceError):
        return error
    request = error._request  # the property raises where there is none
    address = f" at {request.url.copy_with(path='/')}" if request else ""
    return Unreachable(f"No answer from the server{address}: {error or type(error).__name__}", retryable=True)


def refusal(response: httpx.Response) -> HeadraceError:
    """The error that a response reports: JSON-RPC's object, in `/rpc` replies and as the body of other errors."""
    reply = _json_object(response)
    error = reply.get("error")
    if not isinstance(error, dict) or not {"code", "message"} <= error.keys():
        passing = response.status_code in GATEWAY_ERRORS
        return (Unreachable if passing else NotHeadrace)(
            f"{response.url} answered HTTP {response.status_code} and no reply of Headrace's",
            code=response.status_code,
            retryable=passing,
        )
    data = error.get("data") or {}
    kind: type[HeadraceError] = RequestRefused
    if error["code"] == TASK_NOT_FOUND:
        kind = TaskExpired if response.status_code == httpx.codes.GONE else TaskNotFound
    elif error["code"] == CONVERSATION_NOT_FOUND:
        kind = ConversationNotFound
    return kind(
        error["message"],
        code=error["code"],
        retryable=bool(data.get("retryable")),
        retry_after=data.get("retryAfterSeconds"),
    )


def _json_object(response: httpx.Response) -> dict[str, Any]:
    try:
        reply = response.json()
    except ValueError:
        return {}
    return reply if isinstance(reply, dict) else {}
