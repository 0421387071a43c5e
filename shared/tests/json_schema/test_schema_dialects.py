from typing import Any

import pytest

from shared.json_schema.schema_dialects import in_one_dialect


@pytest.mark.parametrize(
    ("older", "newer"),
    [
        (
            {"items": [{"type": "string"}], "additionalItems": False},
            {"prefixItems": [{"type": "string"}], "items": False},
        ),
        ({"items": {"type": "string"}, "additionalItems": False}, {"items": {"type": "string"}}),
        ({"minimum": 1, "exclusiveMinimum": True}, {"minimum": 1, "exclusiveMinimum": 1}),
        ({"maximum": 1, "exclusiveMaximum": False}, {"maximum": 1}),
        ({"exclusiveMaximum": True}, {}),
        (
            {"dependencies": {"a": ["b"], "b": {"minProperties": 2.0}}},
            {"dependentRequired": {"a": ["b"]}, "dependentSchemas": {"b": {"minProperties": 2}}},
        ),
        ({"dependencies": {}}, {}),
        ({"minLength": 2.0, "maxItems": 3.5}, {"minLength": 2, "maxItems": 3.5}),
        ({"required": ["a", "b", "a"]}, {"required": ["a", "b"]}),
        ({"$ref": "#/properties/a/items/1/items/0"}, {"$ref": "#/properties/a/prefixItems/1/prefixItems/0"}),
        ({"$schema": "http://json-schema.org/draft-07/schema#", "type": "string"}, {"type": "string"}),
        (
            {"pattern": "[^]", "patternProperties": {"[^]": {"pattern": r"\cJ"}}},
            {"pattern": r"[\s\S]", "patternProperties": {r"[\s\S]": {"pattern": r"\x{A}"}}},
        ),
        (
            {"components": {"schemas": {"A": {"pattern": "[^]"}}}},
            {"components": {"schemas": {"A": {"pattern": r"[\s\S]"}}}},
        ),
        ({"$ref": "#/patternProperties/%5Ba-%5D~1/x"}, {"$ref": "#/patternProperties/%5Ba%5Cx%7B2D%7D%5D~1/x"}),
        (
            {"defs": {"title": {"title": "Title", "exclusiveMaximum": True}, "more": {"default": {"minLength": 2.0}}}},
            {"defs": {"title": {}, "more": {"default": {"minLength": 2}}}},
        ),
    ],
)
def test_older_words_become_newer_ones(older: dict[str, Any], newer: dict[str, Any]) -> None:
    assert in_one_dialect(older) == newer
    assert in_one_dialect({"properties": {"x": {"anyOf": [older]}}}) == {"properties": {"x": {"anyOf": [newer]}}}


def test_data_is_not_read_as_schema() -> None:
    odd = {"$ref": "nowhere", "pattern": "*.txt", "minLength": 2.0, "items": [1], "default": 5}
    schema = {
        "default": odd,
        "examples": odd,
        "const": odd,
        "enum": [odd],
        "properties": {"default": {"type": "string"}, "examples": {"const": [odd]}, "pattern": {"enum": [odd]}},
    }
    assert in_one_dialect(schema) == {
        "const": odd,
        "enum": [odd],
        "properties": {"default": {"type": "string"}, "examples": {"const": [odd]}, "pattern": {"enum": [odd]}},
    }


def test_a_pattern_that_cannot_be_rewritten_stays() -> None:
    assert in_one_dialect({"pattern": "[a"}) == {"pattern": "[a"}
