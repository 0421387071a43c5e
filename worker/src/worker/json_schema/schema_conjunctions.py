"""Schemas that must hold for one value together, read as one.

JSON Schema speaks about a value in many places: the schema itself, `allOf`, `$ref`, the branch of an `anyOf` that is
taken. A conjunction is the list of all of them, flat, in the order in which their properties are written; it answers
what holds after all. What only a finished document can show (most of `not`, `uniqueItems`, ...) is not asked here.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from jsonschema_rs import Draft202012Validator

from shared.json_schema.schema_references import SchemaReferences
from worker.json_schema.number_patterns import Bound

KINDS = ("object", "array", "string", "number", "boolean", "null")
_WORDS = {
    "object": {
        *("properties", "patternProperties", "additionalProperties", "required", "propertyNames"),
        *("minProperties", "maxProperties"),
    },
    "array": {"items", "prefixItems", "minItems", "maxItems", "uniqueItems", "contains"},
    "string": {"minLength", "maxLength", "pattern", "format"},
    "number": {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"},
}

_SIMPLE = {"type", "const", "enum", "required"}.union(*_WORDS.values()) - {
    *("properties", "patternProperties", "additionalProperties", "propertyNames", "items", "prefixItems", "contains"),
    *("pattern", "format"),
}
_SILENT = {"$ref", "$dynamicRef", "allOf", "$defs", "definitions", "$id", "$anchor", "$dynamicAnchor"}
"""Keywords that say nothing themselves."""

Part = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Choice:
    """A keyword that leaves several ways to satisfy it."""

    key: tuple[int, str]
    branches: Sequence[Any]
    """Schemas: with one of them the keyword is satisfied, or nearly."""


@dataclass(frozen=True, slots=True)
class Conjunction:
    """Parts without `$ref` and `allOf`, which are resolved."""

    parts: tuple[Part, ...]

    def values(self, keyword: str) -> Iterator[Any]:
        """What the parts say about the keyword."""
        return (part[keyword] for part in self.parts if keyword in part)

    def most(self, keyword: str) -> int:
        """The largest of lower limits; 0 without one."""
        return max((int(value) for value in self.values(keyword)), default=0)

    def least(self, keyword: str) -> int | None:
        """The smallest of upper limits; None without one."""
        return min((int(value) for value in self.values(keyword)), default=None)

    def choices(self) -> Iterator[Choice]:
        """The ways that are still open."""
        for part in self.parts:
            for keyword in ("anyOf", "oneOf"):
                if keyword in part:
                    yield Choice((id(part), keyword), part[keyword])
            if "if" in part and ("then" in part or "else" in part):
                then, otherwise = part.get("then", True), part.get("else", True)
                branches = [{"allOf": [_where(part["if"]), then]}, {"allOf": [_unless(part["if"]), otherwise]}]
                yield Choice((id(part), "if"), branches)
            for keyword in ("dependentRequired", "dependentSchemas"):
                for name, needed in part.get(keyword, {}).items():
                    there = {"required": needed} if keyword == "dependentRequired" else needed
                    yield Choice((id(part), f"{keyword} {name}"), [{"properties": {name: False}}, there])

    def contradictory(self) -> bool:
        """Whether a property that must be there is to have values that exclude each other, as kinds of objects do."""
        for name in {name for names in self.values("required") for name in names}:
            said = [words[name] for words in self.values("properties") if isinstance(words.get(name), Mapping)]
            if len(said) > 1 and Conjunction(tuple(said)).literals() == []:
                return True
        return False

    def literals(self) -> list[Any] | None:
        """The values of `enum` and `const` that the other parts admit; None where any value may come."""
        lists = [*self.values("enum"), *([value] for value in self.values("const"))]
        if not lists:
            return None
        judges = [_simple_judge(part) for part in self.parts]
        return [value for value in lists[0] if all(judge.is_valid(value) for judge in judges)]

    def kinds(self) -> tuple[list[str], bool]:
        """The JSON types that a value may have, and whether numbers must be whole. No kinds: all types, all free.

        Where no part names a type, the keywords tell what is meant: `properties` an object.
        """
        allowed, whole, named = set(KINDS), False, False
        for types in self.values("type"):
            names = {types} if isinstance(types, str) else set(types)
            whole = whole or ("integer" in names and "number" not in names)
            allowed &= {"number" if name == "integer" else name for name in names}
            named = True
        for excluded in self.values("not"):
            if isinstance(excluded, Mapping) and excluded.keys() == {"type"}:
                types = excluded["type"]
                allowed -= {types} if isinstance(types, str) else set(types)
                named = True
        hinted = {kind for kind, words in _WORDS.items() if any(words & part.keys() for part in self.parts)}
        if not named and not hinted:
            return [], False
        if not named:
            allowed = hinted
        return [kind for kind in KINDS if kind in allowed], whole

    def low(self) -> Bound | None:
        """The lower end of a number's range."""
        bounds = [(_decimal(value), False) for value in self.values("minimum")]
        bounds += [(_decimal(value), True) for value in self.values("exclusiveMinimum")]
        return Bound(*max(bounds)) if bounds else None

    def high(self) -> Bound | None:
        """The upper end of a number's range."""
        bounds = [(_decimal(value), False) for value in self.values("maximum")]
        bounds += [(_decimal(value), True) for value in self.values("exclusiveMaximum")]
        return Bound(*min(bounds, key=lambda bound: (bound[0], not bound[1]))) if bounds else None

    def divisors(self) -> list[Decimal]:
        """What a number must be a multiple of."""
        return sorted({_decimal(value) for value in self.values("multipleOf")})


