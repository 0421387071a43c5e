"""Schemas as clients have them -> the one dialect that is judged and enforced: JSON Schema 2020-12, patterns of Rust.

Clients send what their tools generate: draft 4 to 2019-09, with or without `$schema`. Where an older form has one
meaning it is written in the newer words. What says nothing about a document (titles, defaults, examples) goes, so that
data is never read as schema and a wrong `examples` hurts nobody.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote, unquote

from shared.json_schema.ecma_patterns import InvalidPattern, rust_pattern

Schema = Mapping[str, Any]

MAPS_OF_SCHEMAS = frozenset({"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"})
LISTS_OF_SCHEMAS = frozenset({"allOf", "anyOf", "oneOf", "prefixItems"})
SCHEMAS = frozenset(
    {"additionalProperties", "items", "contains", "propertyNames", "not", "if", "then", "else"}
    | {"unevaluatedItems", "unevaluatedProperties"}
)
DATA = frozenset({"const", "enum"})
"""Keywords whose value is a part of documents, not a schema."""
ANNOTATIONS = frozenset(
    {"$schema", "$comment", "title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly"}
    | {"contentEncoding", "contentMediaType", "contentSchema", "$vocabulary"}
)
COUNTS = frozenset(
    {"minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties", "minContains", "maxContains"}
)
_PATTERN_POINTER = re.compile(r"(?<=/patternProperties/)[^/]+")
_TUPLE_POINTER = re.compile(r"/items/(\d+)(?=/|$)")


class InvalidSchema(ValueError):
    """The schema cannot be used; the message says where and why."""


def in_one_dialect(schema: Any, *, may_be_map: bool = False) -> Any:
    """The schema in JSON Schema 2020-12, without what says nothing about a document; of a JSON value, which it leaves.

    A pattern that cannot be rewritten stays what it is: no engine will read it. `may_be_map`: it may also be a map of
    schemas, of which one may be called `title`.
    """
    if not isinstance(schema, Mapping):
        return schema
    written: dict[str, Any] = {}
    named = {key: value for key, value in schema.items() if key in ANNOTATIONS and isinstance(value, Mapping)}
    for key, value in (*_modern(schema), *(named.items() if may_be_map else ())):
        if key in DATA:
            written[key] = value
        elif key == "pattern" and isinstance(value, str):
            written[key] = _rewritten(value)
        elif key == "patternProperties" and isinstance(value, Mapping):
            written[key] = {_rewritten(pattern): in_one_dialect(part) for pattern, part in value.items()}
        elif key in MAPS_OF_SCHEMAS and isinstance(value, Mapping):
            written[key] = {name: in_one_dialect(part) for name, part in value.items()}
        elif key in LISTS_OF_SCHEMAS and isinstance(value, list):
            written[key] = [in_one_dialect(part) for part in value]
        elif key in COUNTS and isinstance(value, float) and value.is_integer():
            written[key] = int(value)
        elif key == "required" and isinstance(value, list) and all(isinstance(name, str) for name in value):
            written[key] = list(dict.fromkeys(value))
        else:
            # Of an unknown keyword, too: a `$ref` may lead into it.
            written[key] = in_one_dialect(value, may_be_map=True)
    return written


def _modern(schema: Schema) -> Iterator[tuple[str, Any]]:
    """The keywords that bind documents, in the words of 2020-12."""
    for key, value in schema.items():
        match key, value:
            case ("items", list()):
                yield "prefixItems", value
                if "additionalItems" in schema:
                    yield "items", schema["additionalItems"]
            case ("additionalItems", _):
                pass  # read with `items`; without a list there it has no meaning
            case (("exclusiveMinimum" | "exclusiveMaximum"), bool()):
                bound = "minimum" if key == "exclusiveMinimum" else "maximum"
                if value and bound in schema:
                    yield key, schema[bound]
            case ("dependencies", Mapping()):
                names = {name: needed for name, needed in value.items() if isinstance(needed, list)}
                if names:
                    yield "dependentRequired", names
                if len(names) < len(value):
                    yield "dependentSchemas", {name: part for name, part in value.items() if name not in names}
            case ("$ref", str()):
                pointer = _TUPLE_POINTER.sub(r"/prefixItems/\1", value)
                yield key, _PATTERN_POINTER.sub(_rewritten_pointer, pointer)
            case _ if key not in ANNOTATIONS:
                yield key, value


def _rewritten_pointer(step: re.Match[str]) -> str:
    """The step of a JSON pointer that leads to a pattern's schema, when the pattern is rewritten."""
    pattern = unquote(step[0]).replace("~1", "/").replace("~0", "~")
    return quote(_rewritten(pattern).replace("~", "~0").replace("/", "~1"), safe="~")


def _rewritten(pattern: str) -> str:
    try:
        return rust_pattern(pattern)
    except InvalidPattern:
        return pattern
