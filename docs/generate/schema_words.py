"""A JSON schema in a few words, as it stands in a table's column."""

import json
from collections.abc import Mapping
from typing import Any

Schema = Mapping[str, Any]

_BOUNDS = {
    "minimum": "at least {}",
    "exclusiveMinimum": "above {}",
    "maximum": "at most {}",
    "exclusiveMaximum": "below {}",
    "minLength": "at least {} characters",
    "maxLength": "at most {} characters",
    "minItems": "at least {}",
    "maxItems": "at most {}",
    "maxProperties": "at most {} entries",
    "pattern": "matching `{}`",
}


def in_words(schema: Schema, page: str = "") -> str:
    """`integer, at least 1`, `list of [Tool](#tool), at most 128`, `"high" or "low"`; `page` explains the types."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        if name == "JsonValue":
            return "any JSON"
        return f"[{name}]({page}#{name.lower()})"
    if "const" in schema:
        return f"`{json.dumps(schema['const'])}`"
    if "enum" in schema:
        return _either([f"`{json.dumps(value)}`" for value in schema["enum"]])
    for key in ("anyOf", "oneOf"):
        if key in schema:
            return _either([in_words(part, page) for part in schema[key] if part != {"type": "null"}])
    bounds = [
        text.format(
            f"{schema[key]:.0f}" if isinstance(schema[key], float) and schema[key].is_integer() else schema[key]
        )
        for key, text in _BOUNDS.items()
        if key in schema
    ]
    return ", ".join([_kind(schema, page), *bounds]).replace("|", "\\|")


def _kind(schema: Schema, page: str) -> str:
    match schema.get("type"):
        case "array":
            return f"list of {in_words(schema['items'], page)}" if schema.get("items") else "list"
        case "object":
            values = schema.get("additionalProperties")
            return f"map of {in_words(values, page)}" if isinstance(values, dict) and values else "object"
        case "boolean":
            return "true or false"
        case str(kind):
            return kind
        case _:
            return "any JSON"


def _number(bound: Any) -> Any:
    return int(bound) if isinstance(bound, float) and bound.is_integer() else bound


def _either(parts: list[str]) -> str:
    parts = list(dict.fromkeys(parts))
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} or {parts[-1]}"
