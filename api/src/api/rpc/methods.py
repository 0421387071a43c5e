"""The methods of `POST /rpc`."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import JsonValue, ValidationError
from pydantic_core import from_json

from api.auth import Caller
from api.backend import Backend
from api.errors import TaskNotFound, as_api_error
from api.invalid_params import invalid_params
from api.rpc.jsonrpc import Method
from api.tasks.new_task import start_task
from shared.store.event_stream import Entry
from shared.store.task_record import TaskRecord
from shared.telemetry.logs import scope
from shared.wire.schemas import CreateMessageParams, ModelStatus, TaskParams, WireType

LARGE_BODY_BYTES = 64 * 1024
"""Bodies above this are checked in a thread: thousands of messages or schemas take longer than others may wait."""


@dataclass(frozen=True, slots=True)
class Call:
    """What a method knows of the HTTP request that it came in."""

    backend: Backend
    caller: Caller
    context: str = ""
    """Place of the request in its trace (`telemetry.context_text`); empty for none."""
    body_bytes: int = 0

    @property
    def large(self) -> bool:
        return self.body_bytes > LARGE_BODY_BYTES


Params = TypeVar("Params", bound=WireType)


class NoParams(WireType):
    """Parameters of a method that takes none."""


async def create_message(call: Call, params: dict[str, JsonValue]) -> JsonValue:
    """Starts a task: `{"taskId": …}`."""
    with scope(tenant=call.caller.tenant):
        return await _create_message(call, params)


async def _create_message(call: Call, params: dict[str, JsonValue]) -> JsonValue:
    try:
        checked = (
            await asyncio.to_thread(_checked, CreateMessageParams, params)
            if call.large
            else _checked(CreateMessageParams, params)
        )
        task_id = await start_task(call.backend, call.caller, checked, context=call.context, large=call.large)
    except Exception as error:
        refusal = as_api_error(error)
        metrics = call.backend.metrics
        metrics.refused.labels(type(refusal).__name__).inc()
        metrics.refused_of_tenant.labels(metrics.tenant_label(call.caller.tenant)).inc()
        raise refusal from None
    return {"taskId": task_id}


async def get_message(call: Call, params: dict[str, JsonValue]) -> JsonValue:
    """State of a task, its place in the queue, the text so far, its result or its error."""
    task_id = _checked(TaskParams, params).task_id
    backend = call.backend
    async with asyncio.timeout(backend.settings.redis_timeout):
        record = await _own_task(call, task_id)
        view: dict[str, JsonValue] = {"taskId": task_id, "state": record.wire_state}
        if record.state == "waiting":
            view["position"] = await backend.lists.position(task_id, record.model)
        outcome = from_json(record.outcome) if record.outcome else {}
        kind = outcome.pop("type", None)
        outcome.pop("taskId", None)
        if kind in ("final_text", "tool_calls"):
            return view | {
                "text": outcome["text"], "index": outcome["usage"]["completionTokens"], "result": outcome
            }  # fmt: skip
        text, index = _partial(await backend.stream.read(task_id))
    view |= {"text": text, "index": index}
    return view | {"error": outcome} if kind == "error" else view


def _partial(entries: Sequence[Entry]) -> tuple[str, int]:
    """The text since the last restart, and the number of its tokens."""
    texts: list[str] = []
    index = 0
    for entry in entries:
        if entry.type == "token" and entry.data:
            data: dict[str, Any] = from_json(entry.data)
            texts.append(data["text"])
            index = data["index"]
        elif entry.restarts:
            texts, index = [], 0
    return "".join(texts), index


async def cancel_message(call: Call, params: dict[str, JsonValue]) -> JsonValue:
    """Cancels a task that has not ended: `{"cancelled": …, "state": …}`.

    A waiting task is REVOKED at once. A running one is still in its state: its worker stops it within a moment, unless
    it ends first.
    """
    task_id = _checked(TaskParams, params).task_id
    backend = call.backend
    async with asyncio.timeout(backend.settings.redis_timeout):
        outcome, state = await backend.ledger.cancel(task_id, call.caller.tenant)
    if outcome == "missing":
        raise TaskNotFound
    if outcome == "revoked":
        record = await backend.ledger.get(task_id)
        if record is not None:
            backend.metrics.ended.labels(record.model, "REVOKED", "cancelled").inc()
        await backend.publisher.revoke_result(task_id)
    return {"cancelled": outcome != "ended" or state == "REVOKED", "state": state}


async def _own_task(call: Call, task_id: str) -> TaskRecord:
    """The task's record; another tenant's task is as unknown as one that never was. Raises TaskNotFound."""
    record = await call.backend.ledger.get(task_id)
    if record is None or record.tenant != call.caller.tenant:
        raise TaskNotFound
    return record


async def tool_list(call: Call, params: dict[str, JsonValue]) -> JsonValue:
    """The server's tool catalogue."""
    _checked(NoParams, params)
    return [tool.model_dump(mode="json", exclude_unset=True) for tool in call.backend.settings.tool_catalogue]


async def model_list(call: Call, params: dict[str, JsonValue]) -> JsonValue:
    """The models, and how busy each is."""
    _checked(NoParams, params)
    settings = call.backend.settings
    async with asyncio.timeout(settings.redis_timeout):
        models = await asyncio.gather(*(_model_status(call.backend, name) for name in settings.models))
    return {"models": [model.model_dump(mode="json") for model in models]}


async def _model_status(backend: Backend, name: str) -> ModelStatus:
    load, workers, card = await asyncio.gather(
        backend.lists.load(name), backend.registry.ready(name), backend.registry.card(name)
    )
    return ModelStatus(
        name=name,
        default=name == (backend.settings.default_model or backend.settings.models[0]),
        ready=workers > 0,
        ready_workers=workers,
        waiting=load.waiting,
        running=load.running,
        context_length=card.context_length if card else None,
        abilities=card.abilities if card else None,
    )


def _checked(model: type[Params], params: dict[str, JsonValue]) -> Params:
    """Raises InvalidParams. Strict: `"5"` is no number, and names are spelled as on the wire."""
    try:
        return model.model_validate(params, strict=True, by_alias=True, by_name=False)
    except ValidationError as error:
        raise invalid_params(error, params) from None


METHODS: dict[str, Method[Call]] = {
    "create_message": Method(
        create_message,
        (
            "messages",
            "history",
            "message",
            "tools",
            "toolChoice",
            "model",
            "conversationId",
            "maxTokens",
            "temperature",
            "topP",
            "topK",
            "stop",
            "seed",
            "responseFormat",
            "priority",
            "timeoutSeconds",
            "idempotencyKey",
            "metadata",
            "cancelOnDisconnect",
        ),
    ),
    "get_message": Method(get_message, ("taskId",)),
    "cancel_message": Method(cancel_message, ("taskId",)),
    "tool_list": Method(tool_list),
    "model_list": Method(model_list),
}
