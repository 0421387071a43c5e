"""Keeps a model from calling the same tools for ever: what it already knows is taken out of its way.

The unit is the turn: what follows one user message. Inside a turn a *round* is one assistant message with tool calls
and the results of those calls. A call is a *repeat* when the same function with the same arguments was called before
in the turn and the new answer equals the latest one. A call whose answer changed is polling, and stays.
"""

import json
from collections.abc import Sequence, Set
from dataclasses import dataclass, field

from pydantic import JsonValue

from shared.wire.chat import AssistantMessage, ChatMessage, MessageToolCall, ToolMessage, UserMessage
from shared.wire.schemas import Guard


@dataclass(frozen=True, slots=True)
class LoopPolicy:
    """When loop prevention steps in."""

    enabled: bool = True
    max_repeats: int = 2
    """Rounds in a row that may bring nothing new; at this many, tools are withheld. 1 acts on the first repeat."""
    max_tool_rounds: int = 8
    """Tool rounds since the last user message after which the model must answer."""
    polling_tools: frozenset[str] = frozenset()
    """Tools that are called to wait: their calls are never repeats, and rounds of them alone do not count."""


class ToolLoop(Exception):
    """The client demands a tool call where loop prevention withholds the tools."""

    def __init__(self, guard: Guard) -> None:
        super().__init__(guard.reason)
        self.guard = guard


@dataclass(frozen=True, slots=True)
class Guarded:
    """The conversation as the model may see it."""

    messages: list[ChatMessage]
    guard: Guard | None
    """None when nothing was done."""


def prevent_loops(messages: Sequence[ChatMessage], policy: LoopPolicy) -> Guarded:
    """Take repeats out of every turn; in the last one tell the model, and decide whether it still gets tools.

    Expects a conversation that keeps the rules of `shared.conversation.rules`, and returns one. A second application
    changes no message.
    """
    if not policy.enabled:
        return Guarded(list(messages), None)
    kept: list[ChatMessage] = []
    removed = 0
    turn = _Turn(policy.polling_tools)
    for span in _spans(messages):
        if isinstance(span, _Round):
            rest = turn.add(span)
            removed += len(span.calls) - len(rest.calls)
            kept += rest.messages()
        else:
            turn = _Turn(policy.polling_tools) if isinstance(span, UserMessage) else turn
            kept.append(span)
    if isinstance(kept[-1], AssistantMessage) and not isinstance(messages[-1], AssistantMessage):
        # Nothing but assistant text stands before the last round: without it there would be nothing to answer.
        kept += turn.rounds[-1].last_answered().messages()
        removed -= 1
    withheld, cycle, reason = _verdict(turn, removed, policy)
    notes = [*turn.notes, *([WITHHELD_NOTE] if withheld else [])]
    last = kept[-1]
    if notes and isinstance(last, ToolMessage):
        missing = [note for note in notes if note not in last.content]
        kept[-1] = last.model_copy(update={"content": "\n\n".join([last.content, *missing])})
    if not (removed or notes):
        return Guarded(kept, None)
    return Guarded(kept, Guard(repeated_calls_removed=removed, cycle=cycle, tools_withheld=withheld, reason=reason))


WITHHELD_NOTE = "(Note: no more tools can be called now. Answer the user with what is known.)"


@dataclass(frozen=True, slots=True)
class _Round:
    """One assistant message with its calls and their answers."""

    assistant: AssistantMessage
    calls: tuple[MessageToolCall, ...]
    answers: tuple[ToolMessage, ...]

    def messages(self) -> list[ChatMessage]:
        if not self.calls:
            return []
        return [self.assistant.model_copy(update={"tool_calls": list(self.calls)}), *self.answers]

    def last_answered(self) -> "_Round":
        """The round with nothing but its last answer and the call of it."""
        return self.only({self.answers[-1].tool_call_id})

    def only(self, call_ids: Set[str]) -> "_Round":
        """The round with nothing but these calls and their answers."""
        return _Round(
            self.assistant,
            tuple(call for call in self.calls if call.id in call_ids),
            tuple(answer for answer in self.answers if answer.tool_call_id in call_ids),
        )

    def signature(self) -> frozenset[tuple[str, str]]:
        """What was asked and answered, in whatever order."""
        contents = {answer.tool_call_id: answer.content for answer in self.answers}
        return frozenset((call_key(call), contents[call.id]) for call in self.calls)


