import json
from typing import Any

import jsonschema
import llguidance.hf
import pytest
from llguidance import LLMatcher, LLTokenizer
from tokenizers import AddedToken
from transformers import PreTrainedTokenizerFast

from shared.wire.schemas import InferenceRequest
from testbed.know_nothing import allows, written_by_chance
from worker.engine_protocol import Grammar
from worker.engines.grammar import Grammars
from worker.text.answer_grammars import UnsupportedSchema, grammar_for
from worker.text.answer_stream import parse_answer
from worker.text.call_rules import CallSyntax, call_syntax
from worker.text.template_abilities import CallForm

FORMS: list[CallForm] = ["hermes", "mistral", "mistral_named", "llama"]

WEATHER: dict[str, Any] = {
    "type": "object",
    "properties": {
        "city": {"type": "string"},
        "days": {"type": "integer"},
        "unit": {"enum": ["C", "F"]},
        "tags": {"type": "array", "items": {"type": "string"}},
        "exact": {"type": ["boolean", "null"]},
    },
    "required": ["city", "days", "unit"],
}
TREE: dict[str, Any] = {
    "type": "object",
    "properties": {"at": {"$ref": "#/$defs/point"}, "when": {"type": "string", "format": "date"}},
    "required": ["at"],
    "additionalProperties": False,
    "$defs": {
        "point": {
            "type": "object",
            "properties": {"x": {"type": "number"}, "y": {"type": "number", "minimum": 0}},
            "required": ["x", "y"],
            "additionalProperties": False,
        }
    },
}


@pytest.fixture(scope="module")
def grammars(smollm2: PreTrainedTokenizerFast, vocabulary: LLTokenizer) -> Grammars:
    return Grammars(smollm2, vocabulary.vocab_size, (vocabulary.eos_token,))


def request(**fields: Any) -> InferenceRequest:
    tools = [
        {"type": "function", "function": {"name": name, "parameters": schema}}
        for name, schema in (("weather", WEATHER), ("walk", TREE))
    ]
    asked = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "tools": tools, **fields}
    return InferenceRequest.model_validate(asked)


def named(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name}}


def document(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}


ARGUMENTS = {"city": "Köln", "days": 3, "unit": "C"}
POINT = {"at": {"x": 1.5, "y": 2}, "when": "2026-11-22"}


def calls_text(form: CallForm, *calls: tuple[str, dict[str, Any]]) -> str:
    def text(key: str, name: str, arguments: dict[str, Any]) -> str:
        return json.dumps({"name": name, key: arguments}, ensure_ascii=False)

    match form:
        case "hermes":
            return "\n".join(f"<tool_call>\n{text('arguments', *call)}\n</tool_call>" for call in calls)
        case "mistral":
            return f"[TOOL_CALLS][{', '.join(text('arguments', *call) for call in calls)}]"
        case "mistral_named":
            return "".join(
                f"[TOOL_CALLS]{name}[ARGS]{json.dumps(arguments, ensure_ascii=False)}" for name, arguments in calls
            )
        case "llama":
            return "; ".join(text("parameters", *call) for call in calls)


@pytest.mark.parametrize("form", FORMS)
def test_what_the_grammar_allows_is_what_the_parser_reads(form: CallForm, vocabulary: LLTokenizer) -> None:
    asked = request(tool_choice="required")
    grammar = grammar_for(asked, CallSyntax(form, {}), 256)
    for calls in ([("weather", ARGUMENTS)], [("walk", POINT), ("weather", ARGUMENTS)]):
        text = calls_text(form, *calls)
        assert allows(grammar, text, vocabulary)
        read = parse_answer(text, asked.tools, "task")
        assert (read.text, [(call.name, call.arguments) for call in read.tool_calls]) == ("", calls)
    assert not allows(grammar, "Hello", vocabulary)
    assert not allows(grammar, calls_text(form, ("weather", {**ARGUMENTS, "unit": "K"})), vocabulary)
    assert not allows(grammar, calls_text(form, ("nosuch", ARGUMENTS)), vocabulary)
    assert not allows(grammar, calls_text(form, *[("walk", POINT)] * 5), vocabulary)


@pytest.mark.parametrize("form", FORMS)
def test_a_named_tool_is_called_once_and_no_other(form: CallForm, vocabulary: LLTokenizer) -> None:
    grammar = grammar_for(request(tool_choice=named("walk")), CallSyntax(form, {}), 256)
    assert allows(grammar, calls_text(form, ("walk", POINT)), vocabulary)
    assert not allows(grammar, calls_text(form, ("weather", ARGUMENTS)), vocabulary)
    assert not allows(grammar, calls_text(form, ("walk", POINT), ("walk", POINT)), vocabulary)


