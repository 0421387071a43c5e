"""What a task's stream carries, typed. Unknown fields are ignored, so that an older client reads a newer server."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, model_validator
from pydantic.alias_generators import to_camel

FinishReason = Literal["stop", "length", "stop_sequence", "loop", "tool_calls"]
State = Literal["PENDING", "STARTED", "RETRY", "SUCCESS", "FAILURE", "REVOKED"]


class WireType(BaseModel):
    """Base of the types below: camelCase on the wire, snake_case in Python."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, serialize_by_alias=True, frozen=True)


class Guard(WireType):
    """What loop prevention did to the conversation before the model saw it."""

    repeated_calls_removed: int = 0
    cycle: list[str] = []
    tools_withheld: bool = False
    reason: str = ""


class Usage(WireType):
    """Token counts of one task."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    """Of the completion tokens."""


class Timings(WireType):
    """Where the time of one task went, in seconds from its acceptance."""

    queued: float
    first_token: float | None = None
    total: float


class ToolCall(WireType):
    """One call that the model wants made."""

    id: str
    name: str
    arguments: dict[str, Any]


class Status(WireType):
    """The task's state changed, or its place in the queue did."""

    type: Literal["status"] = "status"
    task_id: str
    state: State
    position: int | None = None
    """PENDING: 1 is next."""
    detail: str | None = None
    """PENDING with no ready worker: what is being done about it."""
    attempt: int | None = None
    restart: bool | None = None
    """True: the answer starts over, text before this event is void."""
    guard: Guard | None = None


class LikelyToken(WireType):
    """One token that could stand at a place of the answer."""

    token: str
    bytes: list[int] | None = None
    """Of one that is only a part of a character."""
    logprob: float


class TokenLogprob(WireType):
    """How likely a token of the answer's text was, by the model alone."""

    token: str
    bytes: list[int] | None = None
    logprob: float | None = None
    top_logprobs: list[LikelyToken] = []
    """The likeliest tokens in its place, best first."""


class Token(WireType):
    """New text."""

    type: Literal["token"] = "token"
    task_id: str
    text: str
    reasoning: str = ""
    """What the model writes for itself before it answers."""
    index: int
    """Tokens of the answer so far."""
    logprobs: list[TokenLogprob] | None = None
    """Of the tokens that made the new text, where they were asked for."""


class FinalText(WireType):
    """The whole answer."""

    type: Literal["final_text"] = "final_text"
    task_id: str
    text: str
    reasoning: str = ""
    finish_reason: FinishReason
    stop_sequence: str | None = None
    """Of the request's `stop`, the one that ended the answer."""
    usage: Usage
    timings: Timings
    dropped_messages: int | None = None
    """Oldest messages that the model was not shown, where the request allowed that."""


class ToolCalls(WireType):
    """The model wants tools called; their results go into the next request."""

    type: Literal["tool_calls"] = "tool_calls"
    task_id: str
    tool_calls: list[ToolCall]
    text: str
    reasoning: str = ""
    finish_reason: FinishReason = "tool_calls"
    """Another one: the answer was cut short behind these calls."""
    stop_sequence: str | None = None
    usage: Usage
    timings: Timings
    dropped_messages: int | None = None


class Failure(WireType):
    """The task failed."""

    type: Literal["error"] = "error"
    task_id: str
    code: str
    message: str
    retryable: bool
    trace_id: str | None = None


class End(WireType):
    """Always the last event, exactly once."""

    type: Literal["end"] = "end"
    task_id: str
    state: Literal["SUCCESS", "FAILURE", "REVOKED"]


Event = Status | Token | FinalText | ToolCalls | Failure | End
Outcome = FinalText | ToolCalls | Failure
EVENT: TypeAdapter[Event] = TypeAdapter(Annotated[Event, Field(discriminator="type")])
EVENT_TYPES = frozenset({"status", "token", "final_text", "tool_calls", "error", "end"})


class TaskView(WireType):
    """What `Client.get()` tells of a task: how it stands at that moment."""

    task_id: str
    state: State
    position: int | None = None
    """While it waits: its place in the queue, 1 is next."""
    text: str
    """The whole answer, or what there is of it so far."""
    reasoning: str = ""
    """The same of the model's reasoning."""
    index: int
    """Tokens of the answer so far, those of its reasoning too."""
    result: FinalText | ToolCalls | None = None
    """Of a task that succeeded: as the event that ended its stream."""
    error: Failure | None = None
    """Of a task that failed."""

    @model_validator(mode="before")
    @classmethod
    def _outcome_is_of_this_task(cls, reply: dict[str, Any]) -> dict[str, Any]:
        """On the wire the outcome does not repeat the task's id."""
        outcome = {name: {"taskId": reply["taskId"], **reply[name]} for name in ("result", "error") if reply.get(name)}
        return reply | outcome


class Conversation(WireType):
    """What `Client.conversation()` tells of a stored conversation."""

    conversation_id: str
    messages: list[dict[str, Any]]
    """All that was said, in OpenAI's form."""
    open_turn: str | None = None
    """The task whose answer it waits for: until that has ended, no other message is taken."""
    metadata: dict[str, str] = {}


class Abilities(WireType):
    """What a model can do."""

    tools: str
    response_format: bool = False
    seeds: bool = False
    vision: bool = False


class SamplingDefaults(WireType):
    """How tokens are chosen for requests that do not say."""

    temperature: float
    top_p: float
    top_k: int


class Model(WireType):
    """One entry of `Client.models()`."""

    name: str
    default: bool
    ready: bool
    ready_workers: int
    waiting: int
    running: int
    detail: str | None = None
    """What is being done about it while no worker is ready."""
    context_length: int | None = None
    abilities: Abilities | None = None
    sampling: SamplingDefaults | None = None


class Cancellation(WireType):
    """What `Client.cancel()` did: `cancelled` is false when the task had ended before."""

    cancelled: bool
    state: State
