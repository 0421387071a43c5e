"""Tool rounds, without any I/O: Python functions described to the model, its calls, their results, the next request."""

import inspect
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ArgsKwargs, to_json

from headrace.calls import Message, Options
from headrace.errors import TooManyRounds
from headrace.events import ToolCall, ToolCalls

Function = Callable[..., Any]


def describe(function: Function) -> dict[str, Any]:
    """The tool definition of a function: its name, its docstring, and the JSON schema of its typed parameters."""
    schema = _adapter(function).json_schema()
    return {
        "type": "function",
        "function": {"name": function.__name__, "description": inspect.getdoc(function) or "", "parameters": schema},
    }


def _adapter(function: Function) -> TypeAdapter[Any]:
    return TypeAdapter(cast(Any, function))  # a function is a schema for pydantic, but not a type for the checker


@dataclass(frozen=True, slots=True)
class PendingCall:
    """A call of the model, bound to the function it names."""

    call: ToolCall
    function: Function | None

    def run(self) -> Any:
        """What the function returns (a coroutine function: an awaitable); wrong arguments are told to the model."""
        if self.function is None:
            return {"error": f"there is no function {self.call.name}"}
        try:
            return _adapter(self.function).validate_python(ArgsKwargs((), self.call.arguments))
        except ValidationError as error:
            return {"error": error.errors(include_url=False, include_input=False, include_context=False)}


class ToolRounds:
    """A conversation that goes on until the model answers in text."""

    def __init__(self, messages: str | Sequence[Message], functions: Sequence[Function], max_rounds: int) -> None:
        self.messages: list[Message] = (
            [{"role": "user", "content": messages}] if isinstance(messages, str) else [*messages]
        )
        """The conversation so far."""
        self._tools = [describe(function) for function in functions]
        self._functions = {function.__name__: function for function in functions}
        self._rounds_left = max_rounds
        self._first = True

    def options(self, options: Options) -> Options:
        """Options of the next request: a tool choice forces the first round only, or the model could never answer."""
        options = {**options, "tools": [*options.get("tools", ()), *self._tools]}
        if not self._first:
            options.pop("tool_choice", None)
            options.pop("idempotency_key", None)
        self._first = False
        return options

    def receive(self, outcome: ToolCalls) -> list[PendingCall]:
        """Takes the calls that a task ended with and returns them ready to be made."""
        if self._rounds_left == 0:
            raise TooManyRounds("The model still calls tools in the last round allowed", task_id=outcome.task_id)
        self._rounds_left -= 1
        calls = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": json.dumps(call.arguments)},
            }
            for call in outcome.tool_calls
        ]
        self.messages.append({"role": "assistant", "content": outcome.text or None, "tool_calls": calls})
        return [PendingCall(call, self._functions.get(call.name)) for call in outcome.tool_calls]

    def answer(self, pending: PendingCall, result: Any) -> None:
        """Adds the result of one call: text as it is, anything else as JSON."""
        content = result if isinstance(result, str) else to_json(result, fallback=str).decode()
        self.messages.append({"role": "tool", "tool_call_id": pending.call.id, "content": content})
