"""What clients of `/v1/responses` and `/v1/conversations` send, read as they send it.

Lenient as the other doors of these clients: what they send back as history is what a response held, field by field.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from api.http.loop_prevention import WantedLoopPrevention
from shared.wire.chat import MAX_TOOLS
from shared.wire.schemas import Metadata


class ResponsesType(BaseModel):
    """Base of these types."""

    model_config = ConfigDict(extra="ignore", frozen=True, use_attribute_docstrings=True)


class ContentPart(ResponsesType):
    """One part of an item's content; only text is understood."""

    type: str
    text: str | None = None
    refusal: str | None = None


Content = str | list[ContentPart]


class Item(ResponsesType):
    """An item of any type; a message may leave its type out, and so may a reference."""

    type: str | None = None
    id: str | None = None
    role: str | None = None
    content: Content | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None
    output: Content | None = None

    @property
    def kind(self) -> str:
        """Its type, said or not."""
        return self.type or ("item_reference" if self.role is None and self.id else "message")


class OfferedTool(ResponsesType):
    """A tool; those of a type other than `function` are skipped."""

    type: str
    name: str = ""
    description: str | None = None
    parameters: dict[str, JsonValue] | None = None
    strict: bool | None = None


class ChosenTool(ResponsesType):
    """A tool by its name."""

    type: str
    name: str | None = None


class AllowedTools(ResponsesType):
    """`tool_choice` that narrows the tools."""

    type: Literal["allowed_tools"]
    mode: Literal["auto", "required"]
    tools: list[ChosenTool]


class Format(ResponsesType):
    """What form the answer's text must have."""

    type: str
    name: str = "answer"
    description: str | None = None
    schema_: Annotated[dict[str, JsonValue] | None, Field(alias="schema")] = None
    strict: bool | None = None


class Text(ResponsesType):
    """How the answer's text is to be."""

    format: Format | None = None
    verbosity: str | None = None


class ConversationName(ResponsesType):
    """A conversation as an object."""

    id: str


class ResponseRequest(ResponsesType):
    """The body of `POST /v1/responses`, and of `/v1/responses/input_tokens`."""

    model: str | None = None
    input: str | list[Item] | None = None
    instructions: str | None = None
    previous_response_id: str | None = None
    conversation: str | ConversationName | None = None
    tools: Annotated[list[OfferedTool], Field(max_length=MAX_TOOLS, fail_fast=True)] | None = None
    tool_choice: Literal["none", "auto", "required"] | AllowedTools | ChosenTool | None = None
    parallel_tool_calls: bool | None = None
    text: Text | None = None
    reasoning: JsonValue = None
    truncation: Literal["auto", "disabled"] | None = None
    stream: bool | None = None
    background: bool | None = None
    store: bool | None = None
    max_output_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    metadata: Metadata | None = None
    max_tool_calls: int | None = None
    service_tier: str | None = None
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    include: list[str] | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    prompt: JsonValue = None
    loop_prevention: WantedLoopPrevention | None = None

    @property
    def logprobs(self) -> bool:
        """Whether the response tells how likely its tokens were."""
        return bool(self.top_logprobs) or "message.output_text.logprobs" in (self.include or ())

    @property
    def stored(self) -> bool:
        """Whether the response can be asked for later; so it is unless told otherwise."""
        return self.store is not False

    @property
    def conversation_id(self) -> str | None:
        """The conversation that it goes on with."""
        return self.conversation.id if isinstance(self.conversation, ConversationName) else self.conversation


class NewConversation(ResponsesType):
    """The body of `POST /v1/conversations`."""

    items: Annotated[list[Item], Field(fail_fast=True)] | None = None
    metadata: Metadata | None = None


class ConversationUpdate(ResponsesType):
    """The body of `POST /v1/conversations/{id}`."""

    metadata: Metadata | None


class NewItems(ResponsesType):
    """The body of `POST /v1/conversations/{id}/items`."""

    items: Annotated[list[Item], Field(min_length=1, fail_fast=True)]
