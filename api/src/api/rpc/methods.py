"""The methods of `POST /rpc`."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from pydantic import JsonValue, ValidationError

from api.backend import Backend
from api.invalid_params import invalid_params
from api.json_body import LARGE_BYTES
from api.rpc.jsonrpc import Method
from api.tenants.caller import Caller
from api.tenants.stream_tokens import SECONDS
from shared.wire.conversation_view import ConversationDeletion, ConversationView
from shared.wire.schemas import ConversationNamed, CreateMessageParams, TaskParams, WireType
from shared.wire.task_view import StreamToken
from shared.wire.usage import UsageParams


@dataclass(frozen=True, slots=True)
class Call:
    """What a method knows of the HTTP request that it came in."""

    backend: Backend
    caller: Caller
    context: str = ""
    """Place of the request in its trace (`tracing.context_text`); empty for none."""
    body_bytes: int = 0

    @property
    def large(self) -> bool:
        return self.body_bytes > LARGE_BYTES


Params = TypeVar("Params", bound=WireType)


class NoParams(WireType):
    """Parameters of a method that takes none."""


async def create_message(call: Call, params: dict[str, JsonValue]) -> JsonValue:
    """Starts a task: `{"taskId": …}`."""
    started = await call.backend.new_tasks.start(
        call.caller, lambda: _checked(call, CreateMessageParams, params), context=call.context, large=call.large
    )
    return {"taskId": started.task_id}


async def get_message(call: Call, params: dict[str, JsonValue]) -> JsonValue:
    """State of a task, its place in the queue, the text so far, its result or its error."""
    checked = await _checked(call, TaskParams, params)
    view = await call.backend.own_tasks.view(call.caller, checked.task_id)
    return view.model_dump(mode="json", exclude_none=True)


async def cancel_message(call: Call, params: dict[str, JsonValue]) -> JsonValue:
    """Cancels a task that has not ended: `{"cancelled": …, "state": …}`.

    A waiting task is REVOKED at once. A running one is still in its state: its worker stops it within a moment, unless
    it ends first.
    """
    checked = await _checked(call, TaskParams, params)
    cancellation = await call.backend.own_tasks.cancel(call.caller, checked.task_id)
    return cancellation.model_dump(mode="json")


async def stream_token(call: Call, params: dict[str, JsonValue]) -> JsonValue:
    """A token that opens the stream of one of the caller's tasks, for a few minutes."""
    checked = await _checked(call, TaskParams, params)
    record = await call.backend.own_tasks.record(call.caller, checked.task_id, why="stream_token")
    token = await call.backend.stream_tokens.issue(call.caller, record.task_id)
    return StreamToken(stream_token=token, expires_in_seconds=SECONDS).model_dump(mode="json")


async def usage(call: Call, params: dict[str, JsonValue]) -> JsonValue:
    """What the caller's tenant has used, by day and model."""
    checked = await _checked(call, UsageParams, params)
    return (await call.backend.usage.of(call.caller, checked)).model_dump(mode="json")


async def get_conversation(call: Call, params: dict[str, JsonValue]) -> JsonValue:
    """A stored conversation: its messages, and the task whose answer it waits for."""
    checked = await _checked(call, ConversationNamed, params)
    stored = await call.backend.own_conversations.get(call.caller, checked.conversation_id)
    view = ConversationView(
        conversation_id=checked.conversation_id,
        messages=stored.messages,
        open_turn=stored.open_turn,
        metadata=dict(stored.metadata),
    )
    return view.model_dump(mode="json", exclude_none=True)


async def delete_conversation(call: Call, params: dict[str, JsonValue]) -> JsonValue:
    """Forgets a stored conversation: `{"deleted": …}`. Not while a turn of it is open."""
    checked = await _checked(call, ConversationNamed, params)
    deleted = await call.backend.own_conversations.delete(call.caller, checked.conversation_id)
    return ConversationDeletion(deleted=deleted).model_dump(mode="json")


async def tool_list(call: Call, params: dict[str, JsonValue]) -> JsonValue:
    """The server's tool catalogue."""
    await _checked(call, NoParams, params)
    return [tool.model_dump(mode="json", exclude_unset=True) for tool in call.backend.settings.tool_catalogue]


async def model_list(call: Call, params: dict[str, JsonValue]) -> JsonValue:
    """The models, and how busy each is."""
    await _checked(call, NoParams, params)
    return {"models": [model.model_dump(mode="json") for model in await call.backend.models.statuses(call.caller)]}


async def _checked(call: Call, model: type[Params], params: dict[str, JsonValue]) -> Params:
    """Raises InvalidParams. Strict: `"5"` is no number, and names are spelled as on the wire."""

    def check() -> Params:
        try:
            return model.model_validate(params, strict=True, by_alias=True, by_name=False)
        except ValidationError as error:
            raise invalid_params(error, params) from None

    return await asyncio.to_thread(check) if call.large else check()


def _method(call: Callable[[Call, dict[str, JsonValue]], Awaitable[JsonValue]], params: type[WireType]) -> Method[Call]:
    """The method whose parameters are the fields of `params`, in that order where they come by position."""
    return Method(call, tuple(field.alias or name for name, field in params.model_fields.items()))


PARAMS: dict[str, type[WireType]] = {
    "create_message": CreateMessageParams,
    "get_message": TaskParams,
    "cancel_message": TaskParams,
    "get_conversation": ConversationNamed,
    "delete_conversation": ConversationNamed,
    "stream_token": TaskParams,
    "usage": UsageParams,
    "tool_list": NoParams,
    "model_list": NoParams,
}
METHODS = {
    call.__name__: _method(call, PARAMS[call.__name__])
    for call in (
        create_message,
        get_message,
        cancel_message,
        get_conversation,
        delete_conversation,
        stream_token,
        usage,
        tool_list,
        model_list,
    )
}
