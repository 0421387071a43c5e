"""What a conversation must look like before a model sees it.

- System and developer messages stand at the start and nowhere else.
- There is at least one user message; user messages may follow each other, and so may assistant messages.
- Every call of an assistant message is answered exactly once, in any order, by tool messages right behind it.
- A tool message answers a call of the assistant message before it. Call ids are unique within one assistant message.
- The last message is a user's or a tool's: the model's turn comes next.
"""

from collections.abc import Sequence

from shared.wire.chat import AssistantMessage, ChatMessage, SystemMessage, ToolMessage, UserMessage

MAX_MESSAGES = 2_000
"""Messages of one conversation."""

Place = tuple[str | int, ...]
"""Where in a request something stands: a field of `CreateMessageParams` as Python names it, then list indices and the
names that OpenAI gives to what is inside. `("conversation", 3)` is in the stored conversation; `()` is the request."""


class InvalidConversation(ValueError):
    """The conversation or its tools cannot be given to a model."""

    def __init__(self, place: Place, reason: str) -> None:
        """`reason` follows the place, which whoever tells the client spells as the client does: `place: reason`."""
        super().__init__(place, reason)
        self.place, self.reason = place, reason


def check_conversation(messages: Sequence[ChatMessage], places: Sequence[Place], *, lenient: bool = False) -> None:
    """Raise InvalidConversation unless the rules above hold; `places[i]` is where `messages[i]` stands.

    `lenient`: only those on calls and their results, as OpenAI's API has it. System messages in the middle are shown to
    the model at the start, and behind an assistant message it begins another one.
    """
    if not messages:
        raise InvalidConversation((), "the conversation is empty: send `messages`, or `message`")
    if len(messages) > MAX_MESSAGES:
        raise InvalidConversation((), f"the conversation has {len(messages)} messages, {MAX_MESSAGES} are allowed")
    spoken = False
    open_calls: dict[str, str] = {}
    round_ids: set[str] = set()
    for message, place in zip(messages, places, strict=True):
        if open_calls and not isinstance(message, ToolMessage):
            raise InvalidConversation(place, f"{_unanswered(open_calls)} before this message")
        match message:
            case SystemMessage():
                if spoken and not lenient:
                    raise InvalidConversation(place, f"a {message.role} message may only stand at the start")
            case UserMessage():
                round_ids = set()
            case AssistantMessage():
                open_calls = _calls(message, place)
                round_ids = set(open_calls)
            case ToolMessage():
                if message.tool_call_id not in round_ids:
                    raise InvalidConversation(
                        place, f"no assistant message right before it makes the call {message.tool_call_id!r}"
                    )
                if open_calls.pop(message.tool_call_id, None) is None:
                    raise InvalidConversation(place, f"the call {message.tool_call_id!r} is answered twice")
        spoken = spoken or not isinstance(message, SystemMessage)
    if open_calls:
        raise InvalidConversation(places[-1], f"{_unanswered(open_calls)} after this message")
    if lenient:
        return
    if not any(isinstance(message, UserMessage) for message in messages):
        raise InvalidConversation((), "the conversation has no user message")
    if isinstance(messages[-1], AssistantMessage):
        raise InvalidConversation(places[-1], "the last message must be a user's or a tool's")


def in_call_order(messages: Sequence[ChatMessage]) -> list[ChatMessage]:
    """A conversation that keeps the rules above, with the results of each round in the order of its calls.

    Results may be sent in any order, but most chat templates show them without the ids of their calls.
    """
    ordered = list(messages)
    for at, message in enumerate(messages, 1):
        if isinstance(message, AssistantMessage) and message.tool_calls:
            behind = messages[at : at + len(message.tool_calls)]
            results = {result.tool_call_id: result for result in behind if isinstance(result, ToolMessage)}
            ordered[at : at + len(behind)] = [results[call.id] for call in message.tool_calls]
    return ordered


def _calls(message: AssistantMessage, place: Place) -> dict[str, str]:
    """Call id -> function name of one assistant message."""
    calls: dict[str, str] = {}
    for at, call in enumerate(message.tool_calls or []):
        if call.id in calls:
            raise InvalidConversation((*place, "tool_calls", at), f"the id {call.id!r} is used twice")
        try:
            call.function.parsed_arguments()
        except ValueError as error:
            raise InvalidConversation(
                (*place, "tool_calls", at, "function", "arguments"), f"is not the JSON text of an object: {error}"
            ) from None
        calls[call.id] = call.function.name
    return calls


def _unanswered(open_calls: dict[str, str]) -> str:
    names = ", ".join(f"{name} ({call_id})" for call_id, name in open_calls.items())
    return f"a tool message is missing for the call {names}"
