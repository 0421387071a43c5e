"""What a model wrote as a tool call -> a validated call, or nothing: then it stays text.

Accepted is a call of an offered tool whose arguments its JSON schema accepts. Before that verdict two things may happen
to what the model wrote, and no more:

- JSON that is only nearly JSON is read by the rules of `json_text`, but not in an answer that was cut short.
- Arguments that the schema refuses are coerced where nothing is lost: the text of a number, a boolean, an object or a
  list becomes that value and a number becomes its text where the schema asks for it; a null of an optional property
  goes.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, cast

from pydantic import JsonValue

from shared.wire.chat import Tool
from shared.wire.schemas import InferenceRequest, ToolCall
from worker.json_schema.allowance import Allowance
from worker.json_schema.document_check import UNITS, DocumentCheck
from worker.text.json_text import WORDS, NotJson, one_value, plain, values_in

CALL_KEYS = frozenset({"name", "arguments", "parameters", "type", "function", "id"})
"""Keys that a bare JSON object may have to be taken for a call."""


@dataclass(frozen=True, slots=True)
class NamedCall:
    """A call of an offered tool with arguments that its schema accepts."""

    name: str
    arguments: dict[str, JsonValue]


def call_id(task_id: str, index: int) -> str:
    """The id of a task's call number `index`, from 0: the same whenever the task is run."""
    return "call_" + hashlib.sha256(f"{task_id}:{index}".encode()).hexdigest()[:24]


def numbered(task_id: str, calls: Sequence[NamedCall]) -> list[ToolCall]:
    """The calls of one answer with their ids."""
    return [
        ToolCall(id=call_id(task_id, index), name=call.name, arguments=call.arguments)
        for index, call in enumerate(calls)
    ]


def offered_tools(request: InferenceRequest) -> list[Tool]:
    """The tools that the model may call: with `toolChoice` `none` it is shown none of them."""
    return request.tools if request.tool_choice != "none" else []


class OfferedTools:
    """The tools of one request, as the judge of what the model wrote."""

    def __init__(self, tools: Sequence[Tool]) -> None:
        """Compiles the schemas: not for an event loop."""
        allowance = Allowance(UNITS)
        self._tools = {tool.function.name: tool.function.parameters for tool in tools}
        self._checks = {
            name: DocumentCheck(schema, of_tool=True, allowance=allowance) for name, schema in self._tools.items()
        }

    def __bool__(self) -> bool:
        return bool(self._tools)

    def calls_in(self, body: str, *, bare: bool = False, repair: bool = True) -> list[NamedCall]:
        """The calls of JSON text: one object, a list, or several after each other. None at all if any is no valid call.

        `bare`: no marker says that this is a call, so it must look like nothing else. `repair`: see `json_text`.
        """
        calls = [self.call_of(value, bare=bare) for value in _values(body, repair)]
        valid = [call for call in calls if call is not None]
        return valid if len(valid) == len(calls) else []

    def named_call(self, name: str, body: str, *, repair: bool = True) -> list[NamedCall]:
        """The call whose name stands outside of its arguments' JSON text, if it is valid."""
        values = _values(body, repair)
        call = self.call_of({"name": name, "arguments": values[0]}) if len(values) == 1 else None
        return [call] if call else []

    def call_of(self, value: object, *, bare: bool = False) -> NamedCall | None:
        """The call that a parsed JSON value describes, in any of the usual spellings."""
        if not isinstance(value, dict) or (bare and not CALL_KEYS.issuperset(value)):
            return None
        inner = value.get("function")
        if isinstance(inner, dict):
            value = inner
        name = value.get("name", value.get("function"))
        given = next((value[key] for key in ("arguments", "parameters") if key in value), None)
        if not isinstance(name, str) or name not in self._tools or (bare and given is None):
            return None
        arguments = self._accepted(name, _object(given))
        return None if arguments is None else NamedCall(name, arguments)

    def _accepted(self, name: str, arguments: dict[str, Any] | None) -> dict[str, JsonValue] | None:
        """The arguments as the tool's schema accepts them; None where it does not, or cannot be judged by."""
        if arguments is None:
            return None
        check, schema = self._checks[name], self._tools[name]
        try:
            written = plain(arguments)
            if check.accepts(written):
                return cast(dict[str, JsonValue], written)
            coerced = plain(_coerced(arguments, schema))
        except NotJson:
            return None
        return cast(dict[str, JsonValue], coerced) if coerced != written and check.accepts(coerced) else None


def _values(body: str, repair: bool) -> list[Any]:
    try:
        # A block of code inside of the markers ends with backquotes.
        return values_in(body.strip().rstrip("`"), repair=repair)
    except NotJson:
        return []


def _object(given: object) -> dict[str, Any] | None:
    """Arguments as an object: models also write its JSON text, or null for none."""
    if isinstance(given, str):
        try:
            given = one_value(given) if given.strip() else {}
        except NotJson:
            return None
    if given is None:
        return {}
    return given if isinstance(given, dict) else None


def _coerced(arguments: dict[str, Any], schema: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments with every property turned into what the schema asks for, where nothing is lost by it."""
    properties, required = schema.get("properties"), schema.get("required", [])
    if not isinstance(properties, dict):
        return arguments
    coerced: dict[str, Any] = {}
    for key, value in arguments.items():
        wanted = _types(properties.get(key))
        if value is None and wanted and "null" not in wanted and key not in required:
            continue
        coerced[key] = _converted(value, wanted)
    return coerced


def _types(schema: object) -> frozenset[str]:
    """The types that a property's schema names; empty when it does not say."""
    wanted = schema.get("type") if isinstance(schema, dict) else None
    return frozenset([wanted] if isinstance(wanted, str) else wanted or [])


def _converted(value: object, wanted: frozenset[str]) -> object:
    if isinstance(value, str) and wanted and "string" not in wanted:
        if "boolean" in wanted and value.strip() in WORDS:
            return WORDS[value.strip()]
        try:
            parsed = one_value(value)
        except NotJson:
            return value
        return value if isinstance(parsed, str) else parsed
    if isinstance(value, int | Decimal) and not isinstance(value, bool) and wanted == {"string"}:
        return str(value)
    return value
