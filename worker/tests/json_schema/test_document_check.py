import json
from typing import Any

import pytest

from worker.json_schema import document_check
from worker.json_schema.allowance import Allowance, CannotBeJudged
from worker.json_schema.document_check import MAX_DEPTH, UNITS, DocumentCheck


def of_string(pattern: str) -> dict[str, Any]:
    return {"type": "object", "properties": {"a": {"type": "string", "pattern": pattern}}}


def nested(levels: int) -> Any:
    document: Any = {}
    for _ in range(levels - 1):
        document = {"a": document}
    return document


ORDER = {
    "type": "object",
    "properties": {"id": {"type": "integer"}, "lines": {"type": "array", "items": {"$ref": "#/$defs/line"}}},
    "required": ["id"],
    "$defs": {"line": {"type": "object", "properties": {"sku": {"type": "string", "pattern": r"^[A-Z]{3}-\d+$"}}}},
}


def test_a_document_is_judged_by_its_schema() -> None:
    check = DocumentCheck(ORDER)
    assert check.judge({"id": 1, "lines": [{"sku": "ABC-1"}]})
    assert not check.judge({"id": 1, "lines": [{"sku": "abc-1"}]})
    assert not check.judge({"lines": []})


@pytest.mark.parametrize(
    "schema",
    [
        {"uniqueItems": True},
        {"not": {"maxItems": 2}},
        {"if": {"minItems": 2}, "then": {"minItems": 3}},
        {"contains": {"const": "x"}},
        {"oneOf": [{"minItems": 3}, {"maxItems": 1}]},
        {"prefixItems": [{"const": 1}, {"const": 2}]},
    ],
)
def test_what_a_grammar_cannot_enforce_is_judged(schema: dict[str, Any]) -> None:
    check = DocumentCheck({"type": "array", **schema})
    assert check.judge([1, 2, "x"])
    assert not check.judge([1, 1])


def test_every_amount_of_cents_is_a_multiple_of_a_cent() -> None:
    check = DocumentCheck({"multipleOf": 0.01})
    assert check.judge(19.99)
    assert [cents for cents in range(10_001) if not check.judge(json.loads(f"{cents / 100:.2f}"))] == []
    assert not check.judge(19.995)
    assert DocumentCheck({"multipleOf": 0.1}).judge(0.3)
    assert DocumentCheck({"multipleOf": 1e-8}).judge(3e-8)


@pytest.mark.parametrize(
    ("pattern", "matching", "other"),
    [
        (r"^(\w+\s?)*$", "many words", "a" * 31 + "!"),
        (r"^(a|a)*$", "aaa", "a" * 60 + "b"),
        (r"^(a+)+$", "aaa", "a" * 5_000 + "b"),
        (r"(x+x+)+y", "xxy", "x" * 5_000),
        (r"^(?!.*\.\.)(\w+\.?)+$", "a.b", "a" * 60 + "!"),
        (r"^(a+)+\1$", "aaaa", "a" * 60 + "b"),
        (r"^(?=.*\d)(?=.*[a-z]).{8,}$", "abcdefg1", "abcdefgh"),
        (r"^\p{Lu}\p{L}*$", "Émile", "émile"),
        (r"^(?<year>\d{4})$", "2026", "226"),
        (r"^[^]$", "\n", ""),
        (r"^\u{1F600}$", "😀", "u"),
        (r"^\cJ$", "\n", "J"),
        (r"^\d+$", "7", "\u0667"),
    ],
)
def test_no_pattern_takes_long(pattern: str, matching: str, other: str) -> None:
    check = DocumentCheck(of_string(pattern))
    assert check.judge({"a": matching})
    assert not check.judge({"a": other})


def test_a_pattern_that_backtracks_is_not_matched_against_a_long_text() -> None:
    check = DocumentCheck(of_string(r"^(?!/)(?=(\w+\s?)*$)"))
    with pytest.raises(CannotBeJudged, match="257 characters are too many"):
        check.judge({"a": "a" * 257})
    # That was this document's trouble alone, and what the pattern does not look at may be long.
    assert check.judge({"a": "a b", "text": "long " * 10_000})


@pytest.mark.parametrize(
    "pattern",
    [r"(?:(?=(?:(?=(?:(?=a*)a)*)a)*)a)*c", r"^(?=(\p{L}+\s?)*$)(.+)+\1!"],
)
def test_patterns_that_take_too_much_in_all_are_not_matched(pattern: str) -> None:
    check = DocumentCheck({"type": "array", "items": {"not": {"pattern": pattern}}})
    with pytest.raises(CannotBeJudged, match="its patterns would take too long"):
        check.judge(["a" * 250] * 1_000)


@pytest.mark.parametrize("pattern", ["(", r"\k<nothing>", "[a", r"(\p{L}{999}){999}"])
def test_a_pattern_that_nothing_can_read_gives_no_verdict(pattern: str) -> None:
    with pytest.raises(CannotBeJudged, match=r"pattern|regex"):
        DocumentCheck(of_string(pattern)).judge({"a": "x"})


