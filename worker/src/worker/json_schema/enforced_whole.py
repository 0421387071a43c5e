"""Whether the grammar of a schema says all that the schema does: then nothing is left to judge of a finished document.

A no may be wrong, and costs no more than that the document is streamed at once when it is whole. A yes is right but for
schemas that are too much for the grammar's engine; their documents are judged as well.
"""

from collections.abc import Sequence
from itertools import combinations
from typing import Any

from shared.json_schema.schema_dialects import Schema
from shared.json_schema.schema_references import SchemaReferences
from worker.json_schema.leaf_rules import is_enforced_on_numbers, is_enforced_on_strings
from worker.json_schema.schema_conjunctions import Conjunction, parts_of

MAX_SCHEMAS = 1_000
"""Of a larger one the grammar may have left out a part."""
MAX_BRANCHES = 16
"""Of a `oneOf` of more, not all pairs are looked at."""

JUDGED = frozenset(
    {"not", "contains", "dependentRequired", "dependentSchemas", "patternProperties", "propertyNames"}
    | {"minProperties", "maxProperties", "unevaluatedItems", "unevaluatedProperties", "$dynamicRef"}
)
"""Keywords of which a grammar may enforce a part alone."""
_BESIDE_VALUES = frozenset({"pattern", "properties", "additionalProperties", "items", "prefixItems"})
"""Beside listed values, these are not asked which of them they admit."""


def enforced_whole(usable: Schema) -> bool:
    """Whether the grammar enforces the schema, which is as `usable_schema` returns it, word for word."""
    references = SchemaReferences(usable)
    used = references.used()
    return len(used) <= MAX_SCHEMAS and all(_is_whole(schema, references) for schema in used)


def _is_whole(schema: Schema, references: SchemaReferences) -> bool:
    words = schema.keys()
    return not (
        words & JUDGED
        or schema.get("uniqueItems")
        or ("if" in words and words & {"then", "else"})
        or (words & {"enum", "const"} and words & _BESIDE_VALUES)
        or ("pattern" in words and not is_enforced_on_strings(schema["pattern"]))
        or ("multipleOf" in words and not is_enforced_on_numbers(schema["multipleOf"]))
        or ("oneOf" in words and not _exclude_each_other(schema["oneOf"], references))
    )


def _exclude_each_other(branches: Sequence[Any], references: SchemaReferences) -> bool:
    """Whether no value can satisfy two of the branches, as far as types, listed values and kinds of objects show."""
    if len(branches) > MAX_BRANCHES:
        return False
    read = [parts_of(branch, references) for branch in branches]
    possible = [Conjunction(tuple(parts)) for parts in read if parts is not None]
    return all(_exclude(one, other) for one, other in combinations(possible, 2))


def _exclude(one: Conjunction, other: Conjunction) -> bool:
    both = Conjunction((*one.parts, *other.parts))
    return both.contradictory() or both.literals() == [] or not _types(one) & _types(other)


def _types(conjunction: Conjunction) -> set[str]:
    allowed = {"object", "array", "string", "number", "boolean", "null"}
    for named in conjunction.values("type"):
        names = {named} if isinstance(named, str) else set(named)
        allowed &= {"number" if name == "integer" else name for name in names}
    return allowed
