"""Of which schemas a grammar leaves nothing to judge."""

from typing import Any

import pytest

from shared.json_schema.json_schemas import usable_schema
from worker.json_schema.enforced_whole import enforced_whole


def of_kind(kind: str, **more: Any) -> dict[str, Any]:
    return {"type": "object", "properties": {"kind": {"const": kind}, **more}, "required": ["kind"]}


NODE = {"type": "object", "properties": {"left": {"$ref": "#"}, "value": {"type": "integer", "minimum": 0}}}
UNIQUE = {"type": "array", "items": {"type": "integer"}, "uniqueItems": True}

WHOLE: list[dict[str, Any]] = [
    {},
    NODE,
    {"type": "object", "additionalProperties": {"type": "number"}},
    {"anyOf": [{"type": "string", "maxLength": 3}, {"enum": ["a", 1, None]}]},
    {"type": "array", "prefixItems": [{"type": "string"}], "items": {"type": "number"}, "maxItems": 4},
    {"type": "string", "pattern": "^[a-z]+$"},
    {"type": "number", "multipleOf": 0.01},
    {"type": "string", "format": "date", "uniqueItems": False, "if": {"maxLength": 3}},
    {"oneOf": [{"type": "string"}, {"type": "integer"}, {"type": "null"}]},
    {"oneOf": [{"const": "a"}, {"enum": ["b", "c"]}]},
    {"oneOf": [of_kind("circle", r={"type": "number"}), of_kind("square"), {"$ref": "#/$defs/l"}],
     "$defs": {"l": of_kind("line")}},
    {"properties": {"not": {"type": "string"}, "contains": {"type": "string"}}, "required": ["not"]},
    {"const": {"not": {}, "pattern": "(?=a)"}, "examples": [{"uniqueItems": True}]},
    {"$defs": {"unused": UNIQUE}, "type": "string"},
]  # fmt: skip

JUDGED: list[dict[str, Any]] = [
    UNIQUE,
    {"properties": {"xs": {"$ref": "#/$defs/xs"}}, "$defs": {"xs": UNIQUE}},
    {"type": "string", "not": {"const": "a"}},
    {"if": {"properties": {"a": {"const": 1}}}, "then": {"required": ["b"]}},
    {"type": "array", "contains": {"const": 1}},
    {"type": "object", "dependentRequired": {"a": ["b"]}},
    {"type": "object", "dependencies": {"a": {"required": ["b"]}}},
    {"type": "object", "minProperties": 2},
    {"type": "object", "patternProperties": {"^a": {"type": "number"}}},
    {"oneOf": [{"type": "integer"}, {"type": "number", "minimum": 3}]},
    {"oneOf": [{"type": "string", "minLength": 3}, {"type": "string", "maxLength": 5}]},
    {"oneOf": [of_kind("a"), {"type": "object", "properties": {"b": {"type": "string"}}}]},
    {"type": "string", "pattern": "^(?!a)[a-z]+$"},
    {"type": "number", "multipleOf": 0.123456789123},
    {"enum": ["a", "b"], "pattern": "b"},
]


@pytest.mark.parametrize("schema", WHOLE, ids=str)
def test_what_the_grammar_says_whole_need_not_be_judged(schema: dict[str, Any]) -> None:
    assert enforced_whole(usable_schema(schema, of_tool=False))


@pytest.mark.parametrize("schema", JUDGED, ids=str)
def test_what_the_grammar_may_leave_out_is_judged(schema: dict[str, Any]) -> None:
    assert not enforced_whole(usable_schema(schema, of_tool=False))
