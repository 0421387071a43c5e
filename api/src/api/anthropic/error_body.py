"""Errors as Anthropic's clients read them: `{"type": "error", "error": {type, message}, "request_id"}`."""

from typing import Any

from fastapi.responses import JSONResponse, Response
from pydantic import JsonValue

from api.errors import ApiError, BodyTooLarge

LONGEST_RETRY_SECONDS = 60
"""Anthropic's clients obey no longer waits."""

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
    503: "overloaded_error",
}


ERROR: dict[str, Any] = {
    "title": "AnthropicError",
    "type": "object",
    "required": ["type", "error", "request_id"],
    "properties": {
        "type": {"const": "error"},
        "error": {
            "type": "object",
            "required": ["type", "message"],
            "properties": {"type": {"type": "string"}, "message": {"type": "string"}},
        },
        "request_id": {"type": "null"},
    },
}
"""The body's schema."""


def error_reply(error: ApiError) -> Response:
    """The whole reply."""
    headers = {"x-should-retry": "true" if error.retryable else "false"}
    if error.retry_after is not None:
        headers["Retry-After"] = str(min(LONGEST_RETRY_SECONDS, error.retry_after))
    return JSONResponse(error_body(error), status_code=error.status, headers=headers)


def error_body(error: ApiError) -> dict[str, JsonValue]:
    """The body of an error reply, and of the event that ends a stream which cannot go on."""
    place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error.place).removeprefix(".")
    message = f"{place}: {error.message}" if place else error.message
    # The request's id stands in the header `x-request-id` of every reply.
    return {"type": "error", "error": {"type": _type(error), "message": message}, "request_id": None}


def _type(error: ApiError) -> str:
    if isinstance(error, BodyTooLarge):
        return "request_too_large"
    return _TYPES.get(error.status, "api_error" if error.status >= 500 else "invalid_request_error")
