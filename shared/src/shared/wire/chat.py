"""Conversations and tools in OpenAI's wire form (names as OpenAI spells them)."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, field_validator, model_validator
from pydantic_core import to_json

from shared.wire.json_text import parse_json

MAX_TOOLS = 128
"""OpenAI's own limit on the number of tools of one request."""

ToolName = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]


class ChatType(BaseModel):
    """Base of the OpenAI-shaped types: unknown fields are refused, so that a typo is an error and not a silence."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)


class TextPart(ChatType):
    """One text part of a message's content list."""

    type: Literal["text"]
    text: str


def _joined(content: Any) -> Any:
    """Text parts joined into one string; anything else is left for the type check to judge."""
    if isinstance(content, list):
        return "".join(TextPart.model_validate(part).text for part in content)
    return content


class SystemMessage(ChatType):
    """Instructions that stand above the conversation (`developer` is OpenAI's newer name for the role)."""

    role: Literal["system", "developer"]
    content: str
    name: str | None = None

    _text = field_validator("content", mode="before")(_joined)


class UserMessage(ChatType):
    """What the user says."""

    role: Literal["user"]
    content: str
    name: str | None = None

    _text = field_validator("content", mode="before")(_joined)


class FunctionCall(ChatType):
    """The function part of a tool call; `arguments` is JSON text, as in OpenAI's API."""

    name: str
    arguments: str

    @field_validator("arguments", mode="before")
    @classmethod
    def _as_text(cls, arguments: Any) -> Any:
        if arguments is None:
            return ""
        return to_json(arguments).decode() if isinstance(arguments, dict) else arguments

    def parsed_arguments(self) -> dict[str, JsonValue]:
        """The arguments as an object; empty text is no arguments. Raises ValueError for anything else."""
        arguments = parse_json(self.arguments.strip() or "{}")
        if not isinstance(arguments, dict):
            raise ValueError("not a JSON object")
        return arguments


class MessageToolCall(ChatType):
    """One tool call inside an assistant message."""

    id: Annotated[str, Field(min_length=1)]
    type: Literal["function"] = "function"
    function: FunctionCall


_SAID_BY_OTHERS = ("annotations", "audio", "function_call")
"""Fields that OpenAI's library writes into every message that it got, empty where they do not apply."""


class AssistantMessage(ChatType):
    """What the model said before: text, tool calls or both; `content: null` without calls is a silence."""

    role: Literal["assistant"]
    content: str | None = None
    name: str | None = None
    refusal: None = None
    tool_calls: Annotated[list[MessageToolCall], Field(fail_fast=True)] | None = None

    _text = field_validator("content", mode="before")(_joined)

    @model_validator(mode="before")
    @classmethod
    def _without_empty_fields(cls, message: Any) -> Any:
        if not isinstance(message, dict):
            return message
        empty = {name for name in _SAID_BY_OTHERS if name in message and message[name] in (None, [])}
        return {name: value for name, value in message.items() if name not in empty} if empty else message

    @model_validator(mode="after")
    def _says_something(self) -> "AssistantMessage":
        if self.content is None and not self.tool_calls:
            if "content" not in self.model_fields_set:
                raise ValueError("an assistant message needs content or tool_calls")
            self.content = ""
        return self


class ToolMessage(ChatType):
    """The result of one tool call; `content: null` is that of a tool that has nothing to say."""

    role: Literal["tool"]
    content: str
    tool_call_id: str
    name: str | None = None

    @field_validator("content", mode="before")
    @classmethod
    def _text(cls, content: Any) -> Any:
        return "" if content is None else _joined(content)


ChatMessage = Annotated[SystemMessage | UserMessage | AssistantMessage | ToolMessage, Field(discriminator="role")]


def _no_parameters() -> dict[str, JsonValue]:
    return {"type": "object", "properties": {}}


class FunctionDefinition(ChatType):
    """A function the model may call; `parameters` is a JSON schema of an object."""

    name: ToolName
    description: str = ""
    parameters: dict[str, JsonValue] = Field(default_factory=_no_parameters)
    strict: bool | None = None

    @field_validator("description", mode="before")
    @classmethod
    def _no_description(cls, description: Any) -> Any:
        return "" if description is None else description

    @field_validator("parameters", mode="before")
    @classmethod
    def _of_an_object(cls, parameters: Any) -> Any:
        """Arguments are an object always: a schema that does not say so, or allows other things too, means the same."""
        if parameters in (None, {}):
            return _no_parameters()
        if not isinstance(parameters, dict):
            return parameters
        kinds = parameters.get("type")
        if kinds is None or (isinstance(kinds, list) and "object" in kinds):
            return {"type": "object"} | parameters | {"type": "object"}
        return parameters


class Tool(ChatType):
    """One entry of `tools`."""

    type: Literal["function"] = "function"
    function: FunctionDefinition


class NamedFunction(ChatType):
    """The name in a tool choice."""

    name: ToolName


class NamedToolChoice(ChatType):
    """`toolChoice` that names the one tool to call."""

    type: Literal["function"]
    function: NamedFunction


ToolChoice = Literal["auto", "none", "required"] | NamedToolChoice


class TextFormat(ChatType):
    """`responseFormat`: free text."""

    type: Literal["text"]


class JsonObjectFormat(ChatType):
    """`responseFormat`: any JSON object."""

    type: Literal["json_object"]


class JsonSchema(ChatType):
    """The schema of a `json_schema` response format."""

    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
    description: str | None = None
    schema_: Annotated[dict[str, JsonValue], Field(alias="schema")]
    strict: bool | None = None

    model_config = ConfigDict(extra="forbid", populate_by_name=True, serialize_by_alias=True)


class JsonSchemaFormat(ChatType):
    """`responseFormat`: a document that the given JSON schema accepts."""

    type: Literal["json_schema"]
    json_schema: JsonSchema


ResponseFormat = Annotated[TextFormat | JsonObjectFormat | JsonSchemaFormat, Field(discriminator="type")]
