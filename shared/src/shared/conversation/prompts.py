"""History, message and tools -> the conversation that the model is given."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from shared.conversation.loop_prevention import LoopPolicy, ToolLoop, prevent_loops
from shared.conversation.rules import InvalidConversation, Place, check_conversation, in_call_order
from shared.json_schema.json_schemas import InvalidSchema, usable_schema
from shared.wire.chat import (
    AssistantMessage,
    ChatMessage,
    JsonSchemaFormat,
    NamedToolChoice,
    ResponseFormat,
    SystemMessage,
    Tool,
    ToolChoice,
    ToolMessage,
    UserMessage,
)
from shared.wire.schemas import CreateMessageParams, Guard, LoopPrevention


@dataclass(frozen=True, slots=True)
class Assembled:
    """What `create_message` puts into the request."""

    messages: list[ChatMessage]
    """After loop prevention, results of tools in the order of their calls: for the model."""
    conversation: list[ChatMessage]
    """As the client sees it: for the conversation's store."""
    tools: list[Tool]
    tool_choice: ToolChoice
    guard: Guard | None


def assemble(
    params: CreateMessageParams,
    policy: LoopPolicy,
    conversation: Sequence[ChatMessage] | None = None,
    *,
    lenient: bool = False,
    instructions: str | None = None,
) -> Assembled:
    """The checked, guarded conversation of one request.

    One of three forms: `messages`; `message` with or without `history`; or, behind a stored `conversation`, what is
    new in it: `message`, or `messages` of tool results and user messages. With a `prompt` there is none.

    `lenient`: as `check_conversation` has it; any message may be added to a stored conversation then.
    `instructions`: a system message that the model sees in front of all others; it is no part of the conversation.

    Tools and a `responseFormat` go together: the format binds a text answer, a tool call may come in its place.

    Raises InvalidConversation for what the client got wrong, ToolLoop when `toolChoice` demands a call and loop
    prevention forbids one.
    """
    if params.max_tokens == 0 and not params.echo:
        raise InvalidConversation(("max_tokens",), "must be at least 1: 0 is for a `prompt` that is echoed")
    if params.prompt is not None:
        return _without_conversation(params)
    if params.echo:
        raise InvalidConversation(("echo",), "needs a `prompt`")
    placed = _placed(params, conversation, lenient=lenient)
    whole = [message for _, message in placed]
    check_conversation(whole, [place for place, _ in placed], lenient=lenient)
    tools = params.tools or []
    tool_choice = _checked_choice(tools, params.tool_choice)
    _check_format(params.response_format)
    above: list[ChatMessage] = [] if instructions is None else [SystemMessage(role="system", content=instructions)]
    guarded = prevent_loops(above + in_call_order(whole), _policy(params.loop_prevention, policy, whole, tools))
    if guarded.guard is not None and guarded.guard.tools_withheld and tools:
        if tool_choice == "required" or isinstance(tool_choice, NamedToolChoice):
            raise ToolLoop(guarded.guard)
        tools, tool_choice = [], "none"
    return Assembled(guarded.messages, whole, tools, tool_choice, guarded.guard)


_OF_CONVERSATIONS = (
    "messages",
    "history",
    "message",
    "tools",
    "tool_choice",
    "conversation_id",
    "response_format",
    "loop_prevention",
)


def _without_conversation(params: CreateMessageParams) -> Assembled:
    for name in _OF_CONVERSATIONS:
        if getattr(params, name) is not None:
            raise InvalidConversation((name,), "cannot be sent with a `prompt`")
    return Assembled([], [], [], "none", None)


def _policy(
    wanted: Literal["off"] | LoopPrevention | None,
    policy: LoopPolicy,
    messages: Sequence[ChatMessage],
    tools: Sequence[Tool],
) -> LoopPolicy:
    """The server's policy as the client wants it for this request."""
    if wanted is None:
        return policy
    if wanted == "off":
        return replace(policy, enabled=False)
    known = {tool.function.name for tool in tools}
    for message in messages:
        if isinstance(message, AssistantMessage):
            known |= {call.function.name for call in message.tool_calls or []}
    for at, name in enumerate(wanted.polling_tools):
        if name not in known:
            raise InvalidConversation(
                ("loop_prevention", "pollingTools", at), f"names the tool {name!r}, which is not in `tools`"
            )
    return replace(policy, polling_tools=frozenset(wanted.polling_tools))


