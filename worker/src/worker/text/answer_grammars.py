"""What a request demands of the answer -> a grammar that decoding must follow.

The grammar may be narrower than the client's schema, never wider. It is narrower so that an answer comes to an end
before `max_new_tokens`: one layout of white space, no properties that the schema does not name, numbers as exact as a
double, and, where the schema sets none, bounds for strings and lists. A model whose own template knows no tools is
taken for a weak one: it gets bounds that hold even if every token is one character, and one call per answer, since it
would repeat that call until its tokens run out (SmolLM2-135M does).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llguidance import LLMatcher

from shared.wire.chat import JsonObjectFormat, JsonSchemaFormat, NamedToolChoice, ResponseFormat, Tool
from shared.wire.schemas import InferenceRequest
from worker.engine_protocol import Grammar
from worker.text.call_regions import CLOSE, LISTED, OPEN
from worker.text.codec import Unanswerable
from worker.text.template_abilities import CallForm
from worker.text.tool_calls import offered_tools

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

MAX_CALLS = 4
"""Calls of one enforced answer of a model that knows tools."""

KNOWN_FORMATS = frozenset({"date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri"})
"""String formats that llguidance enforces; others are annotations, as JSON Schema says, and are dropped."""

_LITERAL = ("const", "enum", "default", "examples")
"""Keywords whose value is data, not a schema."""

LAYOUT = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""As Python's json.dumps writes, which is what models have seen in their prompts."""


class UnsupportedSchema(Unanswerable):
    """A schema is valid but cannot be enforced while decoding; the message says which part."""


@dataclass(frozen=True, slots=True)
class CallSyntax:
    """How the model writes calls, down to the tokens."""

    form: CallForm
    tokens: Mapping[str, int]
    """Markers that are tokens of their own: the grammar has to name those by id, their text never comes."""

    native: bool = True
    """Whether the model's own template knows tools."""

    def marker(self, text: str) -> str:
        """A marker as a Lark expression."""
        return f"<[{self.tokens[text]}]>" if text in self.tokens else json.dumps(text)


def call_syntax(tokenizer: "PreTrainedTokenizerFast", form: CallForm, *, native: bool) -> CallSyntax:
    """The syntax of calls in `form` with this tokenizer's tokens."""
    ids = {token.content: token_id for token_id, token in tokenizer.added_tokens_decoder.items()}
    return CallSyntax(form, {text: ids[text] for text in (OPEN, CLOSE, LISTED, "[ARGS]") if text in ids}, native)


def grammar_for(request: InferenceRequest, syntax: CallSyntax, max_new_tokens: int) -> Grammar | None:
    """The grammar of the answer; None when any text will do. Raises UnsupportedSchema.

    `toolChoice` `required`: one call, or up to four where the model knows tools; a named tool: exactly one call of it.
    `responseFormat` binds a text answer, so with tools on offer the answer is a document or calls.
    """
    if not is_enforced(request):
        return None
    demanded = _demanded_tools(request)
    document = _document_schema(request.response_format)
    rules: list[str] = []
    starts: list[str] = []
    if tools := demanded if demanded is not None else offered_tools(request):
        most = MAX_CALLS if syntax.native and not isinstance(request.tool_choice, NamedToolChoice) else 1
        rules += _call_rules(tools, syntax, most, max_new_tokens)
        starts.append("calls")
    if demanded is None and document is not None:
        rules.append(f"document: %json {_bounded(document, syntax, max_new_tokens)}")
        starts.append("document")
    source = "\n".join([f"start: {' | '.join(starts)}", *rules])
    refused, problems = LLMatcher.validate_grammar_with_warnings(LLMatcher.grammar_from_lark(source))
    if refused:
        raise UnsupportedSchema(f"The schema cannot be enforced: {_reason(problems[0])}")
    return Grammar("lark", source)


def is_enforced(request: InferenceRequest) -> bool:
    """Whether the answer has a grammar."""
    return _demanded_tools(request) is not None or _document_schema(request.response_format) is not None


def _demanded_tools(request: InferenceRequest) -> list[Tool] | None:
    """The tools of which one must be called; None when calling is not demanded."""
    match request.tool_choice:
        case "required":
            return request.tools
        case NamedToolChoice(function=named):
            return [tool for tool in request.tools if tool.function.name == named.name]
        case _:
            return None


def _document_schema(response_format: ResponseFormat | None) -> Mapping[str, Any] | None:
    match response_format:
        case JsonObjectFormat():
            return {"type": "object"}
        case JsonSchemaFormat(json_schema=wanted):
            return wanted.schema_
        case _:
            return None