def test_a_model_that_knows_no_tools_makes_one_short_call(vocabulary: LLTokenizer) -> None:
    """A weak model repeats a call, or goes on with a string, until its tokens run out."""
    weak = CallSyntax("hermes", {}, native=False)
    grammar = grammar_for(request(tool_choice="required"), weak, 100)
    assert allows(grammar, calls_text("hermes", ("weather", ARGUMENTS)), vocabulary)
    assert not allows(grammar, calls_text("hermes", ("weather", ARGUMENTS), ("weather", ARGUMENTS)), vocabulary)
    assert not allows(grammar, calls_text("hermes", ("weather", {**ARGUMENTS, "city": "x" * 11})), vocabulary)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("seed", range(3))
def test_a_model_that_knows_nothing_writes_a_valid_call(
    form: CallForm, seed: int, vocabulary: LLTokenizer, grammars: Grammars
) -> None:
    asked = request(tool_choice=named("weather" if seed % 2 else "walk"))
    grammar = grammar_for(asked, CallSyntax(form, {}), 256)
    assert grammar is not None
    text = written_by_chance(grammars.compile(grammar)[0], vocabulary, seed, most=256)
    assert text is not None
    read = parse_answer(text, asked.tools, "task")
    assert (read.text, len(read.tool_calls)) == ("", 1)


@pytest.mark.parametrize("special", [True, False])
def test_markers_that_are_tokens_are_demanded_as_tokens(special: bool, smollm2: PreTrainedTokenizerFast) -> None:
    """Qwen's `<tool_call>` is an added token; llguidance would look for its text in vain."""
    wrap: Any = PreTrainedTokenizerFast  # has no types
    tokenizer: PreTrainedTokenizerFast = wrap(tokenizer_object=smollm2.backend_tokenizer, eos_token=smollm2.eos_token)
    tokens = ["<tool_call>", "</tool_call>", "[TOOL_CALLS]", "[ARGS]"]
    tokenizer.add_tokens([AddedToken(token, special=special, normalized=False) for token in tokens])
    vocabulary = llguidance.hf.from_tokenizer(tokenizer)
    for form in FORMS:
        syntax = call_syntax(tokenizer, form, native=True)
        assert set(syntax.tokens) == set(tokens)
        grammar = grammar_for(request(tool_choice=named("walk")), syntax, 256)
        assert grammar is not None
        matcher = LLMatcher(vocabulary, LLMatcher.grammar_from_lark(grammar.source), log_level=0)
        ids = tokenizer.encode(calls_text(form, ("walk", POINT)))
        assert matcher.try_consume_tokens(ids) == len(ids)
        assert matcher.is_accepting()


def test_a_response_format_demands_a_document(vocabulary: LLTokenizer) -> None:
    grammar = grammar_for(request(tools=[], response_format=document(TREE)), CallSyntax("hermes", {}), 256)
    assert allows(grammar, json.dumps(POINT), vocabulary)
    assert not allows(grammar, json.dumps(ARGUMENTS), vocabulary)
    anything = grammar_for(request(tools=[], response_format={"type": "json_object"}), CallSyntax("hermes", {}), 256)
    assert allows(anything, json.dumps({"any": [1, None, {"x": "y"}]}), vocabulary)
    assert not allows(anything, "[1]", vocabulary)


def test_with_tools_and_a_response_format_the_answer_is_a_document_or_calls(vocabulary: LLTokenizer) -> None:
    asked = request(response_format=document(TREE))
    grammar = grammar_for(asked, CallSyntax("hermes", {}), 256)
    assert allows(grammar, json.dumps(POINT), vocabulary)
    assert allows(grammar, calls_text("hermes", ("weather", ARGUMENTS)), vocabulary)
    assert not allows(grammar, "Hello", vocabulary)
    none = grammar_for(request(response_format=document(TREE), tool_choice="none"), CallSyntax("hermes", {}), 256)
    assert not allows(none, calls_text("hermes", ("weather", ARGUMENTS)), vocabulary)
    required = grammar_for(
        request(response_format=document(TREE), tool_choice="required"), CallSyntax("llama", {}), 256
    )
    assert not allows(required, json.dumps(POINT), vocabulary)


