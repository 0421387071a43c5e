"""A schema -> the forms that a document may take, for the grammar that decoding follows.

The forms are narrower than the schema where that brings an answer to its end: an object has the properties that are
named and no others, lists and strings have bounds, a value of no named type has the one that its keywords speak of.
They are wider where only a finished document can be judged: `not`, `uniqueItems`, overlapping `oneOf`, lookarounds.
"""

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from shared.json_schema.schema_references import SchemaReferences
from worker.json_schema.allowance import Allowance
from worker.json_schema.bounded_patterns import BoundedPattern
from worker.json_schema.document_check import UNITS
from worker.json_schema.document_forms import Array, Form, Limits, Object, Property, Value, parts_needed, shortest_of
from worker.json_schema.leaf_rules import Leaf, Literals, Number, String, leaf_rule
from worker.json_schema.schema_conjunctions import Choice, Conjunction, parts_of

MAX_VALUES = 4_000
"""Distinct values in the forms of all schemas of one answer; what lies beyond may be anything."""
MAX_WORK = 500_000
"""Words of schemas looked at for one answer, some microseconds each; what lies beyond may be anything."""
LEAST_PART = 4
"""Tokens that what one token begins may need at its end at least: where anything may come, a key and its value."""
MAX_WAYS = 1_024
"""Ways to combine the branches of several choices about one value; which of the others holds, only the judge sees."""


@dataclass(slots=True)
class Effort:
    """What the schemas of one answer have taken so far."""

    values: int = 0
    work: int = 0

    @property
    def too_much(self) -> bool:
        return self.values >= MAX_VALUES or self.work > MAX_WORK


