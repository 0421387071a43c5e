"""JSON-RPC 2.0 (https://www.jsonrpc.org/specification): bytes in, bytes out. Knows no method and no HTTP.

Where the specification leaves room: an id that can be read is repeated also in the answer to an invalid request;
members of an envelope that it does not name are ignored; `null` in positional parameters means "not given".
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from pydantic import JsonValue
from pydantic_core import to_json

from api.error_object import error_object
from api.errors import ApiError, InvalidParams, InvalidRequest, MethodNotFound, as_api_error
from api.json_body import parsed

Context = TypeVar("Context")
Id = str | int | float | None
Note = Callable[[ApiError], object]


@dataclass(frozen=True, slots=True)
class Method(Generic[Context]):
    """One method: what to call, and the names of its parameters in the order of their positional form."""

    call: Callable[[Context, dict[str, JsonValue]], Awaitable[JsonValue]]
    parameters: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one batch."""

    max_batch: int = 100
    """Members."""
    concurrency: int = 16
    """Members that run at the same time."""


async def answer(
    body: bytes,
    methods: Mapping[str, Method[Context]],
    context: Context,
    limits: Limits | None = None,
    *,
    note: Note = lambda _: None,
) -> bytes | None:
    """The reply to a request or a batch; None when there is nothing to reply, as to notifications.

    Never raises for anything in `body` or from a method. `note` hears of each error.
    """
    try:
        message = await parsed(body)
        if isinstance(message, list):
            return await _answer_batch(message, methods, context, limits or Limits(), note)
    except ApiError as error:
        note(error)
        return encode(error_reply(error))
    reply = await _answer_one(message, methods, context, note)
    return None if reply is None else encode(reply)


def error_reply(error: ApiError, request_id: Id = None) -> dict[str, JsonValue]:
    """The reply that reports an error."""
    return {"jsonrpc": "2.0", "error": error_object(error), "id": request_id}


def encode(reply: JsonValue) -> bytes:
    """JSON in UTF-8."""
    return to_json(reply)


async def _answer_batch(
    batch: list[JsonValue], methods: Mapping[str, Method[Context]], context: Context, limits: Limits, note: Note
) -> bytes | None:
    if not batch:
        raise InvalidRequest("a batch must have at least one member")
    if len(batch) > limits.max_batch:
        raise InvalidRequest(f"a batch may have at most {limits.max_batch} members, this one has {len(batch)}")
    places = asyncio.Semaphore(limits.concurrency)

    async def member(message: JsonValue) -> dict[str, JsonValue] | None:
        async with places:
            return await _answer_one(message, methods, context, note)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(member(message)) for message in batch]
    replies: list[JsonValue] = [reply for task in tasks if (reply := task.result()) is not None]
    return encode(replies) if replies else None


async def _answer_one(
    message: JsonValue, methods: Mapping[str, Method[Context]], context: Context, note: Note
) -> dict[str, JsonValue] | None:
    """The reply to one request; None to a notification, whatever became of it."""
    request_id: Id = None
    notification = False
    try:
        if not isinstance(message, dict):
            raise InvalidRequest("a request must be an object")
        request_id = _id(message)
        name, params = _call(message)
        notification = "id" not in message
        method = methods.get(name)
        if method is None:
            raise MethodNotFound(f"there is no method {_short(name)}; there are {', '.join(sorted(methods))}")
        result = await method.call(context, _by_name(params, method.parameters))
    except Exception as error:
        note(refusal := as_api_error(error))
        reply = error_reply(refusal, request_id)
    else:
        reply = {"jsonrpc": "2.0", "result": result, "id": request_id}
    return None if notification else reply


def _id(message: Mapping[str, JsonValue]) -> Id:
    request_id = message.get("id")
    if request_id is not None and (isinstance(request_id, bool) or not isinstance(request_id, str | int | float)):
        raise InvalidRequest("`id` must be a string, a number or null")
    return request_id


def _call(message: Mapping[str, JsonValue]) -> tuple[str, list[JsonValue] | dict[str, JsonValue]]:
    """Name and parameters of a request that is well-formed. Raises InvalidRequest."""
    if message.get("jsonrpc") != "2.0":
        raise InvalidRequest('`jsonrpc` must be "2.0"')
    name = message.get("method")
    if not isinstance(name, str):
        raise InvalidRequest("`method` must be a string")
    params = message.get("params", {})
    if not isinstance(params, list | dict):
        raise InvalidRequest("`params` must be an object or a list, or be left out")
    return name, params


def _by_name(params: list[JsonValue] | dict[str, JsonValue], names: tuple[str, ...]) -> dict[str, JsonValue]:
    if isinstance(params, dict):
        return params
    if len(params) > len(names):
        takes = f"at most {len(names)} parameters: {', '.join(names)}" if names else "no parameters"
        raise InvalidParams(f"the method takes {takes}")
    return {name: value for name, value in zip(names, params, strict=False) if value is not None}


def _short(text: str) -> str:
    return repr(text if len(text) <= 64 else text[:64] + "…")
