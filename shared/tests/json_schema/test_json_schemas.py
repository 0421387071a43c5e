from typing import Any

import pytest

from shared.json_schema.json_schemas import MAX_DEPTH, MAX_LARGE_PATTERNS, MAX_NODES, InvalidSchema, usable_schema

SLOW = r"(\p{L}{1,50}){1,20}"
"""Compiles to more than ten megabytes."""


def nested(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(levels - 1):
        schema = {"not": schema}
    return schema


@pytest.mark.parametrize(
    ("schema", "fault"),
    [
        ({"type": "objekt"}, r"\$\.type: 'objekt' is no type"),
        (
            {"properties": {"a": {"type": ["string", "strin"]}}},
            r"\$\.properties\.a\.type: \['string', 'strin'\] is no type",
        ),
        (
            {"properties": {"q": {"type": "string", "required": True}}},
            r"\$\.properties\.q\.required: true is not of type",
        ),
        ({"anyOf": [{}, {"minLength": -1}]}, r"\$\.anyOf\[1\]\.minLength: -1 is less than"),
        ({"$ref": "#"}, "leads back to itself"),
        ({"$ref": "#/type/x", "type": "object"}, "leads nowhere"),
        ({"$ref": "#/$defs/x", "$defs": {"x": {"$ref": "#/nowhere"}}}, "leads nowhere"),
        ({"properties": {"x": {"pattern": "("}}}, r"the pattern '\(' is not a 'regex': missing \)"),
        ({"pattern": "*.txt"}, r"the pattern '\*.txt' is not a 'regex': nothing to repeat"),
        ({"pattern": "[a"}, r"the pattern '\[a' is not a 'regex': unterminated character set"),
        ({"patternProperties": {r"\ud83d": {}}}, "half a surrogate pair"),
        ({"pattern": SLOW}, "it is too large"),
        ({"properties": {str(at): {"pattern": SLOW + str(at)} for at in range(500)}}, "it is too large"),
        (nested(MAX_DEPTH + 1), "nested more than"),
        ({"enum": [{} for _ in range(MAX_NODES)]}, "more than 5000 parts"),
    ],
)
def test_what_no_document_can_be_judged_by_is_refused_by_name(schema: dict[str, Any], fault: str) -> None:
    with pytest.raises(InvalidSchema, match=fault):
        usable_schema(schema, of_tool=False)


@pytest.mark.parametrize(
    "schema",
    [
        nested(MAX_DEPTH),
        {"default": {"$ref": "#/nowhere"}, "examples": {"pattern": "("}, "enum": [{"$ref": "x"}, {"pattern": "*.txt"}]},
        {"uniqueItems": False, "if": {"type": "string"}, "dependencies": {}, "minLength": 2.0},
        {"title": 5, "description": None, "deprecated": "yes", "$schema": "http://json-schema.org/draft-07/schema#"},
        {"properties": {"a": {"$ref": "#"}, "b": {"items": [{"$ref": "#/properties/a"}]}}},
        {"pattern": r"^(?=.*\d)(?<y>\p{L})[^]\u{1F600}\cJ$"},
        {"properties": {str(at): {"pattern": f"(?={at})"} for at in range(10 * MAX_LARGE_PATTERNS)}},
        {"$defs": {"unused": {"$ref": "#/nowhere", "pattern": "("}}},
        {"x-widget": {"pattern": "(", "$ref": 5}},
    ],
)
def test_what_is_only_unusual_is_used(schema: dict[str, Any]) -> None:
    usable_schema(schema, of_tool=False)
    usable_schema({"type": "object", **schema} if "not" not in schema else {"type": "object"}, of_tool=True)


def test_a_tool_is_used_without_the_patterns_that_no_engine_reads() -> None:
    parts = {"half": {"type": "string", "pattern": r"\ud83d"}, "slow": {"pattern": SLOW}, "fine": {"pattern": "^a"}}
    schema = {"type": "object", "properties": parts, "patternProperties": {"(?P<x>a)(?P=x)": {}, "^x-": {}}}
    assert usable_schema(schema, of_tool=True) == {
        "type": "object",
        "properties": {"half": {"type": "string"}, "slow": {}, "fine": {"pattern": "^a"}},
        "patternProperties": {"^x-": {}},
    }


def test_a_pattern_that_is_none_anywhere_is_refused_in_a_tool_too() -> None:
    with pytest.raises(InvalidSchema, match=r"the pattern '\*.txt' is not a 'regex': nothing to repeat"):
        usable_schema({"type": "object", "properties": {"glob": {"pattern": "*.txt"}}}, of_tool=True)


def test_a_tool_takes_an_object() -> None:
    with pytest.raises(InvalidSchema, match='"type": "object"'):
        usable_schema({"type": "array"}, of_tool=True)
