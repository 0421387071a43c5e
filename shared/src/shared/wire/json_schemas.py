"""JSON schemas that clients send: checked once at the door, compiled without ever fetching anything."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError
from jsonschema_rs import meta
from referencing import Registry
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012

Schema = Mapping[str, Any]

DIALECT = "https://json-schema.org/draft/2020-12/schema"

MAX_DEPTH = 32
"""Levels of nesting in a schema; jsonschema and the grammar compiler recurse, a bomb must not reach them."""

MAX_NODES = 5_000
"""Objects and lists in one schema."""

OFFLINE: Registry[Any] = Registry()
"""Knows no schema but the one at hand: jsonschema's own default would download a remote `$ref`."""


class InvalidSchema(ValueError):
    """The schema cannot be used; the message says why."""


def check_schema(schema: Schema, *, of_object: bool) -> None:
    """Raise InvalidSchema unless `schema` is valid JSON Schema 2020-12, self-contained and of bounded size.

    `of_object` demands `"type": "object"` at the top, as tools need it.
    """
    nodes = list(_nodes(schema))
    if of_object and schema.get("type") != "object":
        raise InvalidSchema('its top level must have "type": "object"')
    # jsonschema takes 3 ms for a schema of ten properties, jsonschema-rs 5 µs; but jsonschema says what is wrong.
    if not meta.is_valid({**schema, "$schema": DIALECT}):
        try:
            Draft202012Validator.check_schema(schema)
        except SchemaError as error:
            raise InvalidSchema(f"{error.json_path}: {error.message[:200]}") from None
    for pattern in _patterns(nodes):
        try:
            re.compile(pattern)
        except (re.error, OverflowError, RecursionError):
            raise InvalidSchema(f"{pattern[:100]!r} is not a 'regex'") from None
    resolver = OFFLINE.with_resource("", DRAFT202012.create_resource(schema)).resolver()
    for node in nodes:
        reference = node.get("$ref")
        if not isinstance(reference, str):
            continue
        if not reference.startswith("#"):
            raise InvalidSchema(f"$ref {reference!r} points outside the schema")
        try:
            resolver.lookup(reference)
        except Unresolvable:
            raise InvalidSchema(f"$ref {reference!r} leads nowhere") from None


def _patterns(nodes: list[Mapping[str, Any]]) -> Iterator[str]:
    for node in nodes:
        if isinstance(pattern := node.get("pattern"), str):
            yield pattern
        if isinstance(properties := node.get("patternProperties"), Mapping):
            yield from properties


def validator_of(schema: Schema) -> Draft202012Validator:
    """A validator that resolves nothing outside the schema."""
    return Draft202012Validator(schema, registry=OFFLINE)


def _nodes(schema: Schema) -> Iterator[Mapping[str, Any]]:
    """Every object inside the schema, without recursion."""
    pending: list[tuple[Any, int]] = [(schema, 1)]
    seen = 0
    while pending:
        node, depth = pending.pop()
        seen += 1
        if depth > MAX_DEPTH:
            raise InvalidSchema(f"it is nested more than {MAX_DEPTH} levels deep")
        if seen > MAX_NODES:
            raise InvalidSchema(f"it has more than {MAX_NODES} parts")
        if isinstance(node, Mapping):
            yield node
            children = list(node.values())
        else:
            children = list(node)
        pending += [(child, depth + 1) for child in children if isinstance(child, Mapping | list)]
