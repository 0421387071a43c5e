"""Items, as clients of `/v1/responses` have them <-> the messages of Headrace's conversations."""

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import JsonValue

from api.invalid_params import invalid_param
from api.responses.requests import Content, Item
from shared.conversation.rules import Place
from shared.wire.chat import (
    AssistantMessage,
    ChatMessage,
    FunctionCall,
    MessageToolCall,
    SystemMessage,
    ToolMessage,
    UserMessage,
)

Json = dict[str, JsonValue]


@dataclass(frozen=True, slots=True)
class Messages:
    """Messages, and where in the client's list each one began."""

    messages: list[ChatMessage]
    places: list[Place]

    def place(self, place: Place) -> Place:
        """The client's own place for one in these messages; any other as it is."""
        match place:
            case ("messages", int(at), *inside) if at < len(self.places):
                return (*self.places[at], *inside)
            case _:
                return place


def messages_of(items: str | Sequence[Item], at: str = "input") -> Messages:
    """The messages that these items are. Raises InvalidParams, by the item's place in the field `at`.

    A run of calls is one round, together with what the assistant said right before it. Reasoning is not shown to the
    model again.
    """
    if isinstance(items, str):
        return Messages([UserMessage(role="user", content=items)], [(at,)])
    messages: list[ChatMessage] = []
    places: list[Place] = []
    for number, item in enumerate(items):
        place: Place = (at, number)
        if item.kind == "function_call" and messages and isinstance(last := messages[-1], AssistantMessage):
            # In place: of a run of thousands no list is made again and again.
            last.tool_calls = last.tool_calls or []
            last.tool_calls.append(_call(item, place))
        elif (message := _message(item, place)) is not None:
            messages.append(message)
            places.append(place)
    return Messages(messages, places)


def _message(item: Item, place: Place) -> ChatMessage | None:
    match item.kind:
        case "message":
            return _said(item, place)
        case "function_call":
            return AssistantMessage(role="assistant", content=None, tool_calls=[_call(item, place)])
        case "function_call_output":
            if not item.call_id:
                raise invalid_param((*place, "call_id"), "is required")
            return ToolMessage(role="tool", content=_text(item.output, (*place, "output")), tool_call_id=item.call_id)
        case "reasoning":
            return None
        case other:
            raise invalid_param(
                (*place, "type"), f"{other!r} is not supported: this server knows messages and functions"
            )


def _said(item: Item, place: Place) -> ChatMessage | None:
    text = _text(item.content, (*place, "content"))
    match item.role:
        case "system" | "developer":
            return SystemMessage(role=item.role, content=text)
        case "user":
            return UserMessage(role="user", content=text)
        case "assistant":
            # A message whose content is void: another revision of the model began the answer anew.
            return AssistantMessage(role="assistant", content=text) if item.content != [] else None
        case None:
            raise invalid_param((*place, "role"), "is required")
        case role:
            raise invalid_param((*place, "role"), f"{role!r} is not one of system, developer, user, assistant")


def _call(item: Item, place: Place) -> MessageToolCall:
    if not item.call_id:
        raise invalid_param((*place, "call_id"), "is required")
    if not item.name:
        raise invalid_param((*place, "name"), "is required")
    return MessageToolCall(id=item.call_id, function=FunctionCall(name=item.name, arguments=item.arguments or ""))


def _text(content: Content | None, place: Place) -> str:
    if content is None:
        raise invalid_param(place, "is required")
    if isinstance(content, str):
        return content
    texts = []
    for at, part in enumerate(content):
        match part.type:
            case "input_text" | "output_text" | "text":
                text = part.text
            case "refusal":
                text = part.refusal
            case other:
                raise invalid_param((*place, at), f"{other!r} is not supported: this model reads text only")
        if text is None:
            raise invalid_param((*place, at, "text"), "is required")
        texts.append(text)
    return "".join(texts)


@dataclass(frozen=True, slots=True)
class Listed:
    """An item of a stored conversation, and where it is in there."""

    item: Json
    message: int
    """Index of its message."""
    call: int | None = None
    """Index of its call in the message; None for what the message says."""

    @property
    def id(self) -> str:
        return str(self.item["id"])


def items_of(messages: Sequence[ChatMessage]) -> list[Listed]:
    """The items of a conversation, each with an id that it keeps while others come and go.

    The id is made of what the item says; of equal ones the first is told from the second by their number.
    """
    listed: list[Listed] = []
    seen: Counter[str] = Counter()

    def add(prefix: str, item: Json, message: int, call: int | None = None) -> None:
        said = json.dumps(item, ensure_ascii=False, sort_keys=True)
        seen[said] += 1
        digest = hashlib.blake2b(f"{seen[said]} {said}".encode(), digest_size=16).hexdigest()
        listed.append(Listed({"id": f"{prefix}_{digest}", **item}, message, call))

    for at, message in enumerate(messages):
        match message:
            case ToolMessage():
                output: Json = {"call_id": message.tool_call_id, "output": message.content}
                add("fco", {"type": "function_call_output", **output, "status": "completed"}, at)
            case AssistantMessage():
                if message.content or not message.tool_calls:
                    text: Json = {"type": "output_text", "text": message.content, "annotations": [], "logprobs": []}
                    add("msg", _listed_message("assistant", text), at)
                for number, call in enumerate(message.tool_calls or []):
                    said: Json = {"call_id": call.id, "name": call.function.name, "arguments": call.function.arguments}
                    add("fc", {"type": "function_call", **said, "status": "completed"}, at, number)
            case _:
                add("msg", _listed_message(message.role, {"type": "input_text", "text": message.content}), at)
    return listed


def _listed_message(role: str, part: Json) -> Json:
    return {"type": "message", "role": role, "status": "completed", "content": [part]}


def without(messages: Sequence[ChatMessage], gone: Listed) -> list[ChatMessage]:
    """The conversation without one of its items."""
    kept = list(messages)
    message = kept[gone.message]
    if not isinstance(message, AssistantMessage) or not message.tool_calls:
        del kept[gone.message]
        return kept
    calls = [call for at, call in enumerate(message.tool_calls) if at != gone.call]
    content = None if gone.call is None else message.content
    if calls or content:
        kept[gone.message] = AssistantMessage(role="assistant", content=content, tool_calls=calls or None)
    else:
        del kept[gone.message]
    return kept