@dataclass(slots=True)
class _Turn:
    """What happened since one user message."""

    polling_tools: frozenset[str]
    rounds: list[_Round] = field(default_factory=list)
    """What is left of them without the polling calls; rounds of nothing else are not among them."""
    stuck: int = 0
    """Rounds at the end in which every call was a repeat."""
    notes: list[str] = field(default_factory=list)
    _latest: dict[str, str] = field(default_factory=dict)
    """Call -> its latest answer."""

    def add(self, done: _Round) -> _Round:
        """Record a round; returns what is left of it without its repeats."""
        judged = done.only({call.id for call in done.calls if call.function.name not in self.polling_tools})
        if not judged.calls:
            return done
        self.rounds.append(judged)
        contents = {answer.tool_call_id: answer.content for answer in done.answers}
        repeated: set[str] = set()
        for call in judged.calls:
            key, answer = call_key(call), contents[call.id]
            if self._latest.get(key) == answer:
                note = _repeat_note(call, answer)
                self.notes += [note] if note not in self.notes else []
                repeated.add(call.id)
            else:
                self._latest[key] = answer
        self.stuck = self.stuck + 1 if len(repeated) == len(judged.calls) else 0
        return done.only({call.id for call in done.calls} - repeated)


def call_key(call: MessageToolCall) -> str:
    """The same text for the same function with equal arguments, however their JSON is written."""
    arguments = _canonical(call.function.parsed_arguments())
    return call.function.name + json.dumps(arguments, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def _canonical(value: JsonValue) -> JsonValue:
    """1.0 and 1 are equal in JSON Schema's eyes."""
    if isinstance(value, dict):
        return {key: _canonical(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_canonical(part) for part in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _repeat_note(call: MessageToolCall, answer: str) -> str:
    shown = answer if len(answer) <= 300 else answer[:300] + " ..."
    return (
        f"(Note: {call.function.name} with the arguments {call.function.arguments.strip() or '{}'} was called again "
        f"and gave the same answer: {shown} - use that answer, do not make this call again.)"
    )


def _spans(messages: Sequence[ChatMessage]) -> list[ChatMessage | _Round]:
    """The conversation with every tool round folded into one item."""
    spans: list[ChatMessage | _Round] = []
    for message in messages:
        if isinstance(message, AssistantMessage) and message.tool_calls:
            spans.append(_Round(message, tuple(message.tool_calls), ()))
        elif isinstance(message, ToolMessage):
            last = spans[-1]
            assert isinstance(last, _Round), "a tool message follows its call: checked by the rules"
            spans[-1] = _Round(last.assistant, last.calls, (*last.answers, message))
        else:
            spans.append(message)
    return spans


def _verdict(turn: _Turn, removed: int, policy: LoopPolicy) -> tuple[bool, list[str], str]:
    """Whether tools are withheld, the cycle that was seen, and a sentence about it."""
    cycle = _cycle(turn)
    if turn.stuck >= policy.max_repeats:
        what = f"the tools {' -> '.join(cycle)} were called in a cycle" if cycle else "the same call was repeated"
        return True, cycle, f"{what} with the same answers; the model must answer without tools"
    if len(turn.rounds) >= policy.max_tool_rounds:
        return True, cycle, f"{len(turn.rounds)} tool rounds since the last user message; the model must answer"
    return False, cycle, f"the model was told of repeated tool calls, {removed} were taken out of the conversation"


def _cycle(turn: _Turn) -> list[str]:
    """Names of the tools of the cycle in which the turn's last rounds, two at least, run; empty when they do not."""
    signatures = [done.signature() for done in turn.rounds]
    count = len(signatures)
    if turn.stuck < 2:
        return []
    periods = set()
    for at in range(count - turn.stuck, count):
        earlier = [before for before in range(at) if signatures[before] == signatures[at]]
        periods.add(at - earlier[-1] if earlier else 0)
    if len(periods) != 1 or (period := periods.pop()) < 2:
        return []
    first = count - turn.stuck - period
    return [done.calls[0].function.name for done in turn.rounds[first : first + period]]
