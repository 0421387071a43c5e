"""JSON schemas that clients send: checked once at the door, in bounded time, without ever fetching anything.

What passes here, a worker can judge documents by: the last check builds the validator that it uses.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from jsonschema_rs import Draft202012Validator, FancyRegexOptions, ReferencingError, RegexOptions, ValidationError, meta

from shared.json_schema.ecma_patterns import InvalidPattern, rust_pattern
from shared.json_schema.schema_dialects import InvalidSchema, Schema, in_one_dialect
from shared.json_schema.schema_references import SchemaReferences

__all__ = ["InvalidSchema", "Schema", "usable_schema"]

DIALECT = "https://json-schema.org/draft/2020-12/schema"

MAX_DEPTH = 32
"""Levels of nesting in a schema; what reads schemas recurses, a bomb must not reach it."""

MAX_NODES = 5_000
"""Objects and lists in one schema."""

SMALL = (RegexOptions(size_limit=100_000), FancyRegexOptions(size_limit=100_000))
"""One of them reads nearly every pattern, in a millisecond; the second those that look around or refer back."""
LARGE = FancyRegexOptions(size_limit=10_000_000)
"""Reads every other one; compiling takes up to a tenth of a second."""
MAX_LARGE_PATTERNS = 5
"""Patterns of one schema that may need it."""


def usable_schema(schema: Schema, *, of_tool: bool) -> dict[str, Any]:
    """The schema in the one dialect that the project works with (`schema_dialects`).

    Raises InvalidSchema unless it is valid JSON Schema, self-contained, of bounded size, and without a reference that
    leads nowhere or back to itself. The schema `of_tool` must have `"type": "object"` at the top; a pattern in it that
    is too large or of another dialect is left out, so that one odd tool does not cost a client all others. Elsewhere
    it is refused: what is promised of an answer must be checked.
    """
    _check_size(schema)
    if of_tool and schema.get("type") != "object":
        raise InvalidSchema('its top level must have "type": "object"')
    usable: dict[str, Any] = in_one_dialect(schema)
    try:
        meta.validate({**usable, "$schema": DIALECT})
    except ValidationError as error:
        place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error.instance_path)
        raise InvalidSchema(f"${place}: {_complaint(error)}") from None
    used = SchemaReferences(usable).used()
    for pattern in _unreadable({pattern for part in used for pattern in _patterns(part)}):
        fault, broken = _fault(pattern)
        if broken or not of_tool:
            raise InvalidSchema(f"the pattern {pattern[:100]!r} is not a 'regex': {fault}")
        for part in used:
            _leave_out(pattern, part)
    try:
        Draft202012Validator(usable, offline=True, keywords={"pattern": _Checked}, pattern_options=LARGE)
    except (ValidationError, ReferencingError, ValueError) as error:
        raise InvalidSchema(str(error).partition("\n")[0][:200]) from None
    return usable


def _check_size(schema: Schema) -> None:
    """Counts every object and list inside the schema, without recursion."""
    pending: list[tuple[Any, int]] = [(schema, 1)]
    seen = 0
    while pending:
        node, depth = pending.pop()
        seen += 1
        if depth > MAX_DEPTH:
            raise InvalidSchema(f"it is nested more than {MAX_DEPTH} levels deep")
        if seen > MAX_NODES:
            raise InvalidSchema(f"it has more than {MAX_NODES} parts")
        children = node.values() if isinstance(node, Mapping) else node
        pending += [(child, depth + 1) for child in children if isinstance(child, Mapping | list)]


def _complaint(error: ValidationError) -> str:
    if error.instance_path[-1:] == ["type"]:
        return f"{error.instance!r:.60} is no type, or no list of types, of JSON Schema"
    return error.message[:200]


def _patterns(schema: Schema) -> Iterator[str]:
    if isinstance(pattern := schema.get("pattern"), str):
        yield pattern
    yield from schema.get("patternProperties", {})


def _unreadable(patterns: Iterable[str]) -> Iterator[str]:
    """The patterns that no engine reads, or that would be too much work beside the others."""
    large = 0
    for pattern in sorted(patterns):
        if not any(_compiles(pattern, options) for options in SMALL):
            large += 1
            if large > MAX_LARGE_PATTERNS or not _compiles(pattern, LARGE):
                yield pattern


def _leave_out(pattern: str, schema: dict[str, Any]) -> None:
    if schema.get("pattern") == pattern:
        del schema["pattern"]
    schema.get("patternProperties", {}).pop(pattern, None)


def _compiles(pattern: str, options: RegexOptions | FancyRegexOptions) -> bool:
    try:
        Draft202012Validator({"pattern": pattern}, pattern_options=options, offline=True)
    except ValueError:
        return False
    return True


def _fault(pattern: str) -> tuple[str, bool]:
    """Why it cannot be read, in Python's words where Rust's are not told; and whether Python cannot read it either."""
    odd = "it is too large, or has what ECMA-262 does not know"
    try:
        pattern = rust_pattern(pattern)
    except InvalidPattern as error:
        odd = str(error)
    try:
        # Both dialects have escapes that Python lacks.
        re.compile(re.sub(r"\\(x\{\w+\}|[pP]\{[^{}]*\})", "x", pattern))
    except (re.error, OverflowError, RecursionError) as error:
        return str(error)[:100], True
    return odd, False


class _Checked:
    """In the place of `pattern`: each has been compiled before."""

    def __init__(self, parent_schema: dict[str, Any], value: Any, schema_path: list[str | int]) -> None:
        pass

    def validate(self, instance: Any) -> None:
        pass
