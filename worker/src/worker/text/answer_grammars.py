"""What a request demands of the answer -> a grammar that decoding must follow.

The grammar brings an answer to its end before `max_new_tokens` and enforces what can be enforced of the schema (see
`schema_forms`); the finished answer is judged. A model whose own template knows no tools is taken for a weak one: it
gets bounds that hold even if every token is one character, and one call per answer, since it would repeat that call
until its tokens run out (SmolLM2-135M does).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from llguidance import LLMatcher

from shared.json_schema.json_schemas import InvalidSchema, usable_schema
from shared.json_schema.schema_dialects import DATA
from shared.wire.chat import JsonObjectFormat, JsonSchemaFormat, NamedToolChoice, Tool
from shared.wire.schemas import InferenceRequest
from worker.engine_protocol import Grammar, Reasoning
from worker.json_schema.document_forms import Limits
from worker.json_schema.document_rules import DocumentRules
from worker.json_schema.enforced_whole import enforced_whole
from worker.json_schema.leaf_rules import LAYOUT
from worker.json_schema.schema_forms import Effort, SchemaForms
from worker.text.call_rules import CallSyntax, call_rules
from worker.text.codec import Unanswerable
from worker.text.tool_calls import offered_tools

MAX_CALLS = 4
"""Calls of one enforced answer of a model that knows tools."""


class UnsupportedSchema(Unanswerable):
    """No answer can satisfy the schema; the message says where."""


def grammar_for(
    request: InferenceRequest, syntax: CallSyntax, max_new_tokens: int, reasoning: Reasoning | None = None
) -> Grammar | None:
    """The grammar of the answer; None when any text will do. Raises UnsupportedSchema.

    `toolChoice` `required`: one call, or up to four where the model knows tools and the request does not want one
    alone; a named tool: exactly one call of it.
    `responseFormat` binds a text answer, so with tools on offer the answer is a document or calls.
    """
    if not is_enforced(request):
        return None
    demanded = demanded_tools(request)
    document = demanded_document(request)
    tools = demanded if demanded is not None else offered_tools(request)
    one = request.parallel_tool_calls is False or isinstance(request.tool_choice, NamedToolChoice)
    most = MAX_CALLS if syntax.native and not one else 1
    rules, effort = DocumentRules(), Effort()
    largest = 0
    arguments: list[tuple[str, str]] = []
    uncallable: UnsupportedSchema | None = None
    for tool in tools:
        name, schema = tool.function.name, tool.function.parameters
        named = f"The tool {name!r} cannot be called: no arguments satisfy its schema"
        try:
            forms, limits = _forms(schema, syntax, max_new_tokens // most, effort, named, of_tool=True)
        except UnsupportedSchema as error:
            uncallable = error
            continue
        arguments.append((name, rules.document(forms, limits)))
        largest = max(largest, len(name) // 2 + forms.largest_part())
    if uncallable is not None and not arguments and document is None:
        raise uncallable
    written = None
    if document is not None:
        forms, limits = _forms(document, syntax, max_new_tokens, effort, "No document satisfies the schema")
        written = rules.document(forms, limits)
        largest = max(largest, forms.largest_part())
    spaced = reasoning is not None
    source = _source(arguments, written, syntax, most, rules.lines, spaced=spaced)
    # What any schema's answer looks like, for a schema that is too much for the matcher, now or in the middle.
    lines = [f"any_{kind}: %json {json.dumps({**schema, 'x-guidance': LAYOUT})}" for kind, schema in _ANY.items()]
    any_arguments = [(name, "any_object") for name, _ in arguments]
    wider = _source(any_arguments, None if document is None else "any_value", syntax, most, lines, spaced=spaced)
    refused, _ = LLMatcher.validate_grammar_with_warnings(LLMatcher.grammar_from_lark(source))
    grammar = Grammar("lark", wider) if refused else Grammar("lark", source, wider, largest)
    return replace(grammar, reasoning=reasoning)


_ANY: dict[str, dict[str, Any]] = {"object": {"type": "object"}, "value": {}}


def _source(
    arguments: Sequence[tuple[str, str]],
    document: str | None,
    syntax: CallSyntax,
    most: int,
    lines: Sequence[str],
    *,
    spaced: bool,
) -> str:
    """The grammar of calls with these arguments' rules, or of a document, or of either; `spaced`: behind the empty line
    that models leave when they have reasoned.
    """
    starts = (["calls"] if arguments else []) + ([] if document is None else [document])
    calls = call_rules(arguments, syntax, most) if arguments else []
    answer = " | ".join(starts)
    start = f"/\\n{{0,2}}/ ({answer})" if spaced else answer
    return "\n".join([f"start: {start}", *calls, *lines])


def is_enforced(request: InferenceRequest) -> bool:
    """Whether the answer has a grammar."""
    return demanded_tools(request) is not None or demanded_document(request) is not None


def must_be_judged(request: InferenceRequest) -> bool:
    """Whether the answer has a grammar that may allow what the request does not.

    An enforced call has no text to show before it is whole, so it counts as such.
    """
    if not is_enforced(request):
        return False
    document = demanded_document(request)
    if document is None:
        return True
    schemas = [(document, False)] + [(tool.function.parameters, True) for tool in offered_tools(request)]
    try:
        return not all(enforced_whole(usable_schema(schema, of_tool=of_tool)) for schema, of_tool in schemas)
    except InvalidSchema:
        return True


def demanded_tools(request: InferenceRequest) -> list[Tool] | None:
    """The tools of which one must be called; None when calling is not demanded."""
    match request.tool_choice:
        case "required":
            return request.tools
        case NamedToolChoice(function=named):
            return [tool for tool in request.tools if tool.function.name == named.name]
        case _:
            return None


def demanded_document(request: InferenceRequest) -> Mapping[str, Any] | None:
    """The schema of a text answer; None where any text will do, or where a call is demanded."""
    if demanded_tools(request) is not None:
        return None
    match request.response_format:
        case JsonObjectFormat():
            return {"type": "object"}
        case JsonSchemaFormat(json_schema=wanted):
            return wanted.schema_
        case _:
            return None


def _forms(
    schema: Mapping[str, Any],
    syntax: CallSyntax,
    max_new_tokens: int,
    effort: Effort,
    refusal: str,
    *,
    of_tool: bool = False,
) -> tuple[SchemaForms, Limits]:
    """The forms of the schema's documents; `refusal` begins the message when there are none."""
    try:
        usable = usable_schema(schema, of_tool=of_tool)
    except InvalidSchema as error:
        raise UnsupportedSchema(f"{refusal}: {error}") from None
    limits = _limits(usable, syntax, max_new_tokens)
    forms = SchemaForms(usable, limits, effort)
    if (place := forms.dead_end()) is not None:
        raise UnsupportedSchema(f"{refusal}: what it demands at {place[:200]} cannot be written.")
    return forms, limits


def _limits(schema: Mapping[str, Any], syntax: CallSyntax, max_new_tokens: int) -> Limits:
    """Bounds that bring a document to its end within its tokens."""
    if syntax.native:
        strings = json.dumps(schema).count('"string"')
        return Limits(max(32, 3 * max_new_tokens // max(1, strings)), max(8, max_new_tokens // 16), max_new_tokens)
    # Half of the tokens are left for names, brackets and numbers.
    string = max(8, max_new_tokens // 2 // max(1, _strings(schema, WEAK_ENTRIES)))
    return Limits(string, WEAK_ENTRIES, max_new_tokens)


WEAK_ENTRIES = 4


def _strings(schema: Any, entries: int) -> int:
    """About how many strings a document may hold whose lists have `entries` entries."""
    if isinstance(schema, list):
        return sum(_strings(part, entries) for part in schema)
    if not isinstance(schema, Mapping):
        return 0
    inner = sum(_strings(part, entries) for key, part in schema.items() if key not in DATA)
    if schema.get("type") == "array":
        inner *= min(entries, schema.get("maxItems", entries))
    return inner + (schema.get("type") == "string")
