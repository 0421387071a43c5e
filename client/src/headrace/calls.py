"""The calls of the protocol: what each sends, and what type its result has."""

import uuid
from collections.abc import Sequence
from typing import Any, Literal, TypedDict

from pydantic.alias_generators import to_camel

from headrace.events import Cancellation, Conversation, Model, TaskView
from headrace.rpc import Call

Message = dict[str, Any]
"""A message in OpenAI's form."""


class LoopPrevention(TypedDict):
    """The tools that are called to wait for something, as the protocol spells them."""

    pollingTools: list[str]


class Options(TypedDict, total=False):
    """What a request may say beside its messages; see `create_message` in the contract of `/rpc`."""

    tools: Sequence[dict[str, Any]]
    tool_choice: Literal["auto", "none", "required"] | dict[str, Any]
    model: str
    conversation_id: str
    max_tokens: int
    temperature: float
    top_p: float
    top_k: int
    stop: str | list[str]
    seed: int
    response_format: dict[str, Any]
    priority: Literal["high", "normal", "low"]
    timeout_seconds: float
    idempotency_key: str
    metadata: dict[str, str]
    cancel_on_disconnect: bool
    loop_prevention: Literal["off"] | LoopPrevention
    parallel_tool_calls: bool
    logprobs: bool
    top_logprobs: int
    store: bool


def creation(messages: str | Sequence[Message], options: Options) -> Call[str]:
    """Creates a task; the result is its id. The idempotency key makes every retry of the call the same task."""
    content = {"message": messages} if isinstance(messages, str) else {"messages": list(messages)}
    key = {"idempotencyKey": uuid.uuid4().hex}
    params = content | key | {to_camel(name): value for name, value in options.items()}
    return Call("create_message", params, lambda result: str(result["taskId"]))


def inspection(task_id: str) -> Call[TaskView]:
    """Reads a task's state, position, text so far, result or error."""
    return Call("get_message", {"taskId": task_id}, TaskView.model_validate)


def cancellation(task_id: str) -> Call[Cancellation]:
    """Cancels a task."""
    return Call("cancel_message", {"taskId": task_id}, Cancellation.model_validate)


def conversation_reading(conversation_id: str) -> Call[Conversation]:
    """Reads a stored conversation."""
    return Call("get_conversation", {"conversationId": conversation_id}, Conversation.model_validate)


def conversation_deletion(conversation_id: str) -> Call[bool]:
    """Forgets a stored conversation; the result is whether there was one."""
    return Call("delete_conversation", {"conversationId": conversation_id}, lambda result: bool(result["deleted"]))


def model_listing() -> Call[list[Model]]:
    """Lists the server's models."""
    return Call("model_list", {}, lambda result: [Model.model_validate(model) for model in result["models"]])
