"""Anthropic's messages and tools -> Headrace's own types; what cannot be kept is refused by name."""

import json
from collections.abc import Iterator, Sequence

from api.anthropic.requests import Block, Content, Conversation, OfferedTool, Turn
from api.invalid_params import invalid_param
from shared.conversation.rules import Place
from shared.wire import chat
from shared.wire.chat import (
    AssistantMessage,
    ChatMessage,
    FunctionCall,
    FunctionDefinition,
    MessageToolCall,
    NamedFunction,
    NamedToolChoice,
    SystemMessage,
    Tool,
    ToolMessage,
    UserMessage,
)

THOUGHTS = ("thinking", "redacted_thinking")
"""Blocks of an earlier answer that are not shown to the model again."""


def messages_of(request: Conversation) -> list[ChatMessage]:
    """The conversation. Raises InvalidParams for a block that this server does not have."""
    messages: list[ChatMessage] = []
    if request.system:
        messages.append(SystemMessage(role="system", content=_text(request.system, ("system",))))
    for at, turn in enumerate(request.messages):
        messages += _turn(turn, ("messages", at, "content"))
    return messages


def _turn(turn: Turn, place: Place) -> Iterator[ChatMessage]:
    if turn.role == "system":
        yield SystemMessage(role="system", content=_text(turn.content, place))
    elif isinstance(turn.content, str):
        yield _plain(turn.role, turn.content)
    elif turn.role == "assistant":
        yield _assistant(turn.content, place)
    else:
        # One user turn holds the results of a round and, behind them, what the user adds.
        texts: list[str] = []
        for at, block in enumerate(turn.content):
            if block.type == "tool_result":
                yield _result(block, (*place, at))
            else:
                texts.append(_text([block], place, first=at))
        if texts:
            yield _plain("user", "".join(texts))


def _plain(role: str, text: str) -> ChatMessage:
    return (
        AssistantMessage(role="assistant", content=text)
        if role == "assistant"
        else UserMessage(role="user", content=text)
    )


def _assistant(blocks: Sequence[Block], place: Place) -> AssistantMessage:
    calls = [_call(block, (*place, at)) for at, block in enumerate(blocks) if block.type == "tool_use"]
    said = [block for block in blocks if block.type not in ("tool_use", *THOUGHTS)]
    text = _text(said, place)
    return AssistantMessage(role="assistant", content=text or (None if calls else ""), tool_calls=calls or None)


def _call(block: Block, place: Place) -> MessageToolCall:
    if not block.id or not block.name:
        raise invalid_param(place, "a tool_use needs an id and a name")
    function = FunctionCall(name=block.name, arguments=json.dumps(block.input or {}, ensure_ascii=False))
    return MessageToolCall(id=block.id, type="function", function=function)


def _result(block: Block, place: Place) -> ToolMessage:
    if not block.tool_use_id:
        raise invalid_param((*place, "tool_use_id"), "is required")
    text = _text(block.content or "", (*place, "content"))
    return ToolMessage(
        role="tool", content=f"Error: {text}" if block.is_error else text, tool_call_id=block.tool_use_id
    )


def _text(content: Content, place: Place, first: int = 0) -> str:
    """Text blocks joined; `first` is where the first one stands at its place."""
    if isinstance(content, str):
        return content
    for at, block in enumerate(content, first):
        if block.type != "text" or block.text is None:
            raise invalid_param((*place, at), f"{block.type!r} is not supported here: this model reads text only")
    return "".join(block.text or "" for block in content)


def tools_of(request: Conversation) -> list[Tool]:
    """The tools. Raises InvalidParams for one that runs at Anthropic."""
    return [_tool(tool, ("tools", at)) for at, tool in enumerate(request.tools or [])]


def _tool(tool: OfferedTool, place: Place) -> Tool:
    if tool.type not in (None, "custom"):
        raise invalid_param((*place, "type"), f"{tool.type!r} is not supported: this server runs no tools itself")
    definition: dict[str, object] = {"name": tool.name, "description": tool.description or ""}
    if tool.input_schema:
        definition["parameters"] = tool.input_schema
    try:
        return Tool(type="function", function=FunctionDefinition.model_validate(definition))
    except ValueError:
        raise invalid_param((*place, "name"), _not_a_name(tool.name)) from None


def _not_a_name(name: str) -> str:
    return f"{name[:80]!r} is not 1 to 64 letters, digits, '_' and '-'"


def tool_choice_of(request: Conversation) -> chat.ToolChoice | None:
    """`tool_choice` in Headrace's form; None where the request has none. Raises InvalidParams."""
    choice = request.tool_choice
    if choice is None:
        return None
    match choice.type:
        case "tool":
            if not choice.name:
                raise invalid_param(("tool_choice", "name"), "is required")
            try:
                return NamedToolChoice(type="function", function=NamedFunction(name=choice.name))
            except ValueError:
                raise invalid_param(("tool_choice", "name"), _not_a_name(choice.name)) from None
        case "any":
            return "required"
        case kind:
            return kind


def parallel_calls_of(request: Conversation) -> bool | None:
    """False where the answer shall end with its first call; None where the request does not say."""
    return False if request.tool_choice is not None and request.tool_choice.disable_parallel_tool_use else None