def _call_rules(tools: list[Tool], syntax: CallSyntax, most: int, max_new_tokens: int) -> list[str]:
    """Lark rules for one to `most` calls of `tools`; each tool's schema is a grammar of its own, so that `#` works."""
    arguments = [
        f"arguments_{at}: %json {_bounded(tool.function.parameters, syntax, max_new_tokens // most)}"
        for at, tool in enumerate(tools)
    ]
    names = [tool.function.name for tool in tools]

    def objects(key: str) -> str:
        heads = (json.dumps(f'{{"name": "{name}", "{key}": ') for name in names)
        return " | ".join(f'({head} arguments_{at} "}}")' for at, head in enumerate(heads))

    more = f"{{0,{most - 1}}}"
    match syntax.form:
        case "hermes":
            calls = f'call ("\\n" call){more}' if most > 1 else "call"
            opening, closing = syntax.marker(OPEN), syntax.marker(CLOSE)
            rules = [f'call: {opening} "\\n" object "\\n" {closing}', f"object: {objects('arguments')}"]
        case "mistral":
            calls = f'{syntax.marker(LISTED)} "[" call' + (f' (", " call){more}' if most > 1 else "") + ' "]"'
            rules = [f"call: {objects('arguments')}"]
        case "mistral_named":
            calls = f"call{{1,{most}}}"
            listed, separator = syntax.marker(LISTED), syntax.marker("[ARGS]")
            named = (f"({listed} {json.dumps(name)} {separator} arguments_{at})" for at, name in enumerate(names))
            rules = [f"call: {' | '.join(named)}"]
        case "llama":
            calls = 'call ("; " call)' + more if most > 1 else "call"
            rules = [f"call: {objects('parameters')}"]
    return [f"calls: {calls}", *rules, *arguments]


def _bounded(schema: Mapping[str, Any], syntax: CallSyntax, max_new_tokens: int) -> str:
    """The schema as JSON text, narrowed as the module says."""
    text = json.dumps(schema)
    items = max(8, max_new_tokens // 16) if syntax.native else 4
    if syntax.native:
        string = max(32, 3 * max_new_tokens // max(1, text.count('"string"')))
    else:
        # Half of the tokens are left for names, brackets and numbers.
        string = max(8, max_new_tokens // 2 // max(1, _strings(schema, items)))
    narrowed = _narrowed(schema, _Limits(string, items, closed='"allOf"' not in text and '"$ref"' not in text))
    assert isinstance(narrowed, dict)
    return json.dumps({**narrowed, "x-guidance": LAYOUT})


def _strings(schema: Any, items: int) -> int:
    """About how many strings a document may hold whose lists have `items` entries."""
    if isinstance(schema, list):
        return sum(_strings(part, items) for part in schema)
    if not isinstance(schema, Mapping):
        return 0
    inner = sum(_strings(part, items) for key, part in schema.items() if key not in _LITERAL)
    if schema.get("type") == "array":
        inner *= min(items, schema.get("maxItems", items))
    return inner + (schema.get("type") == "string")


@dataclass(frozen=True, slots=True)
class _Limits:
    string: int
    """Characters."""
    items: int
    closed: bool
    """Whether objects can be closed: not where several schemas speak about one object."""


_NAMED_SCHEMAS = ("properties", "patternProperties", "$defs", "definitions")


def _narrowed(schema: Any, limits: _Limits) -> Any:
    if isinstance(schema, list):
        return [_narrowed(part, limits) for part in schema]
    if not isinstance(schema, Mapping):
        return schema
    narrowed: dict[str, Any] = {}
    for key, value in schema.items():
        if key in _NAMED_SCHEMAS and isinstance(value, Mapping):
            narrowed[key] = {name: _narrowed(part, limits) for name, part in value.items()}
        else:
            narrowed[key] = value if key in _LITERAL else _narrowed(value, limits)
    if narrowed.get("format") not in KNOWN_FORMATS:
        narrowed.pop("format", None)
    if "enum" in narrowed or "const" in narrowed:
        return narrowed
    named = narrowed.get("type", ())
    kinds = {named} if isinstance(named, str) else set(named)
    if "string" in kinds and not narrowed.keys() & {"maxLength", "pattern", "format"}:
        narrowed["maxLength"] = max(limits.string, narrowed.get("minLength", 0))
    if "array" in kinds and "maxItems" not in narrowed:
        narrowed["maxItems"] = max(limits.items, narrowed.get("minItems", 0))
    if kinds & {"integer", "number"}:
        narrowed = _with_range(narrowed)
    if "object" in kinds and narrowed.get("properties") and limits.closed and not narrowed.keys() & _OPEN:
        narrowed["additionalProperties"] = False
    return narrowed


_OPEN = frozenset({"additionalProperties", "patternProperties", "anyOf", "oneOf"})
_EXACT = 2**53
"""Whole numbers up to here are exact in a double."""


def _with_range(schema: dict[str, Any]) -> dict[str, Any]:
    low = {} if schema.keys() & {"minimum", "exclusiveMinimum"} else {"minimum": -_EXACT}
    high = {} if schema.keys() & {"maximum", "exclusiveMaximum"} else {"maximum": _EXACT}
    if schema.get("minimum", 0) > _EXACT or schema.get("maximum", 0) < -_EXACT:
        return schema
    return {**schema, **low, **high}


def _reason(problem: str) -> str:
    """llguidance's first sentence without its position in a text that the client never saw."""
    first = problem.splitlines()[0]
    return first.split("failed to compile JSON schema: ")[-1][:300]
