import json
from typing import Any

import numpy as np
import pytest
from llguidance import LLTokenizer
from transformers import PreTrainedTokenizerFast

from shared.wire.schemas import InferenceRequest
from testbed.know_nothing import written_by_chance, written_in_circles
from worker.engine_protocol import Grammar
from worker.engines.constraint import Constraint, InvalidGrammar
from worker.engines.grammar import Grammars
from worker.text.answer_grammars import grammar_for
from worker.text.call_rules import CallSyntax

PEOPLE: dict[str, Any] = {
    "type": "object",
    "properties": {
        "people": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "name": {"type": "string"},
                    "age": {"type": "integer"},
                    "address": {
                        "type": "object",
                        "properties": {"street": {"type": "string"}, "town": {"type": "string", "minLength": 3}},
                        "required": ["street", "town"],
                    },
                },
                "required": ["name"],
            },
        },
        "total": {"type": "number"},
    },
    "required": ["people", "total"],
}
TREE: dict[str, Any] = {
    "anyOf": [{"type": "array", "items": {"$ref": "#"}, "minItems": 2, "maxItems": 3}, {"type": "string"}],
}
OPEN = {"type": "object"}


@pytest.fixture(scope="module")
def grammars(smollm2: PreTrainedTokenizerFast, vocabulary: LLTokenizer) -> Grammars:
    return Grammars(smollm2, vocabulary.vocab_size, (vocabulary.eos_token,))


def grammar(schema: dict[str, Any], most: int) -> Grammar:
    document = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    asked = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "response_format": document}
    made = grammar_for(InferenceRequest.model_validate(asked), CallSyntax("hermes", {}), most)
    assert made is not None
    return made


@pytest.mark.parametrize("schema", [PEOPLE, TREE, OPEN], ids=["people", "tree", "open"])
@pytest.mark.parametrize("most", [24, 25, 30, 40, 64, 100, 200])
def test_a_document_ends_however_little_room_it_has(
    schema: dict[str, Any], most: int, grammars: Grammars, vocabulary: LLTokenizer
) -> None:
    for seed in range(6):
        text = written_by_chance(grammars.compile(grammar(schema, most))[0], vocabulary, seed, most)
        assert text is not None
        json.loads(text)


@pytest.mark.parametrize(
    ("schema", "loved"),
    [
        ({"type": "string"}, "a"),
        ({"type": "string", "pattern": r"^\s*$"}, " "),
        ({"type": "array", "items": {"type": "integer"}}, "0"),
        ({"type": "array", "items": {"type": "array", "items": {"type": "string"}}}, "["),
        (OPEN, '"'),
        ({}, "["),
        (TREE, "["),
    ],
    ids=str,
)
@pytest.mark.parametrize("wider", [False, True])
def test_a_model_that_runs_in_circles_comes_to_the_end_of_a_document(
    schema: dict[str, Any], loved: str, wider: bool, grammars: Grammars, vocabulary: LLTokenizer
) -> None:
    """Nobody watches for repetitions where there is a grammar: the grammar has to end them."""
    made = grammar(schema, 300)
    constraint = grammars.compile(Grammar("lark", made.wider) if wider else made)[0]
    text = written_in_circles(constraint, vocabulary, vocabulary.tokenize_str(loved)[0], 300)
    assert text is not None
    json.loads(text)


def test_where_room_is_short_brackets_close_and_do_not_fill_strings(
    grammars: Grammars, smollm2: PreTrainedTokenizerFast, vocabulary: LLTokenizer
) -> None:
    """A model that loves brackets: it takes the longest token of them that is allowed, and else a quote."""
    schema = {"type": "object", "properties": {name: {"type": "string"} for name in "xyz"}, "required": ["x", "y"]}
    brackets = sorted((i for token, i in smollm2.get_vocab().items() if set(token) <= set('"}]')), reverse=True)
    for most in range(12, 24):
        constraint = grammars.compile(grammar(schema, most))[0]
        written: list[int] = []
        while len(written) < most:
            mask = constraint.allowed(most - len(written)).view(np.uint8)[0]
            allowed = set(np.flatnonzero(np.unpackbits(mask, bitorder="little")).tolist())
            token = next((i for i in brackets if i in allowed), min(allowed))
            written.append(token)
            if constraint.take(token):
                break
        assert json.loads(vocabulary.decode_str(written)).keys() == {"x", "y"}


def test_the_first_tokens_are_free_where_there_is_room(grammars: Grammars, vocabulary: LLTokenizer) -> None:
    constraint = grammars.compile(grammar(PEOPLE, 200))[0]
    for token in vocabulary.tokenize_str('{"people": [{"name": "A'):
        mask = np.unpackbits(constraint.allowed(200).view(np.uint8)[0], bitorder="little")
        assert mask[token]
        constraint.take(token)
    assert mask.sum() > 10_000


def test_what_an_earlier_attempt_wrote_is_taken(grammars: Grammars, vocabulary: LLTokenizer) -> None:
    ids = tuple(vocabulary.tokenize_str('{"people": [], "total": 5}'))
    made = grammar(PEOPLE, 100)
    assert grammars.compile(made, ids)[1]
    constraint, complete = grammars.compile(made, ids[:-1])
    assert not complete
    assert constraint.take(ids[-1])


@pytest.mark.parametrize(
    "pattern",
    [r"(\p{L}{1,50}){1,20}x(\w+\s){3,90}", r"(\p{L}{1,50}){1,20}x(\w+\s){3,90}|^.{3}$"],
)
@pytest.mark.parametrize("seed", range(3))
def test_a_grammar_that_becomes_too_much_goes_on_under_a_wider_one(
    pattern: str, seed: int, grammars: Grammars, vocabulary: LLTokenizer
) -> None:
    rule = json.dumps({"type": "string", "pattern": pattern, "x-guidance": {"whitespace_flexible": False}})
    heavy = Grammar("lark", f'start: "{{\\"a\\": " %json {rule} "}}"', 'start: %json {"type": "object"}')
    constraint = grammars.compile(heavy)[0]
    text = written_by_chance(constraint, vocabulary, seed, 100)
    assert text is not None
    assert json.loads(text).keys() == {"a"}
    with pytest.raises(InvalidGrammar, match="too many expressions"):
        written_by_chance(grammars.compile(Grammar("lark", heavy.source))[0], vocabulary, seed, 100)


def test_a_grammar_that_cannot_be_compiled_is_replaced_by_the_wider_one(grammars: Grammars) -> None:
    constraint, _ = grammars.compile(Grammar("lark", "start: nothing", 'start: "a"'))
    assert isinstance(constraint, Constraint)
    with pytest.raises(InvalidGrammar):
        grammars.compile(Grammar("lark", "start: nothing"))


def test_whatever_the_matcher_raises_ends_one_request(grammars: Grammars, monkeypatch: pytest.MonkeyPatch) -> None:
    constraint = grammars.compile(grammar(PEOPLE, 100))[0]

    def panic(matcher: object, mask: object) -> None:
        raise BaseException("a panic of Rust")

    monkeypatch.setattr("llguidance.numpy.fill_next_token_bitmask", panic)
    with pytest.raises(InvalidGrammar, match="a panic of Rust"):
        constraint.allowed(10)
