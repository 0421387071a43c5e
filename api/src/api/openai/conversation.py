"""OpenAI's messages, tools and formats -> Headrace's own types; what cannot be kept is refused by name."""

from collections.abc import Sequence

from api.errors import InvalidParams
from api.invalid_params import invalid_param
from api.openai.requests import (
    AllowedToolsChoice,
    CallInHistory,
    ChatRequest,
    Content,
    Generation,
    Message,
    NamedTool,
    OfferedTool,
    ResponseFormat,
)
from shared.conversation.rules import Place
from shared.wire import chat
from shared.wire.chat import (
    AssistantMessage,
    ChatMessage,
    FunctionCall,
    FunctionDefinition,
    JsonObjectFormat,
    JsonSchema,
    JsonSchemaFormat,
    MessageToolCall,
    NamedFunction,
    NamedToolChoice,
    SystemMessage,
    TextFormat,
    Tool,
    ToolMessage,
    UserMessage,
)


def messages_of(messages: Sequence[Message]) -> list[ChatMessage]:
    """The conversation. Raises InvalidParams for a role, a part or a call that this server does not have."""
    return [_message(message, ("messages", at)) for at, message in enumerate(messages)]


def _message(message: Message, place: Place) -> ChatMessage:
    match message.role:
        case "system" | "developer":
            return SystemMessage(role=message.role, content=_text(message.content, place), name=message.name)
        case "user":
            return UserMessage(role="user", content=_text(message.content, place), name=message.name)
        case "assistant":
            return _assistant(message, place)
        case "tool":
            if not message.tool_call_id:
                raise invalid_param((*place, "tool_call_id"), "is required")
            return ToolMessage(
                role="tool", content=_text(message.content, place), tool_call_id=message.tool_call_id, name=message.name
            )
        case role:
            raise invalid_param((*place, "role"), f"{role!r} is not one of system, developer, user, assistant, tool")


def _assistant(message: Message, place: Place) -> AssistantMessage:
    if message.function_call is not None:
        raise invalid_param((*place, "function_call"), "is not supported: send tool_calls")
    calls = [_call(call, (*place, "tool_calls", at)) for at, call in enumerate(message.tool_calls or [])]
    said = _text(message.content, place) if message.content else message.refusal or ""
    # An SDK sends back an empty answer as it got it: without content, without calls.
    content = said or (None if calls else "")
    return AssistantMessage(role="assistant", content=content, name=message.name, tool_calls=calls or None)


def _call(call: CallInHistory, place: Place) -> MessageToolCall:
    if call.type != "function" or call.function is None:
        raise invalid_param((*place, "type"), f"{call.type!r} is not supported: this server's tools are functions")
    function = FunctionCall(name=call.function.name, arguments=call.function.arguments)
    return MessageToolCall(id=call.id, type="function", function=function)


def _text(content: Content, place: Place) -> str:
    if content is None:
        raise invalid_param((*place, "content"), "is required")
    if isinstance(content, str):
        return content
    texts = []
    for at, part in enumerate(content):
        if part.type not in ("text", "refusal"):
            raise invalid_param((*place, "content", at), f"{part.type!r} is not supported: this model reads text only")
        text = part.text if part.type == "text" else part.refusal
        if text is None:
            raise invalid_param((*place, "content", at, part.type), "is required")
        texts.append(text)
    return "".join(texts)


def tools_of(request: ChatRequest) -> list[Tool]:
    """The tools that may be called: all of them, or those of `allowed_tools`. Raises InvalidParams."""
    tools = [_tool(tool, ("tools", at)) for at, tool in enumerate(request.tools or [])]
    if not isinstance(request.tool_choice, AllowedToolsChoice):
        return tools
    allowed = {named.function.name for named in request.tool_choice.allowed_tools.tools}
    if unknown := allowed - {tool.function.name for tool in tools}:
        raise invalid_param(("tool_choice", "allowed_tools"), f"names {sorted(unknown)[0]!r}, which is not in tools")
    return [tool for tool in tools if tool.function.name in allowed]


def _tool(tool: OfferedTool, place: Place) -> Tool:
    if tool.type != "function" or tool.function is None:
        raise invalid_param((*place, "type"), f"{tool.type!r} is not supported: this server's tools are functions")
    function = tool.function
    definition: dict[str, object] = {
        "name": function.name,
        "description": function.description or "",
        "strict": function.strict,
    }
    if function.parameters:
        definition["parameters"] = function.parameters
    try:
        return Tool(type="function", function=FunctionDefinition.model_validate(definition))
    except ValueError:
        raise invalid_param((*place, "function", "name"), not_a_name(function.name)) from None


def not_a_name(name: str) -> str:
    """Why it is no name of a tool."""
    return f"{name[:80]!r} is not 1 to 64 letters, digits, '_' and '-'"


def tool_choice_of(request: ChatRequest) -> chat.ToolChoice | None:
    """`tool_choice` in Headrace's form; None where the request has none. Raises InvalidParams."""
    match request.tool_choice:
        case NamedTool(function=function):
            try:
                return NamedToolChoice(type="function", function=NamedFunction(name=function.name))
            except ValueError:
                raise invalid_param(("tool_choice", "function", "name"), not_a_name(function.name)) from None
        case AllowedToolsChoice(allowed_tools=allowed):
            return allowed.mode
        case choice:
            return choice


def format_of(wanted: ResponseFormat | None) -> chat.ResponseFormat | None:
    """`response_format` in Headrace's form. Raises InvalidParams."""
    place: Place = ("response_format",)
    match wanted:
        case None:
            return None
        case ResponseFormat(type="text"):
            return TextFormat(type="text")
        case ResponseFormat(type="json_object"):
            return JsonObjectFormat(type="json_object")
        case ResponseFormat(type="json_schema", json_schema=named):
            if named is None or named.schema_ is None:
                raise invalid_param((*place, "json_schema", "schema"), "is required")
            schema = JsonSchema(name="answer", schema_=named.schema_, strict=named.strict)
            return JsonSchemaFormat(type="json_schema", json_schema=schema)
        case _:
            raise invalid_param((*place, "type"), f"{wanted.type!r} is not one of text, json_object, json_schema")


Unsupported = Sequence[tuple[str, bool, str]]
"""A field, whether the request demands what this server has not, and why it is refused."""


def refuse_unsupported(request: ChatRequest) -> None:
    """Raises InvalidParams for a field whose meaning this server cannot keep."""
    unsupported: Unsupported = [
        ("audio", request.audio is not None, "is not supported: this server makes text"),
        ("modalities", bool(set(request.modalities or ()) - {"text"}), "only text is supported"),
        ("functions", request.functions is not None, "is not supported: send tools"),
        ("function_call", request.function_call is not None, "is not supported: send tool_choice"),
        ("web_search_options", request.web_search_options is not None, "is not supported"),
    ]
    refuse([*unsupported_of(request), *unsupported])


def unsupported_of(request: Generation) -> Unsupported:
    """Of the fields that chat completions and completions have in common."""
    return [
        ("n", (request.n or 1) > 1, "only 1 is supported: send the request again for another answer"),
        ("frequency_penalty", bool(request.frequency_penalty), "is not supported: only 0 is"),
        ("presence_penalty", bool(request.presence_penalty), "is not supported: only 0 is"),
        ("logit_bias", bool(request.logit_bias), "is not supported"),
    ]


def refuse(unsupported: Unsupported) -> None:
    """Raises InvalidParams for the first that the request demands."""
    for name, demanded, reason in unsupported:
        if demanded:
            raise InvalidParams(reason, place=(name,))