class SchemaForms:
    """The forms of one schema; `root` is the document."""

    def __init__(self, schema: Any, limits: Limits, effort: Effort | None = None) -> None:
        """`schema`: as `usable_schema` returns it. `effort`: shared with the other schemas of the answer."""
        self._limits = limits
        self._effort = effort or Effort()
        self._references = SchemaReferences(schema)
        self._values: dict[tuple[frozenset[int], frozenset[Any]], Value] = {}
        self._pending: deque[tuple[Value, Conjunction, frozenset[Any], int]] = deque()
        self._choices: dict[tuple[int, str], Choice] = {}
        """Kept, because a conjunction knows its parts by identity."""
        self._parts: dict[int, Sequence[Mapping[str, Any]] | None] = {}
        """Of schemas, by their id."""
        self._allowance = Allowance(UNITS)
        self._matchers: dict[str, BoundedPattern] = {}
        self._nothing = Value(-1)
        self.free = Value(0, free=True, shortest=2)
        self.root = self._value([schema])
        while self._pending:
            self._fill(*self._pending.popleft())
        self._measure()

    @property
    def values(self) -> Iterable[Value]:
        """All values, the root first."""
        return self._values.values()

    def dead_end(self) -> str | None:
        """The place where no value can be written, if there is none for the whole document."""
        if self.root.finite:
            return None
        value, place, seen = self.root, "$", set()
        while id(value) not in seen:
            seen.add(id(value))
            for name, inner in _needed(value):
                if not inner.finite:
                    value, place = inner, place + name
                    break
        return place

    def _value(self, parts: Iterable[Any], settled: frozenset[Any] = frozenset(), ways: int = 1) -> Value:
        found: dict[int, Mapping[str, Any]] = {}
        for schema in parts:
            own = self._parts_of(schema)
            if own is None:
                return self._nothing
            found.update((id(part), part) for part in own)
        if not found:
            return self.free
        key = frozenset(found), settled
        if key not in self._values:
            self._effort.work += len(found)
            if self._effort.too_much:
                return self.free
            conjunction = Conjunction(tuple(found.values()))
            if conjunction.contradictory():
                return self._nothing
            self._effort.values += 1
            self._values[key] = value = Value(len(self._values) + 1)
            self._pending.append((value, conjunction, settled, ways))
        return self._values[key]

    def _parts_of(self, schema: Any) -> Sequence[Mapping[str, Any]] | None:
        """As `parts_of`, found once."""
        if not isinstance(schema, Mapping):
            return () if schema else None
        if id(schema) not in self._parts:
            self._parts[id(schema)] = parts_of(schema, self._references)
        return self._parts[id(schema)]

    def _fill(self, value: Value, conjunction: Conjunction, settled: frozenset[Any], ways: int) -> None:
        for choice in conjunction.choices():
            if choice.key not in settled:
                choice = self._choices.setdefault(choice.key, choice)
                settled |= {choice.key}
                combined = ways * len(choice.branches)
                if ways > 1 and combined > MAX_WAYS:
                    continue  # left to the judge
                value.ways = [
                    self._value([*conjunction.parts, branch], settled, combined) for branch in choice.branches
                ]
                return
        literals = conjunction.literals()
        if literals is not None:
            self._add_leaf(value, Literals.of(literals))
            return
        kinds, whole = conjunction.kinds()
        value.free = not kinds and not any(conjunction.values("type"))
        for kind in kinds:
            match kind:
                case "null":
                    self._add_leaf(value, Literals(("null",)))
                case "boolean":
                    self._add_leaf(value, Literals(("true", "false")))
                case "number":
                    divisors = tuple(conjunction.divisors())
                    self._add_leaf(value, Number(whole, conjunction.low(), conjunction.high(), divisors))
                case "string":
                    self._add_leaf(value, self._string(conjunction))
                case "array":
                    value.forms += self._array(conjunction)
                case "object":
                    value.forms += self._object(conjunction)

    def _add_leaf(self, value: Value, leaf: Leaf) -> None:
        if leaf_rule(leaf) is not None:
            value.forms.append(leaf)

    def _string(self, conjunction: Conjunction, *patterns: str) -> String:
        return String(
            conjunction.most("minLength"),
            conjunction.least("maxLength"),
            tuple(dict.fromkeys([*conjunction.values("pattern"), *patterns])),
            tuple(dict.fromkeys(conjunction.values("format"))),
            self._limits.string,
        )

    def _array(self, conjunction: Conjunction) -> list[Form]:
        lists = [part.get("prefixItems", []) for part in conjunction.parts]
        rest = [part.get("items", True) for part in conjunction.parts]
        first = [
            [entries[at] if at < len(entries) else items for entries, items in zip(lists, rest, strict=True)]
            for at in range(max(map(len, lists)))
        ]
        fewest, most = conjunction.most("minItems"), conjunction.least("maxItems")
        if first and not any("items" in part for part in conjunction.parts):
            most = max(fewest, len(first)) if most is None else most
        wanted = [
            part["contains"] for part in conjunction.parts if part.get("minContains", 1) > 0 and "contains" in part
        ]
        if wanted:
            # The first entry is the one: a list that may begin with others would need all of them judged.
            first[:1] = [[*(first[0] if first else rest), *wanted]]
            fewest = max(1, fewest)
        distinct = any(conjunction.values("uniqueItems"))
        if most is not None and fewest > most:
            return []
        return [Array([self._value(entry) for entry in first], self._value(rest), fewest, most, distinct)]

    def _object(self, conjunction: Conjunction) -> list[Form]:
        parts = conjunction.parts
        names = {name: False for part in parts for name in part.get("properties", {})}
        self._effort.work += len(names) * len(parts)
        allowed = [name for words in conjunction.values("propertyNames") for name in _listed(words)]
        opened = [part["additionalProperties"] for part in parts if "additionalProperties" in part]
        keyed = {pattern: None for part in parts for pattern in part.get("patternProperties", {})}
        if opened or not names:
            names |= {name: False for name in allowed if name not in names}
        for required in conjunction.values("required"):
            names |= dict.fromkeys(required, True)
        properties = [Property(name, self._value(self._said(parts, name)), needed) for name, needed in names.items()]
        others: list[tuple[String, Value]] = []
        fewest, most = conjunction.most("minProperties"), conjunction.least("maxProperties")
        if not allowed and False not in conjunction.values("propertyNames"):
            about_keys = Conjunction(tuple(words for words in conjunction.values("propertyNames") if words is not True))
            for pattern in keyed:
                said = [_about_pattern(part, pattern) for part in parts]
                others.append((self._string(about_keys, pattern), self._value(said)))
            if opened or not (names or keyed) or fewest > len(names):
                others.append((self._string(about_keys), self._value(opened)))
        others = [(key, entry) for key, entry in others if leaf_rule(key) is not None]
        if most is not None and max(fewest, sum(names.values())) > most:
            return []
        return [Object(properties, others, fewest, most)]

    def _said(self, parts: Sequence[Mapping[str, Any]], name: str) -> list[Any]:
        """The schemas that speak about a property of this name."""
        said: list[Any] = []
        for part in parts:
            about = [part["properties"][name]] if name in part.get("properties", {}) else []
            about += [schema for key, schema in part.get("patternProperties", {}).items() if self._matches(key, name)]
            said += about or [part.get("additionalProperties", True)]
            if part.get("not") == {"required": [name]}:
                said.append(False)
            names = _listed(part.get("propertyNames"))
            if part.get("propertyNames") is False or (names and name not in names):
                said.append(False)
        return said

    def _matches(self, pattern: str, name: str) -> bool:
        """Whether the pattern is known to match."""
        try:
            self._matchers.setdefault(pattern, BoundedPattern(pattern, self._allowance, needed=True)).validate(name)
        except ValueError:
            return False
        return True

    def _measure(self) -> None:
        """Finds the shortest text of every value: the children first, they were made last."""
        changed = True
        while changed:
            changed = False
            for value in reversed(self._values.values()):
                lengths = [way.shortest for way in value.ways if way.shortest is not None]
                lengths += [length for form in value.forms if (length := shortest_of(form)) is not None]
                lengths += [2] if value.free else []
                if lengths and (value.shortest is None or min(lengths) < value.shortest):
                    value.shortest, changed = min(lengths), True

    def largest_part(self) -> int:
        """Tokens, about, of the shortest text of the largest part that a document may have or not have.

        JSON has two characters in a token at least: names are words, and quote, colon and space often one token.
        """
        shortest = (value.shortest for value in self._values.values() if value.shortest is not None)
        return max(LEAST_PART, max(shortest, default=0) // 2)


def _needed(value: Value) -> list[tuple[str, Value]]:
    """What the value needs, of each of its forms and ways, with its place."""
    needed = [("", way) for way in value.ways]
    for form in value.forms:
        needed += [(place, entry) for place, entry, _ in parts_needed(form)]
    return needed


def _about_pattern(part: Mapping[str, Any], pattern: str) -> Any:
    """What the schema says about the properties whose names match the pattern, as far as others do not as well."""
    return part.get("patternProperties", {}).get(pattern, part.get("additionalProperties", True))


def _listed(names: Any) -> list[str]:
    """The names that `propertyNames` lists, if it does."""
    if not isinstance(names, Mapping):
        return []
    return [name for name in names.get("enum", [names.get("const")]) if isinstance(name, str)]
