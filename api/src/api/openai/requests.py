"""What OpenAI's clients send, read as they send it.

These types are lenient where Headrace's own are strict: a client sends back as history what a reply held, field by
field (`refusal: null`, `annotations`, `audio: null`), and fields that mean nothing here are ignored, as other servers
of this API do. A field whose meaning cannot be kept is refused by name (`conversation.refuse_unsupported`).
"""

from typing import Annotated, Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

from api.http.loop_prevention import WantedLoopPrevention
from shared.wire.chat import MAX_TOOLS


class OpenAiType(BaseModel):
    """Base of the types that clients of `/v1` send."""

    model_config = ConfigDict(extra="ignore", frozen=True, use_attribute_docstrings=True)


class ContentPart(OpenAiType):
    """One part of a message's content; only text is understood."""

    type: str
    text: str | None = None
    refusal: str | None = None


Content = str | list[ContentPart] | None


class CalledFunction(OpenAiType):
    """The function of a call; `arguments` is JSON text."""

    name: str
    arguments: str = ""


class CallInHistory(OpenAiType):
    """A tool call of an earlier reply, sent back."""

    id: Annotated[str, Field(min_length=1)]
    type: str = "function"
    function: CalledFunction | None = None


class Message(OpenAiType):
    """A message of any role."""

    role: str
    content: Content = None
    name: str | None = None
    tool_calls: Annotated[list[CallInHistory], Field(fail_fast=True)] | None = None
    tool_call_id: str | None = None
    refusal: str | None = None
    audio: JsonValue = None
    function_call: JsonValue = None


class Function(OpenAiType):
    """A function that the model may call."""

    name: str
    description: str | None = None
    parameters: dict[str, JsonValue] | None = None
    strict: bool | None = None


class OfferedTool(OpenAiType):
    """One entry of `tools`."""

    type: str
    function: Function | None = None


class FunctionName(OpenAiType):
    """A function by its name."""

    name: str


class NamedTool(OpenAiType):
    """`tool_choice` that names a function."""

    type: Literal["function"]
    function: FunctionName


class AllowedTools(OpenAiType):
    """Which of the tools may be called, and whether one must."""

    mode: Literal["auto", "required"]
    tools: list[NamedTool]


class AllowedToolsChoice(OpenAiType):
    """`tool_choice` that narrows the tools and leaves them all in the prompt."""

    type: Literal["allowed_tools"]
    allowed_tools: AllowedTools


class WantedSchema(OpenAiType):
    """The schema of `response_format`."""

    name: str = "answer"
    description: str | None = None
    schema_: Annotated[dict[str, JsonValue] | None, Field(alias="schema")] = None
    strict: bool | None = None


class ResponseFormat(OpenAiType):
    """What form the answer must have."""

    type: str
    json_schema: WantedSchema | None = None


class StreamOptions(OpenAiType):
    """What a stream tells beside the answer."""

    include_usage: bool | None = None


class Generation(OpenAiType):
    """What chat completions and completions have in common."""

    model: str
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int, Field(ge=0)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_k: int | None = None
    """Not OpenAI's; of vLLM's and others' servers. 0 and -1 are no bound."""
    stop: str | list[str] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    n: Annotated[int, Field(ge=1)] | None = None
    user: str | None = None
    metadata: dict[str, Any] | None = None
    store: bool | None = None
    """False: nothing is left of the task soon after its end. Not said: it can be read for as long as any task."""
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    logit_bias: dict[str, float] | None = None


TokenIds = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1, fail_fast=True)]


class CompletionRequest(Generation):
    """The body of `POST /v1/completions`."""

    prompt: (
        str
        | TokenIds
        | Annotated[list[str], Field(min_length=1, fail_fast=True)]
        | Annotated[list[TokenIds], Field(min_length=1, fail_fast=True)]
    )
    echo: bool | None = None
    logprobs: Annotated[int, Field(ge=0, le=5)] | None = None
    suffix: str | None = None
    best_of: int | None = None

    @property
    def prompts(self) -> list[str | list[int]]:
        """One for each choice of the reply."""
        match self.prompt:
            case str(text):
                return [text]
            case [int(), *_] as token_ids:
                return [cast(list[int], token_ids)]
            case several:
                return [*cast(list[str | list[int]], several)]


class ChatRequest(Generation):
    """The body of `POST /v1/chat/completions`."""

    messages: Annotated[list[Message], Field(min_length=1, fail_fast=True)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    tools: Annotated[list[OfferedTool], Field(max_length=MAX_TOOLS, fail_fast=True)] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | AllowedToolsChoice | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    modalities: list[str] | None = None
    audio: JsonValue = None
    functions: JsonValue = None
    function_call: JsonValue = None
    web_search_options: JsonValue = None
    loop_prevention: WantedLoopPrevention | None = None
    """Not OpenAI's: what repeated tool calls may do in this request."""

    @model_validator(mode="after")
    def _top_logprobs_of_logprobs(self) -> "ChatRequest":
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs: true")
        return self
