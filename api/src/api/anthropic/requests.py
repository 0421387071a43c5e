"""What Anthropic's clients send, read as they send it: lenient where Headrace's own types are strict."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from api.http.loop_prevention import WantedLoopPrevention
from shared.wire.chat import MAX_TOOLS


class AnthropicType(BaseModel):
    """Base of the types that clients of `/v1/messages` send; fields that mean nothing here are ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True, use_attribute_docstrings=True)


class Block(AnthropicType):
    """One block of a message's content, of any type."""

    type: str
    text: str | None = None
    id: str | None = None
    name: str | None = None
    input: dict[str, JsonValue] | None = None
    tool_use_id: str | None = None
    content: "str | list[Block] | None" = None
    """Of a `tool_result`."""
    is_error: bool | None = None


Content = str | list[Block]


class Turn(AnthropicType):
    """One message of the conversation."""

    role: Literal["user", "assistant", "system"]
    content: Content


class OfferedTool(AnthropicType):
    """One entry of `tools`; those with a `type` of their own run at Anthropic."""

    name: str
    type: str | None = None
    description: str | None = None
    input_schema: dict[str, JsonValue] | None = None


class ToolChoice(AnthropicType):
    """Whether tools are called."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class Conversation(AnthropicType):
    """What `POST /v1/messages` and `POST /v1/messages/count_tokens` have in common."""

    model: str
    messages: Annotated[list[Turn], Field(min_length=1, fail_fast=True)]
    system: Content | None = None
    tools: Annotated[list[OfferedTool], Field(max_length=MAX_TOOLS, fail_fast=True)] | None = None
    tool_choice: ToolChoice | None = None


class MessageRequest(Conversation):
    """The body of `POST /v1/messages`."""

    max_tokens: Annotated[int, Field(ge=1)]
    stop_sequences: list[str] | None = None
    stream: bool | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0)] | None = None
    metadata: dict[str, Any] | None = None
    thinking: JsonValue = None
    """Ignored: whether a model thinks is its own and its template's decision; what it thinks comes as `thinking`."""
    loop_prevention: WantedLoopPrevention | None = None
    """Not Anthropic's: what repeated tool calls may do in this request."""
