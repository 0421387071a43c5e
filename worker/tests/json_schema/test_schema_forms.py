from typing import Any

import pytest

from shared.json_schema.json_schemas import usable_schema
from worker.json_schema.document_forms import Limits
from worker.json_schema.schema_forms import MAX_VALUES, SchemaForms

LIMITS = Limits(string=20, entries=4, most=100)


def forms(schema: dict[str, Any]) -> SchemaForms:
    return SchemaForms(usable_schema(schema, of_tool=False), LIMITS)


@pytest.mark.parametrize(
    ("schema", "place"),
    [
        (
            {"type": "object", "properties": {"a": {"properties": {"b": False}, "required": ["b"]}}, "required": ["a"]},
            "$.a.b",
        ),
        ({"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]}, "$.a"),
        ({"type": "array", "items": {"enum": []}, "minItems": 2}, "$[0]"),
        ({"anyOf": [{"type": "array", "items": {"$ref": "#"}, "minItems": 1}]}, "$[0]"),
        ({"type": ["string", "number"], "minLength": 3, "maxLength": 2, "minimum": 2, "exclusiveMaximum": 2}, "$"),
    ],
)
def test_the_place_where_nothing_can_be_written_is_named(schema: dict[str, Any], place: str) -> None:
    assert forms(schema).dead_end() == place


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "properties": {"a": False, "b": {"$ref": "#"}}},
        {"type": "array", "items": False},
        {"anyOf": [False, {"type": "array", "items": {"$ref": "#"}, "minItems": 1}, {"type": "null"}]},
    ],
)
def test_what_may_stay_away_is_no_dead_end(schema: dict[str, Any]) -> None:
    assert forms(schema).dead_end() is None


def test_kinds_of_objects_are_told_apart_by_their_literals() -> None:
    """Or the branches of twenty conditions would be combined with each other."""
    kinds = [f"kind{at}" for at in range(20)]
    conditions = [
        {
            "if": {"properties": {"kind": {"const": kind}}},
            "then": {"properties": {kind: {"type": "string"}}, "required": [kind]},
        }
        for kind in kinds
    ]
    schema = {"type": "object", "properties": {"kind": {"enum": kinds}}, "required": ["kind"], "allOf": conditions}
    assert len(list(forms(schema).values)) < 400
    for needed in (["kind"], []):
        # What they allow when there are too many of them to be combined is left to the judge, and is no dead end.
        assert forms({**schema, "required": needed}).dead_end() is None


@pytest.mark.parametrize(
    "schema",
    [
        {"allOf": [{"anyOf": [{"required": [f"a{at}"]}, {"required": [f"b{at}"]}]} for at in range(40)]},
        {"type": "object", "dependentRequired": {f"a{at}": [f"a{at + 1}"] for at in range(60)}},
        {"allOf": [{"properties": {f"p{at}": {}}, "anyOf": [{}, {"minProperties": at}]} for at in range(700)]},
    ],
)
def test_forms_stay_within_bounds_however_many_ways_there_are(schema: dict[str, Any]) -> None:
    found = forms(schema)
    assert len(list(found.values)) <= MAX_VALUES
    assert found.dead_end() is None


def test_the_largest_part_is_what_must_be_written_once_it_is_begun() -> None:
    inner = {"type": "object", "properties": {f"name{at}": {"type": "string"} for at in range(9)}}
    optional = {"type": "object", "properties": {"a": inner}}
    required = {"type": "object", "properties": {"a": {**inner, "required": list(inner["properties"])}}}
    assert forms(optional).largest_part() < 5
    assert 40 < forms(required).largest_part() < 120
