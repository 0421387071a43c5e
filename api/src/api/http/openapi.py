"""What `/openapi.json` says of routes that read their bodies and write their replies themselves."""

from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel

from api.errors import (
    ApiError,
    BodyTooLarge,
    BodyTooSlow,
    ContextTooLong,
    Forbidden,
    InternalError,
    InvalidParams,
    KeyReused,
    ModelQueueFull,
    ParseError,
    RateExceeded,
    ReplicaStops,
    StoreFull,
    TaskCancelled,
    TaskFailed,
    TaskRefused,
    TaskTooLate,
    ToolLoopRefused,
    TooManyStreams,
    TooManyTasks,
    Unauthorized,
    Unavailable,
    UnknownModel,
)

Json = dict[str, Any]
Responses = dict[int | str, Json]
"""As FastAPI's routes take them."""

CALLING = (Unauthorized, Forbidden, Unavailable, InternalError)
"""What every route may answer."""
READING = (*CALLING, ParseError, InvalidParams, BodyTooSlow, BodyTooLarge)
"""What a route with a body may answer."""
STARTING = (
    *READING, UnknownModel, KeyReused, ContextTooLong, ToolLoopRefused, ModelQueueFull, RateExceeded, TooManyTasks,
    StoreFull,
)  # fmt: skip
"""What a route that starts a task may answer."""
ENDING = (*STARTING, TooManyStreams, TaskFailed, TaskRefused, TaskTooLate, TaskCancelled, ReplicaStops)
"""What a route may answer whose whole reply is its task's end."""


class DescribedApi(FastAPI):
    """An application whose description has the types of its routes' bodies, and the key that its callers send."""

    def openapi(self) -> Json:
        """The document; made once."""
        if self.openapi_schema is None:
            document = super().openapi()
            schemas = document.setdefault("components", {}).setdefault("schemas", {})
            for operation in [one for path in document["paths"].values() for one in path.values()]:
                # FastAPI's own refusal of a path's parameters: they are texts here, and any text is one.
                operation["responses"].pop("422", None)
                for content in _contents(operation):
                    content["schema"] = _lifted(content["schema"], schemas)
            for name in ("HTTPValidationError", "ValidationError"):
                schemas.pop(name, None)
            document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
            document["security"] = [{}, {"key": []}]  # a server without keys asks for none
        return self.openapi_schema or {}


def _contents(operation: Json) -> list[Json]:
    holders = [operation.get("requestBody", {}), *operation["responses"].values()]
    return [content for holder in holders for content in holder.get("content", {}).values() if "schema" in content]


def _lifted(schema: Json, schemas: Json) -> Json:
    """The schema, its definitions moved to the components under its own name: two doors have types of one name."""
    definitions: Json = schema.pop("$defs", {})
    owner = schema.get("title", "")

    def moved(node: Any) -> Any:
        if isinstance(node, list):
            return [moved(one) for one in node]
        if not isinstance(node, dict):
            return node
        return {
            name: one.replace("#/$defs/", f"#/components/schemas/{owner}.") if name == "$ref" else moved(one)
            for name, one in node.items()
        }

    schemas |= {f"{owner}.{name}": moved(definition) for name, definition in definitions.items()}
    lifted: Json = moved(schema)
    return lifted


def body_of(kind: type[BaseModel], *, required: bool = True) -> Json:
    """For a route's `openapi_extra`: a JSON body of this type."""
    return body_as(kind.model_json_schema(), required=required)


def body_as(schema: Json, *, required: bool = True) -> Json:
    """For a route's `openapi_extra`: a JSON body of this schema."""
    return {"requestBody": {"required": required, "content": {"application/json": {"schema": schema}}}}


def query(**parameters: tuple[Json, str]) -> Json:
    """For a route's `openapi_extra`: what may stand behind the `?`, each with its schema and what it means."""
    return {
        "parameters": [
            {"in": "query", "name": name, "schema": schema, "description": meaning}
            for name, (schema, meaning) in parameters.items()
        ]
    }


def replies(reply: Json, error: Json, refusals: Sequence[type[ApiError]], *, events: str = "") -> Responses:
    """For a route's `responses`: the reply, every refusal by its status, and where it may stream, what of."""
    content: Json = {"application/json": {"schema": reply}}
    if events:
        content |= events_of(events)
    return {200: {"description": reply.get("description", "The reply."), "content": content}} | refused(error, refusals)


def events_of(meaning: str) -> Json:
    """The content of a reply that is a stream of events, in the words of OpenAPI 3.2, which knows streams."""
    text: Json = {"type": "string"}
    event: Json = {"type": "object", "required": ["data"], "properties": {"id": text, "event": text, "data": text}}
    return {"text/event-stream": {"itemSchema": event | {"description": meaning}}}


def refused(error: Json, refusals: Sequence[type[ApiError]]) -> Responses:
    """The refusals by their status, each with what brings it about."""
    reasons: dict[int, list[str]] = {}
    for refusal in dict.fromkeys(refusals):
        reasons.setdefault(refusal.status, []).append(refusal.__doc__ or "")
    return {
        status: {"description": " ".join(texts), "content": {"application/json": {"schema": error}}}
        for status, texts in sorted(reasons.items())
    }
