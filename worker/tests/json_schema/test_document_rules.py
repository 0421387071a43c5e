import json
from typing import Any

import pytest
from llguidance import LLTokenizer

from shared.json_schema.json_schemas import usable_schema
from testbed.know_nothing import allows
from worker.engine_protocol import Grammar
from worker.json_schema.document_forms import Limits
from worker.json_schema.document_rules import DocumentRules
from worker.json_schema.schema_forms import SchemaForms

LIMITS = Limits(string=20, entries=4, most=100)

KIND = {"kind": {"type": "string"}, "note": {"type": "string"}}
A = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
B = {"type": "object", "properties": {"b": {"type": "boolean"}}, "required": ["b"]}
CASES: dict[str, tuple[dict[str, Any], list[Any], list[Any]]] = {
    "an object is closed": (
        {"type": "object", "properties": KIND, "required": ["kind"]},
        [{"kind": "x"}, {"kind": "x", "note": "y"}],
        [{}, {"note": "y"}, {"kind": "x", "more": 1}, {"kind": 1}],
    ),
    "beside anyOf": (
        {"type": "object", "properties": KIND, "required": ["kind"], "anyOf": [A, B]},
        [{"kind": "x", "a": 1}, {"kind": "x", "note": "y", "b": True}],
        [{"kind": "x"}, {"a": 1}, {"kind": "x", "a": True}, {"kind": "x", "c": 1}],
    ),
    "in allOf and behind references": (
        {"allOf": [{"$ref": "#/$defs/A"}, B], "$defs": {"A": A}, "properties": {"note": {"maxLength": 2}}},
        [{"a": 1, "b": True}, {"a": 1, "b": True, "note": "yz"}],
        [{"a": 1}, {"b": True}, {"a": 1, "b": True, "note": "xyz"}],
    ),
    "required outside of properties": (
        {"type": "object", "properties": {"x": {"type": "string"}}, "required": ["y", "x"]},
        [{"x": "1", "y": [1, {"z": None}]}, {"x": "1", "y": "2"}],
        [{"x": "1"}, {"y": 1}],
    ),
    "closed by the schema, opened by the schema": (
        {
            "type": "object",
            "properties": {"x": {"type": "object", "additionalProperties": False}},
            "additionalProperties": {"type": "integer"},
        },
        [{}, {"x": {}, "y": 1}, {"y": 1, "z": 2}],
        [{"x": {"y": 1}}, {"y": "1"}, {"x": {}, "x ": "1"}],
    ),
    "by the pattern of a name": (
        {"type": "object", "properties": {"x-a": {"type": "string"}}, "patternProperties": {"^x-": {"maxLength": 3}}},
        [{"x-a": "abc"}, {"x-b": "abc"}],
        [{"x-a": "abcd"}, {"x-b": "abcd"}, {"y": "abc"}, {"x-a": 5}],
    ),
    "some properties": (
        {"type": "object", "properties": {"a": {}, "b": {}, "c": {}}, "minProperties": 1, "maxProperties": 2},
        [{"a": 1}, {"c": 1}, {"a": 1, "c": 2}],
        [{}, {"a": 1, "b": 2, "c": 3}],
    ),
    "two of three": (
        {"type": "object", "properties": {"a": {}, "b": {}, "c": {}}, "minProperties": 2},
        [{"a": 1, "c": 2}, {"b": 1, "c": 2}, {"a": 1, "b": 2, "c": 3}],
        [{}, {"b": 1}],
    ),
    "listed names": (
        {"type": "object", "propertyNames": {"enum": ["a", "b"]}, "additionalProperties": {"type": "integer"}},
        [{"a": 1}, {"a": 1, "b": 2}, {}],
        [{"c": 1}, {"a": "1"}],
    ),
    "if, then": (
        {
            "type": "object",
            "properties": {"kind": {"enum": ["card", "cash"]}, "number": {"type": "string"}},
            "required": ["kind"],
            "if": {"properties": {"kind": {"const": "card"}}},
            "then": {"required": ["number"]},
        },
        [{"kind": "card", "number": "1"}, {"kind": "cash"}],
        [{"kind": "card"}, {"kind": "cheque"}],
    ),
    "dependentRequired": (
        {"type": "object", "properties": {"a": {}, "b": {}}, "dependentRequired": {"a": ["b"]}},
        [{"b": 1}, {"a": 1, "b": 1}, {}],
        [{"a": 1}],
    ),
    "not": (
        {
            "type": "object",
            "properties": {"a": {"not": {"type": "string"}}, "b": {"enum": [1, 2], "not": {"const": 1}}},
        },
        [{"a": 5}, {"a": {"x": "y"}}, {"b": 2}],
        [{"a": "x"}, {"b": 1}],
    ),
    "harmless words": (
        {
            "type": "object",
            "properties": {"a": {"type": "array", "items": {"minLength": 2.0}, "uniqueItems": False}},
            "if": {"required": ["a"]},
            "dependencies": {},
        },
        [{"a": ["xy", "xy"]}],
        [{"a": ["x"]}],
    ),
    "a list": (
        {"type": "array", "items": {"type": "boolean"}, "minItems": 1},
        [[True], [True, False, True, True]],
        [[], [1], [True] * 5],
    ),
    "a tuple": (
        {"type": "array", "prefixItems": [{"type": "string"}, {"type": "integer"}], "minItems": 1},
        [["a"], ["a", 1]],
        [[], [1], ["a", "b"], ["a", 1, 2]],
    ),
    "a tuple with a tail": (
        {"type": "array", "prefixItems": [{"type": "string"}], "items": {"type": "integer"}, "maxItems": 3},
        [[], ["a"], ["a", 1, 2]],
        [["a", "b"], ["a", 1, 2, 3]],
    ),
    "distinct listed values": (
        {"type": "array", "items": {"enum": ["a", "b", 3]}, "uniqueItems": True, "minItems": 2},
        [["b", "a"], [3, "b", "a"]],
        [["a"], ["a", "a"], ["a", "b", 3, "a"]],
    ),
    "a list that contains": (
        {"type": "array", "contains": {"const": 5}, "items": {"type": "integer"}},
        [[5], [5, 1]],
        [[], [1], ["5"]],
    ),
    "several types": (
        {"type": ["integer", "null", "string"], "minimum": 3, "maxLength": 2},
        [3, None, "ab"],
        [2, "abc", True, 3.5],
    ),
    "a type that the words speak of": ({"properties": {"a": {}}, "required": ["a"]}, [{"a": 1}], [5, "a", {}]),
    "literals": (
        {"enum": ['a"b', 1.5, None, {"x": [1]}, 1234567890123456789, "Köln"]},
        ['a"b', 1.5, None, {"x": [1]}, 1234567890123456789, "Köln"],
        ["a", 1, {"x": [2]}, 1234567890123456788],
    ),
    "literals that something else forbids": (
        {"enum": [1, 2, "x", 3], "type": "integer", "minimum": 2},
        [2, 3],
        [1, "x"],
    ),
    "numbers": (
        {"type": "number"},
        [1234567890123456789, 1.6e-19, 6.022e23, -0.5, 0],
        ["1", None],
    ),
    "a price": ({"type": "number", "minimum": 0, "multipleOf": 0.01}, [19.99, 0, 7], [19.999, -1]),
    "a multiple": ({"type": "integer", "multipleOf": 7, "minimum": 1}, [7, 49], [0, 8, 50]),
    "beyond a double": ({"type": "integer", "exclusiveMinimum": 2**53}, [2**53 + 1, 10**30], [2**53, 5]),
    "64 bits": (
        {"type": "integer", "minimum": -(2**63), "maximum": 2**64 - 1},
        [-(2**63), 2**64 - 1, 0],
        [-(2**63) - 1, 2**64],
    ),
    "a string by its pattern": (
        {"type": "string", "pattern": r"^\p{L}{2}-\d$", "maxLength": 4},
        ["ÄB-1"],
        ["AB-12", "A-1"],
    ),
    "a pattern that looks around": ({"type": "string", "pattern": "^(?=a)", "minLength": 2}, ["ab", "xy"], ["a"]),
    "a format": ({"type": "string", "format": "date"}, ["2026-11-22"], ["today"]),
    "a format that nobody knows": ({"type": "string", "format": "phone"}, ["x"], [5]),
    "anything": ({}, [None, 5, "x", [1, [2]], {"a": {"b": 1e-5}}], []),
    "a tree": (
        {"type": "object", "properties": {"in": {"type": "array", "items": {"$ref": "#"}}, "v": {"type": "integer"}}},
        [{"in": [{"v": 1}, {"in": []}]}],
        [{"in": [{"v": "1"}]}],
    ),
    "a way that has no end": (
        {"anyOf": [{"type": "array", "items": {"$ref": "#"}, "minItems": 1}, {"type": "string"}]},
        ["x", [["x"], "y"]],
        [[], [[]]],
    ),
}