def _placed(
    params: CreateMessageParams, conversation: Sequence[ChatMessage] | None, *, lenient: bool
) -> list[tuple[Place, ChatMessage]]:
    """Every message with its place."""
    if params.messages is not None and (params.message is not None or params.history is not None):
        raise InvalidConversation((), "send either `messages`, or `message` with `history`, not both")
    if params.history is not None and params.message is None:
        raise InvalidConversation((), "`history` needs a `message` that follows it")
    if params.history is not None and conversation is not None:
        raise InvalidConversation((), "`history` cannot be sent for a stored conversation: it has one")
    placed: list[tuple[Place, ChatMessage]] = []
    placed += [(("conversation", at), message) for at, message in enumerate(conversation or [])]
    placed += [(("history", at), message) for at, message in enumerate(params.history or [])]
    for at, message in enumerate(params.messages or []):
        if conversation is not None and not lenient and not isinstance(message, UserMessage | ToolMessage):
            raise InvalidConversation(
                ("messages", at), "only tool and user messages may be added to a stored conversation"
            )
        placed.append((("messages", at), message))
    if params.message is not None:
        said = params.message
        placed.append((("message",), UserMessage(role="user", content=said) if isinstance(said, str) else said))
    elif params.messages is None:
        raise InvalidConversation((), "there is no message: send `messages`, or `message`")
    return placed


def _checked_choice(tools: Sequence[Tool], choice: ToolChoice | None) -> ToolChoice:
    names: set[str] = set()
    for at, tool in enumerate(tools):
        if tool.function.name in names:
            raise InvalidConversation(("tools", at), f"the name {tool.function.name!r} is used twice")
        names.add(tool.function.name)
        try:
            usable_schema(tool.function.parameters, of_tool=True)
        except InvalidSchema as error:
            place = "tools", at, "function", "parameters"
            raise InvalidConversation(
                place, f"is not a usable schema of the tool {tool.function.name!r}: {error}"
            ) from None
    if isinstance(choice, NamedToolChoice) and choice.function.name not in names:
        raise InvalidConversation(("tool_choice",), f"names the tool {choice.function.name!r}, which is not in `tools`")
    if choice == "required" and not tools:
        raise InvalidConversation(("tool_choice",), "is `required`, but there are no `tools`")
    return choice or ("auto" if tools else "none")


def _check_format(response_format: ResponseFormat | None) -> None:
    if isinstance(response_format, JsonSchemaFormat):
        try:
            usable_schema(response_format.json_schema.schema_, of_tool=False)
        except InvalidSchema as error:
            place = "response_format", "json_schema", "schema"
            raise InvalidConversation(place, f"is not a usable schema: {error}") from None


TOOL_PROMPT = """\
You may call one or more functions to assist with the user query. You are provided with function signatures within \
<tools></tools> XML tags:
<tools>
{signatures}
</tools>

For each function call, return a json object with function name and arguments within <tool_call></tool_call> XML tags:
<tool_call>
{{"name": <function-name>, "arguments": <args-json-object>}}
</tool_call>

The results come back within <tool_response></tool_response> XML tags. Use them to answer; call a function only when \
it is needed."""


def with_tool_prompt(
    messages: Sequence[ChatMessage], tools: Sequence[Tool], tool_choice: ToolChoice
) -> list[dict[str, str]]:
    """The conversation in plain role and content, for a chat template that knows no tools (Hermes form).

    Tools are declared in one leading system message, calls are text of the assistant, results are user turns. The text
    of a message depends on that message alone, so a longer conversation starts with the same prompt. `required` and a
    named tool change nothing here: the grammar enforces them, and the prompt stays the same for the prefix cache.
    """
    system = [message.content for message in messages if isinstance(message, SystemMessage)]
    if tools and tool_choice != "none":
        system.append(TOOL_PROMPT.format(signatures="\n".join(_signature(tool) for tool in tools)))
    turns = [{"role": "system", "content": "\n\n".join(system)}] if system else []
    in_results = False
    for message in messages:
        match message:
            case UserMessage():
                turns.append({"role": "user", "content": message.content})
            case AssistantMessage():
                turns.append({"role": "assistant", "content": _said(message)})
            case ToolMessage():
                response = f"<tool_response>\n{message.content}\n</tool_response>"
                if in_results:
                    turns[-1]["content"] += "\n" + response
                else:
                    turns.append({"role": "user", "content": response})
        in_results = isinstance(message, ToolMessage)
    return turns


def _signature(tool: Tool) -> str:
    function = tool.function.model_dump(include={"name", "description", "parameters"})
    return json.dumps({"type": "function", "function": function}, ensure_ascii=False)


def _said(message: AssistantMessage) -> str:
    calls = [
        {"name": call.function.name, "arguments": call.function.parsed_arguments()} for call in message.tool_calls or []
    ]
    parts = [f"<tool_call>\n{json.dumps(call, ensure_ascii=False)}\n</tool_call>" for call in calls]
    return "\n".join([message.content, *parts] if message.content else parts)