def test_free_text_needs_no_grammar() -> None:
    assert grammar_for(request(), CallSyntax("hermes", {}), 256) is None
    assert (
        grammar_for(request(tool_choice="none", response_format={"type": "text"}), CallSyntax("hermes", {}), 256)
        is None
    )


@pytest.mark.parametrize("seed", range(4))
def test_a_model_that_knows_nothing_writes_a_valid_document(
    seed: int, vocabulary: LLTokenizer, grammars: Grammars
) -> None:
    schema = {
        "type": "object",
        "properties": {"weather": WEATHER, "walk": TREE["$defs"]["point"]},
        "required": ["walk"],
    }
    grammar = grammar_for(request(tools=[], response_format=document(schema)), CallSyntax("hermes", {}), 256)
    assert grammar is not None
    text = written_by_chance(grammars.compile(grammar)[0], vocabulary, seed, most=256)
    assert text is not None
    jsonschema.validate(json.loads(text), schema)


def test_bounds_that_the_schema_sets_are_kept_and_formats_that_nobody_knows_are_dropped(
    vocabulary: LLTokenizer,
) -> None:
    schema = {"type": "object", "properties": {"s": {"type": "string", "maxLength": 500, "format": "phone"}}}
    grammar = grammar_for(request(tools=[], response_format=document(schema)), CallSyntax("hermes", {}), 16)
    assert allows(grammar, json.dumps({"s": "x" * 500}), vocabulary)
    assert not allows(grammar, json.dumps({"s": "x" * 501}), vocabulary)


@pytest.mark.parametrize(
    ("schema", "place"),
    [
        ({"type": "object", "properties": {"a": False}, "required": ["a"]}, r"\$\.a "),
        ({"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]}, r"\$\.a "),
        ({"type": "array", "items": {"type": "string", "enum": [1, 2]}, "minItems": 1}, r"\$\[0\] "),
        ({"type": "integer", "minimum": 5, "maximum": 4}, r"\$ "),
        ({"allOf": [{"type": "string"}, {"type": "number"}]}, r"\$ "),
        ({"type": "string", "pattern": "^a{5}$", "maxLength": 3}, r"\$ "),
        ({"type": "object", "required": ["a", "b"], "maxProperties": 1}, r"\$ "),
    ],
)
def test_a_schema_that_nothing_satisfies_is_refused_by_the_place(schema: dict[str, Any], place: str) -> None:
    with pytest.raises(UnsupportedSchema, match=place):
        grammar_for(request(tools=[], response_format=document(schema)), CallSyntax("hermes", {}), 256)


def test_a_tool_that_nobody_can_call_does_not_cost_the_others(vocabulary: LLTokenizer) -> None:
    asked = request(tool_choice="required")
    asked.tools[0].function.parameters = {"type": "object", "properties": {"x": False}, "required": ["x"]}
    grammar = grammar_for(asked, CallSyntax("hermes", {}), 256)
    assert allows(grammar, calls_text("hermes", ("walk", POINT)), vocabulary)
    assert not allows(grammar, calls_text("hermes", ("weather", {"x": 1})), vocabulary)
    asked.tools[1:] = []
    with pytest.raises(UnsupportedSchema, match=r"The tool 'weather' cannot be called: .* at \$\.x "):
        grammar_for(asked, CallSyntax("hermes", {}), 256)


def test_what_only_a_finished_document_shows_is_left_to_its_judge(vocabulary: LLTokenizer) -> None:
    schema = {"type": "array", "items": {"type": "integer"}, "uniqueItems": True, "contains": {"minimum": 5}}
    grammar = grammar_for(request(tools=[], response_format=document(schema)), CallSyntax("hermes", {}), 256)
    assert allows(grammar, "[5, 5]", vocabulary)
    assert not allows(grammar, "[5, true]", vocabulary)


def test_a_grammar_has_a_wider_one_behind_it(vocabulary: LLTokenizer) -> None:
    """For a schema that is too much for the matcher: what it allows, the wider one allows as well."""
    grammar = grammar_for(request(response_format=document(TREE)), CallSyntax("hermes", {}), 256)
    assert grammar is not None
    wider = Grammar("lark", grammar.wider)
    for text in (json.dumps(POINT), json.dumps({"at": [1e-5, "x"]}), calls_text("hermes", ("weather", ARGUMENTS))):
        assert allows(wider, text, vocabulary)
    assert not allows(wider, calls_text("hermes", ("nosuch", ARGUMENTS)), vocabulary)
