"""Every type of Headrace's own that crosses a wire: parameters, the stored request, stream events, results, cards."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, JsonValue, ValidationInfo, field_validator
from pydantic.alias_generators import to_camel

from shared.wire.chat import MAX_TOOLS, ChatMessage, ResponseFormat, Tool, ToolChoice, ToolName, UserMessage

SCHEMA_VERSION = 1
"""Version of the task record and of the Celery message; a worker refuses a record of a version it does not know."""

DEFAULT_MAX_TOKENS = 2048
"""Of an answer whose request sets no `maxTokens`, unless a worker is told otherwise."""

Priority = Literal["high", "normal", "low"]
QueueClass = Literal["handover", "high", "normal", "low"]
"""In the order in which a worker takes from them. `handover` is for tasks that had already started: they go first."""
State = Literal["PENDING", "STARTED", "RETRY", "SUCCESS", "FAILURE", "REVOKED"]
EndState = Literal["SUCCESS", "FAILURE", "REVOKED"]
FinishReason = Literal["stop", "length", "stop_sequence", "loop", "tool_calls"]


class WireType(BaseModel):
    """Base of Headrace's own types: camelCase on the wire, snake_case in Python, unknown fields refused."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        serialize_by_alias=True,
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
    )


def _whole(number: Any) -> Any:
    """JSON knows one kind of number, and some languages write 100 as 100.0."""
    return int(number) if isinstance(number, float) and number.is_integer() else number


WHOLE = BeforeValidator(_whole)
MAX_ALTERNATIVES = 20
"""OpenAI's own limit on the likeliest tokens that are told in one token's place."""
TokenIds = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1, fail_fast=True)]
StopString = Annotated[str, Field(min_length=1, max_length=1024)]
Metadata = Annotated[
    dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]], Field(max_length=16)
]
"""A client's own notes, within OpenAI's own limits."""


class Sampling(WireType):
    """How the next token is chosen. All fields are the client's; `None` means the model's own default."""

    max_tokens: Annotated[int, Field(ge=0, lt=2**31), WHOLE] | None = None
    """Most tokens to generate, at least 1 (0 for a `prompt` that is echoed); `None`: what is left of the context, at
    most the worker's own limit."""
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    """0 is greedy decoding, and so is what is below the smallest normal float32, 1.2e-38."""
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    """Only the most likely tokens that together have this probability are drawn from; 1 is off."""
    top_k: Annotated[int, Field(ge=1, lt=2**31), WHOLE] | None = None
    """Only so many of the most likely tokens are drawn from."""
    stop: Annotated[list[StopString], Field(max_length=4, fail_fast=True)] | StopString | None = None
    """Text at which generation ends; the text itself is not part of the answer."""
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63), WHOLE] | None = None
    """The same seed, prompt and model give the same answer, also across workers."""


ConversationName = Annotated[str, Field(pattern=r"^[\w.:-]{1,128}$")]


class ConversationParams(WireType):
    """What is said, with which tools, and to which model."""

    messages: Annotated[list[ChatMessage], Field(min_length=1, fail_fast=True)] | None = None
    """The whole conversation; or what is new in a stored one."""
    # The first bad element is enough: a body of nothing but errors would cost a gigabyte of them.
    history: Annotated[list[ChatMessage], Field(fail_fast=True)] | None = None
    """What was said before `message`."""
    message: Annotated[str, Field(min_length=1)] | UserMessage | None = None
    """What the user says now."""
    tools: Annotated[list[Tool], Field(max_length=MAX_TOOLS, fail_fast=True)] | None = None
    """What the model may call. Tools run at the client."""
    tool_choice: ToolChoice | None = None
    """Whether it calls one: `auto` where there are tools, `none`, `required`, or the one to call."""
    model: str | None = None
    """Null: the installation's default model."""
    conversation_id: ConversationName | None = None
    """The conversation is stored under this name, with the answer, when the task succeeds. `message`, or `messages`
    that begin with a tool's result, go on with it; `history` and other `messages` start it anew. One turn at a time."""


