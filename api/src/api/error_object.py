"""An error as Headrace's own doors put it on the wire: the error object of JSON-RPC, its names in camelCase."""

from typing import Any

from pydantic import JsonValue
from pydantic.alias_generators import to_camel

from api.errors import ApiError, InvalidParams, Unauthorized
from shared.conversation.rules import Place

ERROR: dict[str, Any] = {
    "title": "Problem",
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["code", "message", "data"],
            "properties": {
                "code": {"type": "integer"},
                "message": {"type": "string"},
                "data": {
                    "type": "object",
                    "required": ["retryable"],
                    "properties": {"retryable": {"type": "boolean"}, "retryAfterSeconds": {"type": "integer"}},
                },
            },
        }
    },
}
"""The schema of `problem`."""


def error_object(error: ApiError) -> dict[str, JsonValue]:
    """`code`, `message` and `data`; the message begins with the place of the fault where there is one."""
    path = spelled(error.place)
    data: dict[str, JsonValue] = {"retryable": error.retryable}
    if error.retry_after is not None:
        data["retryAfterSeconds"] = error.retry_after
    if isinstance(error, InvalidParams):
        data["errors"] = [{"path": path, "message": error.message}]
    message = f"{path}: {error.message}" if path else error.message
    return {"code": error.code, "message": message, "data": data | error.data}


def spelled(place: Place) -> str:
    """The place as a client of these doors writes it: `toolChoice`, `messages[1].tool_calls[0]`."""
    path = ""
    for number, part in enumerate(place):
        if isinstance(part, int):
            path += f"[{part}]"
        else:
            path += to_camel(part) if number == 0 else f".{part}"
    return path


def problem(error: ApiError) -> dict[str, JsonValue]:
    """Body of an HTTP error reply outside of JSON-RPC."""
    return {"error": error_object(error)}


def http_headers(error: ApiError) -> dict[str, str]:
    """Headers of an HTTP reply whose status is the error's."""
    headers: dict[str, str] = {}
    if isinstance(error, Unauthorized):
        headers["WWW-Authenticate"] = 'Bearer realm="headrace"'
    if error.retry_after is not None:
        headers["Retry-After"] = str(error.retry_after)
    return headers
