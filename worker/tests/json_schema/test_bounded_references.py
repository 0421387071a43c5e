from typing import Any

import pytest

from worker.json_schema.allowance import CannotBeJudged
from worker.json_schema.document_check import DocumentCheck


def doubling(levels: int, keyword: str) -> dict[str, Any]:
    """A schema whose every level is looked at twice as often as the one above it."""
    twice = {f"a{at}": {keyword: [{"$ref": f"#/$defs/a{at + 1}"}] * 2} for at in range(levels)}
    return {"$ref": "#/$defs/a0", "$defs": {**twice, f"a{levels}": {"type": "string"}}}


@pytest.mark.parametrize("keyword", ["anyOf", "oneOf", "allOf"])
def test_references_that_double_at_each_level_give_no_verdict(keyword: str) -> None:
    document = "text" if keyword == "allOf" else 7
    with pytest.raises(CannotBeJudged, match="its references would take too long"):
        DocumentCheck(doubling(200, keyword)).judge(document)
    assert DocumentCheck(doubling(6, keyword)).judge(document) is (keyword == "allOf")


def test_references_that_double_with_the_document_come_to_an_end() -> None:
    again = {"type": "object", "properties": {"a": {"$ref": "#"}}, "additionalProperties": False}
    document: dict[str, Any] = {"b": 1}
    for _ in range(100):
        document = {"a": document}
    assert not DocumentCheck({"anyOf": [again, {**again, "maxProperties": 1}]}).accepts(document)


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#"},
        {"allOf": [{"$ref": "#"}, {"type": "object"}]},
        {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}},
        {
            "$ref": "#/$defs/a0",
            "$defs": {f"a{at}": {"anyOf": [{"$ref": f"#/$defs/a{to}"} for to in range(12)]} for at in range(12)},
        },
    ],
)
def test_a_circle_of_references_comes_to_an_end(schema: dict[str, Any]) -> None:
    DocumentCheck(schema).accepts({})


KINDS = [str(kind) for kind in range(10)]


def tree(depth: int) -> Any:
    return depth if depth == 0 else {"kind": KINDS[depth % 10], "left": tree(depth - 1), "right": tree(depth - 1)}


def test_a_tree_of_many_kinds_of_nodes_is_judged() -> None:
    node = {"$ref": "#/$defs/node"}
    kinds = [
        {
            "type": "object",
            "properties": {"left": node, "right": node, "kind": {"const": kind}},
            "required": ["kind", "left", "right"],
            "additionalProperties": False,
        }
        for kind in KINDS
    ]
    schema = {**node, "$defs": {"node": {"oneOf": [*kinds, {"type": "integer"}]}}}
    check = DocumentCheck(schema)
    assert check.judge(tree(9))
    assert not check.judge({**tree(9), "right": "leaf"})


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        ({"properties": {"a": {"$ref": "#/$defs/x", "minLength": 2}}, "$defs": {"x": {"type": "string"}}}, "ab", "a"),
        ({"properties": {"a": {"$ref": "#here"}}, "$defs": {"x": {"$anchor": "here", "type": "string"}}}, "ab", 1),
        ({"properties": {"a": {"$ref": "other"}}, "$defs": {"x": {"$id": "other", "type": "string"}}}, "ab", 1),
        ({"properties": {"a": {"$ref": "#/properties/b"}, "b": {"type": "string"}}}, "ab", 1),
        ({"properties": {"a": {"$ref": "#/allOf/0"}}, "allOf": [{"type": ["string", "object"]}]}, "ab", 1),
        (
            {"properties": {"a": {"$dynamicRef": "#x"}}, "$defs": {"x": {"$dynamicAnchor": "x", "minLength": 2}}},
            "ab",
            "a",
        ),
        ({"properties": {"a": {"const": {"$ref": "#/nowhere"}}}}, {"$ref": "#/nowhere"}, 1),
        ({"properties": {"a": {"enum": [{"$ref": "x"}], "default": {"$ref": 7}}}}, {"$ref": "x"}, 1),
        ({"properties": {"$ref": {"type": "string"}, "a": {"$ref": "#/properties/%24ref"}}}, "ab", 1),
        (
            {
                "properties": {"a": {"$ref": "#/$defs/x", "unevaluatedProperties": False}},
                "$defs": {"x": {"properties": {"y": {}}}},
            },
            {"y": 1},
            {"z": 1},
        ),
    ],
)
def test_a_meter_changes_no_verdict(schema: dict[str, Any], good: object, bad: object) -> None:
    check = DocumentCheck(schema)
    assert check.judge({"a": good})
    assert not check.judge({"a": bad})


@pytest.mark.parametrize("value", [-1, 10**9, True, "gratis"])
def test_a_client_cannot_set_the_meter(value: object) -> None:
    schema = doubling(200, "anyOf")
    schema["$defs"]["a0"]["x-reference-meter"] = value
    assert not DocumentCheck(schema).accepts(7)
