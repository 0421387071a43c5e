"""A request of `/v1/responses` -> Headrace's own parameters, and what its response repeats of it."""

from pydantic import JsonValue

from api.errors import InvalidParams
from api.http.loop_prevention import loop_prevention_of
from api.invalid_params import invalid_param
from api.responses.requests import AllowedTools, ChosenTool, Format, OfferedTool, ResponseRequest
from api.tasks.thread_params import ThreadParams
from shared.conversation.rules import Place
from shared.wire import chat
from shared.wire.chat import (
    ChatMessage,
    FunctionDefinition,
    JsonObjectFormat,
    JsonSchema,
    JsonSchemaFormat,
    NamedFunction,
    NamedToolChoice,
    TextFormat,
    Tool,
)
from shared.wire.schemas import SamplingDefaults

Json = dict[str, JsonValue]

SPELLED = {"max_tokens": "max_output_tokens", "conversation_id": "conversation"}
"""Parameters that this door has under another name."""


def thread_params(
    wanted: ResponseRequest, messages: list[ChatMessage], *, note: str = "", idempotency_key: str | None = None
) -> ThreadParams:
    """The task's parameters. Raises InvalidParams, or ValidationError for what is beyond Headrace's bounds."""
    return ThreadParams(
        messages=messages,
        goes_on_from=wanted.conversation_id or wanted.previous_response_id,
        conversation_id=wanted.conversation_id,
        keep=wanted.stored,
        store=wanted.stored,
        instructions=wanted.instructions or None,
        tools=tools_of(wanted) or None,
        tool_choice=tool_choice_of(wanted),
        parallel_tool_calls=wanted.parallel_tool_calls,
        response_format=format_of(wanted),
        truncate=wanted.truncation == "auto",
        model=wanted.model,
        max_tokens=wanted.max_output_tokens,
        logprobs=wanted.logprobs,
        top_logprobs=wanted.top_logprobs if wanted.logprobs else None,
        loop_prevention=loop_prevention_of(wanted.loop_prevention),
        temperature=wanted.temperature,
        # 0 is the most likely token alone, as it is with these clients' other servers.
        top_p=None if wanted.top_p is None else max(wanted.top_p, 1e-6),
        idempotency_key=idempotency_key or None,
        metadata=wanted.metadata or None,
        cancel_on_disconnect=not wanted.background,
        note=note,
    )


def refuse_unsupported(wanted: ResponseRequest) -> None:
    """Raises InvalidParams for a field whose meaning this server cannot keep, and for two that exclude each other."""
    refused: list[tuple[str, bool, str]] = [
        (
            "background",
            bool(wanted.background) and not wanted.stored,
            "needs what is stored: this request, or its key, stores nothing",
        ),
        (
            "previous_response_id",
            wanted.previous_response_id is not None and wanted.conversation is not None,
            "cannot be sent with conversation: each says what to go on from",
        ),
        ("prompt", wanted.prompt is not None, "is not supported: send instructions and input"),
    ]
    for name, is_refused, reason in refused:
        if is_refused:
            raise InvalidParams(reason, place=(name,))


def tools_of(wanted: ResponseRequest) -> list[Tool]:
    """The functions that may be called: all of them, or those of `allowed_tools`. Other tools are skipped."""
    tools = [_tool(tool, ("tools", at)) for at, tool in enumerate(wanted.tools or []) if tool.type == "function"]
    if not isinstance(wanted.tool_choice, AllowedTools):
        return tools
    allowed = {tool.name for tool in wanted.tool_choice.tools if tool.type == "function" and tool.name}
    if unknown := allowed - {tool.function.name for tool in tools}:
        raise invalid_param(("tool_choice", "tools"), f"names {min(unknown)!r}, which is not in tools")
    return [tool for tool in tools if tool.function.name in allowed]


def _tool(tool: OfferedTool, place: Place) -> Tool:
    definition: dict[str, object] = {
        "name": tool.name,
        "description": tool.description or "",
        "strict": tool.strict,
    }
    if tool.parameters:
        definition["parameters"] = tool.parameters
    try:
        return Tool(type="function", function=FunctionDefinition.model_validate(definition))
    except ValueError:
        reason = f"{tool.name[:64]!r} is not 1 to 64 letters, digits, '_' and '-'"
        raise invalid_param((*place, "name"), reason) from None