def parts_of(schema: Any, references: SchemaReferences) -> Sequence[Part] | None:
    """The schema and all that `allOf` and references bring in; None when one of them is false.

    Raises InvalidSchema for a reference that leads nowhere.
    """
    found: dict[int, Part] = {}
    entered: set[int] = set()
    pending = [iter([schema])]
    while pending:
        part = next(pending[-1], None)
        if part is None:
            pending.pop()
        elif part is False:
            return None
        elif isinstance(part, _Own):
            found.setdefault(id(part.schema), part.schema)
        elif isinstance(part, Mapping) and id(part) not in entered:
            entered.add(id(part))
            pending.append(_in_order(part, references))
    return tuple(found.values())


@dataclass(frozen=True, slots=True)
class _Own:
    """A schema's own words, apart from what it refers to."""

    schema: Part


def _in_order(schema: Part, references: SchemaReferences) -> Iterator[Any]:
    """The schema and what it refers to, whichever comes first in its text."""
    for keyword, value in schema.items():
        if keyword == "properties":
            yield _Own(schema)
        elif keyword in ("$ref", "$dynamicRef"):
            yield references.target(schema, value)
        elif keyword == "allOf":
            yield from value
    if not schema.keys() <= _SILENT:
        yield _Own(schema)


def _where(condition: Any) -> Part:
    """Where the condition holds, and for a reason: the properties that it speaks about are there."""
    about = condition.get("properties") if isinstance(condition, Mapping) else None
    return {"allOf": [condition], "required": list(about)} if about else {"allOf": [condition]}


def _unless(condition: Any) -> Part:
    """Where the condition does not hold: said about the property where it is about the value of one."""
    match condition:
        case {"properties": {**properties}} if len(properties) == 1 and condition.keys() <= {"properties", "required"}:
            said = {"properties": {name: {"not": part} for name, part in properties.items()}}
            return said if "required" in condition else {**said, "required": list(properties)}
        case _:
            return {"not": condition}


def _decimal(number: float) -> Decimal:
    return Decimal(str(number))


def _simple_judge(part: Part) -> Draft202012Validator:
    """Judges values by those words of a schema that look at no other schema and run no pattern."""
    words = {word: part[word] for word in _SIMPLE & part.keys()}
    if isinstance(excluded := part.get("not"), Mapping) and excluded.keys() <= {"const", "enum", "type"}:
        words["not"] = excluded
    return Draft202012Validator(words, offline=True)
