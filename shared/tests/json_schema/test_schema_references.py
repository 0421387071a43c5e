import re
from typing import Any

import pytest

from shared.json_schema.schema_dialects import InvalidSchema
from shared.json_schema.schema_references import SchemaReferences

TEXT: dict[str, Any] = {"type": "string"}


@pytest.mark.parametrize(
    ("reference", "rest"),
    [
        ("#/$defs/a~1b~0c%20d", {"$defs": {"a/b~c d": TEXT}}),
        ("#/anyOf/1", {"anyOf": [{}, TEXT]}),
        ("#name", {"$defs": {"x": {"$anchor": "name", **TEXT}}}),
        ("#name", {"$defs": {"x": {"$dynamicAnchor": "name", **TEXT}}}),
        ("http://e/x", {"$defs": {"x": {"$id": "http://e/x", **TEXT}}}),
        ("x", {"$id": "http://e/root", "$defs": {"x": {"$id": "x", **TEXT}}}),
        ("http://e/root#/$defs/x", {"$id": "http://e/root", "$defs": {"x": TEXT}}),
        ("#/$defs/x", {"$id": "http://e/root", "$defs": {"x": TEXT}}),
        ("#/components/schemas/x", {"components": {"schemas": {"x": TEXT}}}),
        ("#/$defs/outer/$defs/inner", {"$defs": {"outer": {"$id": "o", "$defs": {"inner": TEXT}}}}),
    ],
)
def test_a_reference_leads_to_its_schema(reference: str, rest: dict[str, Any]) -> None:
    schema = {"$ref": reference, **rest}
    references = SchemaReferences(schema)
    assert references.target(schema, reference)["type"] == "string"
    assert {"string"} <= {part.get("type") for part in references.used()}


def test_a_reference_is_read_from_where_it_stands() -> None:
    inner = {"$id": "T", "$defs": {"U": TEXT}, "properties": {"n": {"$ref": "#/$defs/U"}}}
    schema = {"properties": {"a": {"$ref": "T"}}, "$defs": {"T": inner}}
    assert TEXT in SchemaReferences(schema).used()
    schema["$defs"] = {"T": {**inner, "$defs": {}}, "U": TEXT}
    with pytest.raises(InvalidSchema, match=re.escape("$ref '#/$defs/U' leads nowhere")):
        SchemaReferences(schema).used()


@pytest.mark.parametrize(
    ("schema", "fault"),
    [
        ({"$ref": "#/required/a", "required": ["a"]}, "leads nowhere"),
        ({"$ref": "#/required/0", "required": ["a"]}, "leads to str, which is no schema"),
        ({"$ref": "#/required", "required": ["a"]}, "leads to list, which is no schema"),
        ({"$ref": "#/type/x", "type": "object"}, "leads nowhere"),
        ({"$ref": "#/type", "type": "object"}, "leads to str, which is no schema"),
        ({"$ref": "#/anyOf/-1", "anyOf": [{}]}, "leads nowhere"),
        ({"$ref": f"#/anyOf/{'9' * 5000}", "anyOf": [{}]}, "leads nowhere"),
        ({"$ref": "#/minLength", "minLength": 1}, "leads to int, which is no schema"),
        ({"$ref": "#nobody"}, "leads nowhere"),
        ({"$dynamicRef": "#nobody"}, "leads nowhere"),
        ({"$ref": "http://e/x"}, "points outside the schema"),
        ({"$ref": "http://[::1"}, "outside the schema|no URI reference"),
        ({"$id": "http://[::1", "$ref": "x"}, "no URI reference|outside the schema"),
    ],
)
def test_a_reference_that_leads_to_no_schema_is_named(schema: dict[str, Any], fault: str) -> None:
    with pytest.raises(InvalidSchema, match=fault):
        SchemaReferences({"properties": {"deep": {"items": {"allOf": [schema]}}}, **schema}).used()


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#"},
        {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}},
        {"allOf": [{"$ref": "#"}]},
        {"anyOf": [{"type": "string"}, {"$ref": "#"}]},
        {"oneOf": [{"not": {"if": {"$ref": "#"}}}]},
        {"dependentSchemas": {"a": {"$ref": "#"}}},
        {"$dynamicAnchor": "me", "$dynamicRef": "#me"},
        {"properties": {"a": {"$ref": "#/properties/a"}}},
    ],
)
def test_a_circle_with_no_value_in_it_is_named(schema: dict[str, Any]) -> None:
    with pytest.raises(InvalidSchema, match="leads back to itself"):
        SchemaReferences(schema).used()


@pytest.mark.parametrize("keyword", ["properties", "patternProperties", "additionalProperties", "items", "contains"])
def test_a_recursive_schema_is_no_circle(keyword: str) -> None:
    inner: Any = {"$ref": "#"}
    schema = {keyword: {"x": inner} if keyword.endswith("roperties") and keyword[0] == "p" else inner}
    assert len(SchemaReferences(schema).used()) == 2


def test_what_nobody_uses_may_lead_nowhere() -> None:
    SchemaReferences({"type": "string", "$defs": {"x": {"$ref": "#/nowhere"}}}).used()


@pytest.mark.parametrize(
    "schema",
    [
        {
            "$ref": "#/$defs/d0",
            "$defs": {f"d{at}": {"$ref": f"#/$defs/d{at + 1}"} for at in range(2400)} | {"d2400": True},
        },
        {
            "allOf": [{"$ref": f"#a{at}"} for at in range(1600)],
            "$defs": {str(at): {"$anchor": f"a{at}"} for at in range(1600)},
        },
        {"allOf": [{"$ref": "#/$defs/x"}] * 2400, "$defs": {"x": {"properties": {str(at): {} for at in range(2400)}}}},
    ],
    ids=["a chain", "anchors", "one target"],
)
def test_the_work_grows_with_the_size_of_the_schema_and_no_faster(schema: dict[str, Any]) -> None:
    SchemaReferences(schema).used()  # some 30 ms; were it quadratic, minutes
