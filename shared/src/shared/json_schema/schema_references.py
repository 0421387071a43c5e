"""Where the references of a schema lead: everything inside the schema itself, nothing is ever fetched.

Written for hostile schemas: linear in their size, whatever they hold. `schema_dialects` has read the schema before.
"""

from collections.abc import Iterator, Mapping
from typing import Any, cast
from urllib.parse import unquote, urldefrag, urljoin

from shared.json_schema.schema_dialects import LISTS_OF_SCHEMAS, MAPS_OF_SCHEMAS, SCHEMAS, InvalidSchema, Schema

IN_PLACE = frozenset({"allOf", "anyOf", "oneOf", "not", "if", "then", "else", "dependentSchemas"})
"""Keywords whose schemas speak about the same value as the schema that holds them; so does `$ref`."""


class SchemaReferences:
    """The references of one schema."""

    def __init__(self, schema: Schema) -> None:
        self._resources: dict[str, Schema] = {}
        """Schemas with a URI of their own."""
        self._anchors: dict[tuple[str, str], Schema] = {}
        """By URI and name."""
        self._uris: dict[int, str] = {}
        """Of every schema, by its id: the URI that its references are relative to."""
        self._schema = schema
        self._resources[""] = schema
        self._index(schema, "")

    def target(self, schema: Schema, reference: str) -> Any:
        """What the reference in `schema` leads to: a schema or a boolean. Raises InvalidSchema."""
        try:
            uri, fragment = urldefrag(urljoin(self._uris[id(schema)], reference))
        except ValueError:
            raise InvalidSchema(f"$ref {reference[:100]!r} is no URI reference") from None
        resource = self._resources.get(uri)
        if resource is None:
            raise InvalidSchema(f"$ref {reference[:100]!r} points outside the schema")
        if not fragment or fragment.startswith("/"):
            found = _at(resource, unquote(fragment))
        else:
            found = self._anchors.get((uri, fragment))
        if found is None:
            raise InvalidSchema(f"$ref {reference[:100]!r} leads nowhere")
        if not isinstance(found, Mapping | bool):
            raise InvalidSchema(f"$ref {reference[:100]!r} leads to {type(found).__name__}, which is no schema")
        if isinstance(found, Mapping) and id(found) not in self._uris:
            self._index(found, uri)  # it stands under a keyword that is none
        return found

    def used(self) -> list[dict[str, Any]]:
        """Every schema that has a say. Raises InvalidSchema for a reference in them that leads nowhere or in a circle.

        A circle comes back with no value in between: `{"$ref": "#"}` says nothing, while `properties` may hold it.
        """
        used: list[dict[str, Any]] = []
        path: list[tuple[Schema, Iterator[tuple[bool, Any]]]] = []
        on_path: set[int] = set()
        done: set[int] = set()
        later: list[Any] = [self._schema]
        while path or later:
            if not path:
                schema = later.pop()
                if isinstance(schema, Mapping) and id(schema) not in done:
                    path.append((schema, self._parts(schema)))
                    on_path.add(id(schema))
                continue
            schema, parts = path[-1]
            for in_place, part in parts:
                if not in_place:
                    later.append(part)
                elif id(part) in on_path:
                    reference = schema.get("$ref", schema.get("$dynamicRef", ""))
                    raise InvalidSchema(f"$ref {reference[:100]!r} leads back to itself, with no value in between")
                elif isinstance(part, Mapping) and id(part) not in done:
                    path.append((part, self._parts(part)))
                    on_path.add(id(part))
                    break
            else:
                path.pop()
                on_path.remove(id(schema))
                done.add(id(schema))
                used.append(cast(dict[str, Any], schema))
        return used

    def _parts(self, schema: Schema) -> Iterator[tuple[bool, Any]]:
        """The schemas that this one uses, each with whether it speaks about the same value."""
        for keyword in ("$ref", "$dynamicRef"):
            if isinstance(reference := schema.get(keyword), str):
                yield True, self.target(schema, reference)
        for keyword, part in subschemas(schema):
            if keyword not in ("$defs", "definitions"):
                yield keyword in IN_PLACE, part

    def _index(self, schema: Any, uri: str) -> None:
        pending: list[tuple[Any, str]] = [(schema, uri)]
        while pending:
            part, uri = pending.pop()
            if not isinstance(part, Mapping) or id(part) in self._uris:
                continue
            if isinstance(name := part.get("$id"), str):
                try:
                    uri = urldefrag(urljoin(uri, name)).url
                except ValueError:
                    raise InvalidSchema(f"$id {name[:100]!r} is no URI reference") from None
                self._resources[uri] = part
            self._uris[id(part)] = uri
            for keyword in ("$anchor", "$dynamicAnchor"):
                if isinstance(name := part.get(keyword), str):
                    self._anchors[uri, name] = part
            pending += [(inner, uri) for _, inner in subschemas(part)]


def subschemas(schema: Schema) -> Iterator[tuple[str, Any]]:
    """The schemas right inside this one, each with the keyword that holds it."""
    for keyword, value in schema.items():
        if keyword in MAPS_OF_SCHEMAS and isinstance(value, Mapping):
            for part in value.values():
                yield keyword, part
        elif keyword in LISTS_OF_SCHEMAS and isinstance(value, list):
            for part in value:
                yield keyword, part
        elif keyword in SCHEMAS:
            yield keyword, value


def _at(resource: Any, pointer: str) -> Any:
    """What a JSON pointer finds; None for nothing."""
    found = resource
    for step in pointer.split("/")[1:]:
        name = step.replace("~1", "/").replace("~0", "~")
        if isinstance(found, Mapping):
            found = found.get(name)
        elif (
            isinstance(found, list) and name.isdecimal() and name.isascii() and len(name) < 6 and int(name) < len(found)
        ):
            found = found[int(name)]
        else:
            return None
    return found