def grammar(schema: dict[str, Any]) -> Grammar:
    forms = SchemaForms(usable_schema(schema, of_tool=False), LIMITS)
    assert forms.dead_end() is None
    rules = DocumentRules()
    name = rules.document(forms, LIMITS)
    return Grammar("lark", "\n".join([f"start: {name}", *rules.lines]))


@pytest.mark.parametrize("case", CASES)
def test_a_grammar_allows_what_the_schema_means(case: str, vocabulary: LLTokenizer) -> None:
    schema, meant, others = CASES[case]
    rules = grammar(schema)
    for document, allowed in [*((document, True) for document in meant), *((document, False) for document in others)]:
        text = json.dumps(document, ensure_ascii=False)
        assert allows(rules, text, vocabulary) is allowed, text


def test_strings_and_lists_have_bounds_where_the_schema_has_none(vocabulary: LLTokenizer) -> None:
    rules = grammar({"type": "object", "additionalProperties": {"type": "array", "items": {"type": "string"}}})
    assert allows(rules, json.dumps({"a" * 20: ["b" * 20] * 4}), vocabulary)
    assert not allows(rules, json.dumps({"a": ["b" * 21]}), vocabulary)
    assert not allows(rules, json.dumps({"a" * 21: []}), vocabulary)
    assert not allows(rules, json.dumps({"a": ["b"] * 5}), vocabulary)
    assert not allows(rules, json.dumps({f"a{at}": [] for at in range(5)}), vocabulary)


def test_two_schemas_of_one_answer_do_not_mix(vocabulary: LLTokenizer) -> None:
    rules = DocumentRules()
    names = [
        rules.document(SchemaForms(usable_schema(schema, of_tool=False), LIMITS), LIMITS)
        for schema in ({"$ref": "#/$defs/x", "$defs": {"x": A}}, {"$ref": "#/$defs/x", "$defs": {"x": B}})
    ]
    for name, mine, other in zip(names, [{"a": 1}, {"b": True}], [{"b": True}, {"a": 1}], strict=True):
        one = Grammar("lark", "\n".join([f"start: {name}", *rules.lines]))
        assert allows(one, json.dumps(mine), vocabulary)
        assert not allows(one, json.dumps(other), vocabulary)