def test_an_odd_pattern_of_a_tool_is_left_out_as_at_the_door() -> None:
    assert DocumentCheck(of_string(r"^(?#a comment)a$"), of_tool=True).judge({"a": "b"})
    assert not DocumentCheck(of_string(r"^(?#a comment)a$"), of_tool=False).accepts({"a": "a"})
    keys = {"patternProperties": {r"^(?#a comment)a$": {"type": "string"}, "^(?!x)b": {"type": "integer"}}}
    assert DocumentCheck(keys, of_tool=True).judge({"a": 1, "b": 1})
    assert not DocumentCheck(keys, of_tool=True).judge({"a": 1, "b": "text"})
    assert not DocumentCheck(keys, of_tool=False).accepts({"b": 1})


def test_older_dialects_are_judged_as_they_are_meant() -> None:
    check = DocumentCheck({"minimum": 3, "exclusiveMinimum": True})
    assert check.judge(4)
    assert not check.judge(3)


def test_keys_are_matched_in_bounded_time_too() -> None:
    check = DocumentCheck({"patternProperties": {r"^(?!x-)(\w+\s?)*$": {"type": "integer"}}})
    assert check.judge({"a": 1, "x-a": "text", "a" * 60 + "!": "text"})
    assert not check.judge({"a": "text"})
    with pytest.raises(CannotBeJudged, match="300 characters"):
        check.judge({"k" * 300: 1})
    with pytest.raises(CannotBeJudged, match="patternProperties"):
        DocumentCheck({"patternProperties": {f"^{at}$": {} for at in range(1_000)}}).judge({})


@pytest.mark.parametrize(
    ("schema", "document"),
    [
        (
            {
                "type": "object",
                "properties": {"a": {"$ref": "#/$defs/T"}},
                "$defs": {
                    "T": {"$id": "T", "type": "object", "properties": {"n": {"$ref": "#/$defs/U"}}},
                    "U": {"type": "string"},
                },
            },
            {"a": {"n": "x"}},
        ),
        ({"$dynamicRef": "#nowhere"}, {}),
        ({"properties": {"a": {"$ref": "#/required"}}, "required": ["a"]}, {"a": 1}),
        ({"properties": {"a": {"$ref": "#/nowhere"}}}, {"a": 1}),
        ({"properties": {"a": {"$ref": 7}}}, {"a": 1}),
        ({"properties": {"a": {"$ref": "http://127.0.0.1/schema"}}}, {"a": 1}),
        ({"properties": {"a": {"$ref": "file:///etc/passwd"}}}, {"a": 1}),
        ({"$id": "::::"}, {}),
        ({"$id": 7}, {}),
        ({"type": "nonsense"}, {}),
        ({"properties": [1]}, {}),
        ({"pattern": 7}, {}),
        ({"multipleOf": float("nan")}, {}),
        ({"multipleOf": 0}, 1),
        ({"minimum": float("inf")}, 1),
    ],
)
def test_a_schema_that_cannot_be_used_gives_no_verdict(schema: dict[str, Any], document: object) -> None:
    check = DocumentCheck(schema)
    with pytest.raises(CannotBeJudged, match="the schema cannot be used"):
        check.judge(document)
    assert not check.accepts(document)


@pytest.mark.parametrize(
    "document",
    [
        float("nan"),
        [float("inf")],
        {"a": -float("inf")},
        "half \ud83d",
        {"half \udc00": 1},
        nested(MAX_DEPTH + 1),
        b"x",
    ],
)
@pytest.mark.parametrize("schema", [{}, {"multipleOf": 0.01}, {"type": ["object", "array", "string", "number"]}])
def test_what_is_no_json_gives_no_verdict(schema: dict[str, Any], document: object) -> None:
    with pytest.raises(CannotBeJudged):
        DocumentCheck(schema).judge(document)


@pytest.mark.parametrize("number", [10**4000, -(10**300), 1e308, 5e-324, 2**63, -0.0])
def test_numbers_of_any_size_are_judged(number: float) -> None:
    for schema in ({"type": "number"}, {"maximum": 2.0**1000, "minimum": -(2**70)}, {"multipleOf": 0.01}):
        DocumentCheck(schema).judge(number)


def test_nesting_up_to_the_limit_is_judged() -> None:
    assert DocumentCheck({"type": "object", "properties": {"a": {"$ref": "#"}}}).judge(nested(MAX_DEPTH))


class Panic(BaseException):
    """As pyo3 raises it."""


@pytest.mark.parametrize("error", [RuntimeError, RecursionError, OverflowError, MemoryError, Panic])
def test_whatever_the_validator_raises_is_no_verdict(
    error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken:
        def __init__(self, *_: object, **__: object) -> None: ...

        def is_valid(self, _: object) -> bool:
            raise error

    monkeypatch.setattr(document_check, "Draft202012Validator", Broken)
    with pytest.raises(CannotBeJudged, match=error.__name__):
        DocumentCheck({}).judge(1)


def test_one_allowance_serves_all_schemas_of_a_task() -> None:
    allowance = Allowance(UNITS)
    first, second = (DocumentCheck(of_string(r"^(?=a)(a|b)+$"), allowance=allowance) for _ in range(2))
    assert first.judge({"a": "a" * 200})
    spent = UNITS - allowance.units
    assert second.judge({"a": "a" * 200})
    assert UNITS - allowance.units == 2 * spent > 100_000
