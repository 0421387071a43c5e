"""Errors as OpenAI's clients read them: `{"error": {message, type, param, code}}`, and headers to retry by."""

from typing import Any

from fastapi.responses import JSONResponse, Response
from pydantic import JsonValue

from api.errors import (
    CONTEXT_TOO_LONG,
    RATE_EXCEEDED,
    UNAUTHORIZED,
    UNKNOWN_MODEL,
    ApiError,
    BodyTooLarge,
    UnknownModel,
)
from shared.conversation.rules import Place

LONGEST_RETRY_SECONDS = 60
"""OpenAI's JavaScript client obeys no longer waits, its Python client none above 120 s."""

_CODES = {
    UNAUTHORIZED: "invalid_api_key",
    UNKNOWN_MODEL: "model_not_found",
    CONTEXT_TOO_LONG: "context_length_exceeded",
    RATE_EXCEEDED: "rate_limit_exceeded",
}
"""Our code -> OpenAI's."""


ERROR: dict[str, Any] = {
    "title": "Error",
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}
"""The body's schema."""


def error_reply(error: ApiError) -> Response:
    """The whole reply."""
    return JSONResponse(error_body(error), status_code=error.status, headers=error_headers(error))


def error_body(error: ApiError) -> dict[str, JsonValue]:
    """The body of an error reply, and of the event that ends a stream which cannot go on."""
    param = spelled(error.place)
    message = f"{param}: {error.message}" if param else error.message
    if not param and isinstance(problems := error.data.get("errors"), list) and isinstance(problems[0], dict):
        param = str(problems[0]["path"])
    code = "request_too_large" if isinstance(error, BodyTooLarge) else _CODES.get(error.code)
    if isinstance(error, UnknownModel):
        param = "model"
    return {"error": {"message": message, "type": _type(error.status), "param": param or None, "code": code}}


def error_headers(error: ApiError) -> dict[str, str]:
    """What tells OpenAI's clients whether and when to try again."""
    headers = {"x-should-retry": "true" if error.retryable else "false"}
    if error.retry_after is not None:
        seconds = min(LONGEST_RETRY_SECONDS, error.retry_after)
        headers |= {"Retry-After": str(seconds), "retry-after-ms": str(seconds * 1000)}
    return headers


def spelled(place: Place) -> str:
    """The place as OpenAI's API spells it: `messages[1].tool_calls[0]`."""
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place)
    return path.removeprefix(".")


def _type(status: int) -> str:
    match status:
        case 401 | 403:
            return "authentication_error"
        case 429:
            return "rate_limit_error"
        case _ if status >= 500:
            return "server_error"
        case _:
            return "invalid_request_error"