def tool_choice_of(wanted: ResponseRequest) -> chat.ToolChoice | None:
    """`tool_choice` in Headrace's form; None where the request has none. Raises InvalidParams."""
    match wanted.tool_choice:
        case AllowedTools(mode=mode):
            return mode
        case ChosenTool(type="function", name=str(name)):
            return NamedToolChoice(type="function", function=NamedFunction(name=name))
        case ChosenTool(type=kind):
            raise invalid_param(("tool_choice",), f"{kind!r} is not supported: this server's tools are functions")
        case choice:
            return choice


def format_of(wanted: ResponseRequest) -> chat.ResponseFormat | None:
    """`text.format` in Headrace's form. Raises InvalidParams."""
    place: Place = ("text", "format")
    match wanted.text.format if wanted.text else None:
        case None:
            return None
        case Format(type="text"):
            return TextFormat(type="text")
        case Format(type="json_object"):
            return JsonObjectFormat(type="json_object")
        case Format(type="json_schema", schema_=schema, strict=strict):
            if schema is None:
                raise invalid_param((*place, "schema"), "is required")
            named = JsonSchema(name="answer", schema_=schema, strict=strict)
            return JsonSchemaFormat(type="json_schema", json_schema=named)
        case other:
            assert other is not None
            raise invalid_param((*place, "type"), f"{other.type!r} is not one of text, json_object, json_schema")


def echo(wanted: ResponseRequest, model: str, sampling: SamplingDefaults) -> Json:
    """What the response repeats of its request, in the form in which clients look for it: nothing is left out.

    `sampling`: how tokens are chosen where the request does not say.
    """
    text_format = wanted.text.format if wanted.text else None
    text: Json = {"format": {"type": "text"}}
    if text_format is not None:
        form = text_format.model_dump(mode="json", by_alias=True, exclude_unset=True)
        if form["type"] == "json_schema":
            form |= {
                "name": text_format.name,
                "description": text_format.description,
                "strict": bool(text_format.strict),
            }
        text = {"format": form}
    if wanted.text is not None and wanted.text.verbosity is not None:
        text["verbosity"] = wanted.text.verbosity
    tool_choice = wanted.tool_choice or "auto"
    conversation: Json = {"conversation": {"id": wanted.conversation_id}} if wanted.conversation_id else {}
    return conversation | {
        "model": model,
        "instructions": wanted.instructions,
        "previous_response_id": wanted.previous_response_id,
        "tools": [_told(tool) for tool in wanted.tools or [] if tool.type == "function"],
        "tool_choice": tool_choice if isinstance(tool_choice, str) else tool_choice.model_dump(mode="json"),
        "parallel_tool_calls": wanted.parallel_tool_calls is not False,
        "text": text,
        "reasoning": _reasoning(wanted.reasoning),
        "truncation": wanted.truncation or "disabled",
        "max_output_tokens": wanted.max_output_tokens,
        "max_tool_calls": wanted.max_tool_calls,
        "temperature": sampling.temperature if wanted.temperature is None else wanted.temperature,
        "top_p": sampling.top_p if wanted.top_p is None else wanted.top_p,
        "top_logprobs": wanted.top_logprobs or 0,
        "presence_penalty": 0,
        "frequency_penalty": 0,
        "store": wanted.stored,
        "background": bool(wanted.background),
        "service_tier": "default",
        "metadata": dict(wanted.metadata or {}),
        "user": wanted.user,
        "safety_identifier": wanted.safety_identifier,
        "prompt_cache_key": wanted.prompt_cache_key,
    }


def _told(tool: OfferedTool) -> Json:
    return {
        "type": "function",
        "name": tool.name,
        "description": tool.description,
        "parameters": tool.parameters,
        "strict": bool(tool.strict),
    }


def _reasoning(wanted: JsonValue) -> Json:
    """In full, as clients look for it; Codex names the summary alone."""
    named = wanted if isinstance(wanted, dict) else {}
    return {"effort": None, "summary": None, **named}
