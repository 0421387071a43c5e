"""Numbers, strings and listed values -> what stands for them in a Lark grammar of llguidance's dialect."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from typing import Any

from llguidance import LLMatcher

from worker.json_schema.number_patterns import Bound, integer_pattern, multiple_pattern, number_patterns

LAYOUT = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""As Python's json.dumps writes, which is what models have seen in their prompts."""

KNOWN_FORMATS = frozenset({"date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri"})
"""String formats that llguidance enforces; others are annotations, as JSON Schema says."""

_EXACT = 10**15
"""llguidance reads bounds as doubles: this one it reads right, also with a fraction behind it."""
_LONGEST = 2**31 - 1
"""Characters that a string may be bounded by in llguidance."""


@dataclass(frozen=True, slots=True)
class Literals:
    """One of these values, which are JSON texts."""

    texts: tuple[str, ...]

    @classmethod
    def of(cls, values: Sequence[Any]) -> "Literals":
        """The values as a model writes them."""
        texts = (json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f") for value in values)
        return cls(tuple(dict.fromkeys(texts)))


@dataclass(frozen=True, slots=True)
class Number:
    """A number between bounds."""

    whole: bool
    low: Bound | None
    high: Bound | None
    divisors: tuple[Decimal, ...]


@dataclass(frozen=True, slots=True)
class String:
    """A string of `shortest` to `longest` characters that matches patterns and formats."""

    shortest: int
    longest: int | None
    patterns: tuple[str, ...]
    formats: tuple[str, ...]
    bound: int
    """Characters where neither the schema nor what it demands says more."""


Leaf = Literals | Number | String


@lru_cache(maxsize=512)
def leaf_rule(leaf: Leaf) -> tuple[str, bool] | None:
    """The right side of its rule, and whether it may be a terminal; None when there is no such value."""
    match leaf:
        case Literals(texts):
            return (" | ".join(map(json.dumps, texts)), True) if texts else None
        case Number():
            return _number(leaf)
        case String():
            rule = _string(leaf)
            return (rule, False) if rule else None


def _number(number: Number) -> tuple[str, bool] | None:
    low, high = number.low, number.high
    if number.whole:
        patterns = [pattern] if (pattern := integer_pattern(_first_whole(low), _last_whole(high))) else []
    else:
        patterns = number_patterns(low, high)
    if not patterns:
        return None
    for divisor in number.divisors:
        if pattern := multiple_pattern(divisor):
            patterns.append(pattern)
        else:
            schema: dict[str, Any] = {"type": "integer" if number.whole else "number", "multipleOf": float(divisor)}
            for bound, name, far in ((low, "Minimum", -_EXACT), (high, "Maximum", _EXACT)):
                if bound is None or abs(bound.value) > _EXACT:
                    schema[f"exclusive{name}"] = far
                else:
                    schema[f"exclusive{name}" if bound.exclusive else name.lower()] = float(bound.value)
            rule, refusal = _tried(schema)
            if not refusal:
                return rule, False
            if "Unsatisfiable" in refusal:
                return None
    return " & ".join(f"/{pattern}/" for pattern in patterns), True


def _first_whole(bound: Bound | None) -> int | None:
    if bound is None:
        return None
    floor = bound.value.to_integral_value("ROUND_FLOOR")
    return int(floor) + 1 if bound.exclusive or floor != bound.value else int(floor)


def _last_whole(bound: Bound | None) -> int | None:
    if bound is None:
        return None
    ceiling = bound.value.to_integral_value("ROUND_CEILING")
    return int(ceiling) - 1 if bound.exclusive or ceiling != bound.value else int(ceiling)


def _string(string: String) -> str | None:
    if string.longest is not None and string.shortest > string.longest:
        return None
    schema: dict[str, Any] = {"type": "string"}
    if string.shortest:
        schema["minLength"] = string.shortest
    if string.longest is not None and string.longest <= _LONGEST:
        schema["maxLength"] = string.longest
    formats = [name for name in string.formats if name in KNOWN_FORMATS]
    demands = [{"pattern": pattern} for pattern in string.patterns] + [{"format": name} for name in formats]
    demands = [demand for demand in demands if not (refusal := _tried({**schema, **demand})[1]) or _is_empty(refusal)]
    if demands:
        schema["allOf"] = demands
    if string.longest is None:
        rule, refusal = _tried({**schema, "maxLength": max(string.bound, string.shortest)})
        if not refusal:
            return rule
    rule, refusal = _tried(schema)
    if not refusal:
        return rule
    return None if _is_empty(refusal) else _tried({"type": "string"})[0]


def is_enforced_on_strings(pattern: str) -> bool:
    """Whether a grammar can hold a string to the pattern."""
    return not _tried({"type": "string", "pattern": pattern})[1]


def is_enforced_on_numbers(divisor: float) -> bool:
    """Whether a grammar can hold a number to multiples of the divisor, exactly."""
    return multiple_pattern(Decimal(str(divisor))) is not None


def _tried(schema: dict[str, Any]) -> tuple[str, str]:
    """The schema as a rule, and why llguidance refuses it; empty when it does not."""
    rule = f"%json {json.dumps({**schema, 'x-guidance': LAYOUT})}"
    refused, messages = LLMatcher.validate_grammar_with_warnings(LLMatcher.grammar_from_lark(f"start: {rule}"))
    return rule, messages[0] if refused else ""


def _is_empty(refusal: str) -> bool:
    """Whether no value is left, as opposed to words that llguidance does not know."""
    return "Unsatisfiable" in refusal


def key_rule(key: String, taken: Sequence[str]) -> tuple[str, bool]:
    """As `leaf_rule`, for names of properties; those that are taken do not come again."""
    rule = leaf_rule(key)
    assert rule is not None
    if not taken or key.patterns or key.formats:
        return rule
    longest = max(key.bound, key.shortest) if key.longest is None else min(key.longest, _LONGEST)
    names = " | ".join(json.dumps(json.dumps(name, ensure_ascii=False)) for name in taken)
    return rf'/"([^"\\\x00-\x1F\x7F]|\\["\\bfnrt]){{{key.shortest},{longest}}}"/ & ~({names})', True