class LoopPrevention(WireType):
    """What loop prevention leaves alone in one request."""

    polling_tools: Annotated[list[ToolName], Field(max_length=MAX_TOOLS, fail_fast=True)]
    """Tools that are called to wait for something: the same answer again is no repeat, and a round that calls nothing
    else does not count."""


class CreateMessageParams(Sampling, ConversationParams):
    """Parameters of `create_message`. Their order is that of the positional form: first the conversation, then the
    sampling, then these; a new one goes to the end.
    """

    response_format: ResponseFormat | None = None
    """What form a text answer must have."""
    priority: Priority = "normal"
    """While all of them wait, `high` tasks get 16 and `normal` ones 4 times the tokens of `low` ones; none starves."""
    timeout_seconds: Annotated[float, Field(gt=0)] | None = None
    """Deadline in seconds from acceptance; null: `HEADRACE_DEFAULT_TIMEOUT_SECONDS`."""
    idempotency_key: Annotated[str, Field(min_length=1, max_length=256)] | None = None
    """A call that comes again with this key is answered with the first one's task."""
    metadata: Metadata | None = None
    """The client's own notes: texts of at most 512 characters, under names of at most 64."""
    cancel_on_disconnect: bool = False
    """Cancel the task when its last reader has been gone for the server's resume window."""
    loop_prevention: Literal["off"] | LoopPrevention | None = None
    """What repeated tool calls may do in this request: anything (`off`), or wait (the tools that poll). Null: neither,
    where the server has loop prevention on."""
    parallel_tool_calls: bool | None = None
    """False: the answer ends with its first tool call."""
    logprobs: bool = False
    """Tell with the answer's tokens how likely each was."""
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_ALTERNATIVES), WHOLE] | None = None
    """With `logprobs`: tell so many of the likeliest tokens in each one's place."""
    prompt: str | TokenIds | None = None
    """Text or tokens for the model to go on with, in place of a conversation: without a chat template and tools."""
    echo: bool = False
    """The answer begins with the `prompt`, and with `logprobs` those of its tokens are told too."""
    store: bool = True
    """False: a minute after the task's end nothing is left of what was asked and answered, and it can be read no more;
    such a request has no conversation that is stored."""

    @field_validator("priority", "cancel_on_disconnect", "logprobs", "echo", "store", mode="before")
    @classmethod
    def _null_is_not_given(cls, value: Any, info: ValidationInfo) -> Any:
        assert info.field_name is not None
        return cls.model_fields[info.field_name].default if value is None else value

    @field_validator("top_logprobs")
    @classmethod
    def _with_logprobs(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value is not None and not info.data.get("logprobs"):
            raise ValueError("needs logprobs: true")
        return value


class TaskParams(WireType):
    """Parameters of `get_message` and `cancel_message`."""

    task_id: Annotated[str, Field(min_length=1, max_length=128)]


class ConversationNamed(WireType):
    """Parameters of `get_conversation` and `delete_conversation`."""

    conversation_id: ConversationName


class Guard(WireType):
    """What loop prevention did to the conversation before the model saw it; empty when it did nothing."""

    repeated_calls_removed: int = 0
    """Tool calls taken out, answers included, because the same call had got the same answer before."""
    cycle: list[str] = []
    """Names of the tools of an alternating cycle that was recognised."""
    tools_withheld: bool = False
    """True when the model was given no tools and must answer."""
    reason: str = ""
    """One sentence for a person."""


class InferenceRequest(Sampling):
    """One accepted request as a worker reads it from the ledger: validated, guarded, complete."""

    model: str
    messages: list[ChatMessage]
    """The conversation after loop prevention."""
    tools: list[Tool] = []
    tool_choice: ToolChoice = "auto"
    response_format: ResponseFormat | None = None
    priority: Priority = "normal"
    metadata: dict[str, str] = {}
    cancel_on_disconnect: bool = False
    conversation_id: str | None = None
    conversation: list[ChatMessage] = []
    """With `conversation_id`: the conversation as the client sees it, saved with the answer when the task succeeds."""
    guard: Guard | None = None
    parallel_tool_calls: bool | None = None
    """False: the answer ends with its first tool call."""
    logprobs: Annotated[int, Field(ge=0, le=MAX_ALTERNATIVES)] | None = None
    """Tell how likely each token was, with so many alternatives; None: not at all."""
    prompt: str | TokenIds | None = None
    """What the model goes on with, in place of the messages."""
    echo: bool | None = None
    """The answer begins with the prompt."""
    truncate: bool | None = None
    """True: a conversation that is too long for the context loses its oldest turns (`conversation/truncation.py`)."""
    store: bool | None = None
    """False: what was asked and answered leaves Redis soon after the end, and never gets into the result backend."""


class Usage(WireType):
    """Token counts of one task."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    """Prompt tokens whose keys and values came from the prefix cache."""
    reasoning_tokens: int | None = None
    """Of the completion tokens: reasoning."""


class Timings(WireType):
    """Where the time of one task went, in seconds."""

    queued: float
    """From acceptance to the claim of the last attempt."""
    first_token: float | None
    """From acceptance to the first token; None when an earlier attempt streamed it."""
    total: float
    """From acceptance to the end of generation."""


class ToolCall(WireType):
    """A validated tool call of the model; `arguments` is an object."""

    id: str
    name: str
    arguments: dict[str, JsonValue]


class TaskEvent(WireType):
    """What every event of a task's stream has."""

    type: str
    task_id: str


class StatusEvent(TaskEvent):
    """The task's state changed, or (PENDING) its place in the queue did."""

    type: Literal["status"] = "status"
    state: State
    position: int | None = None
    """PENDING: 1 is next."""
    detail: str | None = None
    """PENDING with no ready worker: what the cluster is doing about it."""
    attempt: int | None = None
    restart: bool | None = None
    """True: this attempt starts the answer over, text before it is void."""
    guard: Guard | None = None


class LikelyToken(WireType):
    """One token that could stand at a place of the answer."""

    token: str
    """Its text; of one that is only a part of a character its bytes, `\\xf0\\x9f`."""
    bytes: list[int] | None = None
    """Of such a part of a character."""
    logprob: float
    """The natural logarithm of its probability by the model alone: before temperature, `topP`, `topK` and a form that
    is enforced. -9999 stands for everything below."""


class TokenLogprob(WireType):
    """How likely a token of the answer's text was."""

    token: str
    bytes: list[int] | None = None
    logprob: float | None = None
    """As in LikelyToken; a prompt's first token has none, for nothing stands before it."""
    top_logprobs: list[LikelyToken] = []
    """The likeliest tokens in its place, best first."""


class TokenEvent(TaskEvent):
    """New text."""

    type: Literal["token"] = "token"
    text: str
    reasoning: str | None = None
    """What is new of the model's reasoning; it is no part of the answer's text."""
    index: int
    """Tokens of the answer so far."""
    logprobs: list[TokenLogprob] | None = None
    """Where they were asked for: of the tokens that made the new text. Tokens of reasoning, of tool calls and of stop
    strings have none."""


class FinalText(WireType):
    """The whole answer."""

    text: str
    reasoning: str | None = None
    """What the model wrote for itself before it answered."""
    finish_reason: FinishReason
    stop_sequence: str | None = None
    """Of the request's `stop`, the one that ended the answer."""
    usage: Usage
    timings: Timings
    dropped_messages: int | None = None
    """Oldest messages that the model was not shown, where the request allowed that; a door of other clients does."""


class FinalTextEvent(FinalText, TaskEvent):
    """The whole answer."""

    type: Literal["final_text"] = "final_text"


class ToolCalls(WireType):
    """The model wants tools called; the client runs them and sends the results as a new `create_message`."""

    tool_calls: list[ToolCall]
    text: str
    """What the model said beside the calls."""
    reasoning: str | None = None
    finish_reason: FinishReason = "tool_calls"
    """`tool_calls`; or what cut the answer short behind these calls, and maybe in front of others."""
    stop_sequence: str | None = None
    """Of the request's `stop`, the one that ended the answer."""
    usage: Usage
    timings: Timings
    dropped_messages: int | None = None
    """As `FinalText` has it."""


class ToolCallsEvent(ToolCalls, TaskEvent):
    """The model wants tools called; the client runs them and sends the results as a new `create_message`."""

    type: Literal["tool_calls"] = "tool_calls"


ErrorCode = Literal[
    "context_too_long",
    "deadline_exceeded",
    "poisoned",
    "engine_failed",
    "invalid_request",
    "version_unsupported",
    "data_lost",
    "conversation_changed",
    "schema_not_met",
    "internal",
]


class Failure(WireType):
    """The task failed; never a Python traceback."""

    code: ErrorCode
    message: str
    retryable: bool
    trace_id: str | None = None


class ErrorEvent(Failure, TaskEvent):
    """The task failed; never a Python traceback."""

    type: Literal["error"] = "error"


class EndEvent(TaskEvent):
    """Always the last event, exactly once."""

    type: Literal["end"] = "end"
    state: EndState


Event = Annotated[
    StatusEvent | TokenEvent | FinalTextEvent | ToolCallsEvent | ErrorEvent | EndEvent, Field(discriminator="type")
]
Outcome = FinalTextEvent | ToolCallsEvent | ErrorEvent


class ModelAbilities(WireType):
    """What a model can do."""

    tools: Literal["native", "prompt"]
    """`native`: the model's own chat template takes tools; `prompt`: Headrace's default tool prompt does."""
    response_format: bool = True
    """Whether answers can be held to a JSON schema, and `toolChoice` demand a call."""
    seeds: bool = True
    """Whether an answer drawn with a seed is the same on every worker, and where one goes on for another."""
    vision: bool = False


class SamplingDefaults(WireType):
    """How tokens are chosen for requests that do not say: the model's own way, or what its operator has set."""

    temperature: float = 0.0
    """0 is greedy decoding."""
    top_p: float = 1.0
    top_k: int = 0
    """0 is off."""


class ModelCard(WireType):
    """What a ready worker says about the model it serves."""

    name: str
    revision: str
    """Changes when weights, quantization or tokenizer change: a stream is continued only by the same revision."""
    context_length: int
    """Prompt and answer together, in tokens."""
    max_token_bytes: int
    """Bytes of the longest token's text: no prompt of n bytes has fewer than n / max_token_bytes tokens."""
    slots: int
    """Requests that one worker decodes at the same time."""
    default_max_tokens: int = DEFAULT_MAX_TOKENS
    """Most tokens of an answer whose request sets no `maxTokens`."""
    abilities: ModelAbilities
    sampling: SamplingDefaults = SamplingDefaults()


class ModelStatus(WireType):
    """One entry of `model_list`."""

    name: str
    """What requests name."""
    default: bool
    """Whether requests that name none are for it."""
    ready: bool
    """Whether a worker takes its tasks now."""
    ready_workers: int
    """How many do."""
    waiting: int
    """Tasks that wait for one."""
    running: int
    """Tasks that workers hold."""
    detail: str | None = None
    """What is being done about it while no worker is ready; null with a ready one."""
    context_length: int | None
    """Tokens of prompt and answer together; null before the first worker was ready, as the next one."""
    abilities: ModelAbilities | None
    sampling: SamplingDefaults | None
    """How tokens are chosen where a request does not say it."""
