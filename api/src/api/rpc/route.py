"""`POST /rpc`: JSON-RPC over HTTP.

The rule of its HTTP statuses: a request that is refused before its body is read as JSON-RPC has the status of the
refusal (401, 408, 413, 415); every reply of JSON-RPC itself, errors included, is a 200, and no reply at all a 204.
"""

from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic.json_schema import models_json_schema
from starlette.requests import ClientDisconnect

from api.error_object import http_headers
from api.errors import ApiError, BodyTooLarge, BodyTooSlow, InternalError, Unauthorized, UnsupportedMediaType
from api.http.dependencies import backend_of, caller_of, trace_context_of
from api.http.openapi import body_as, replies
from api.http.request_body import read_body
from api.rpc.jsonrpc import Limits, answer, encode, error_reply
from api.rpc.methods import METHODS, PARAMS, Call

router = APIRouter()


def _one_or_many(title: str, one: dict[str, Any]) -> dict[str, Any]:
    return {"title": title, "oneOf": [one, {"type": "array", "items": one, "minItems": 1}]}


_PARAMS, _TYPES = models_json_schema([(params, "validation") for params in PARAMS.values()], by_alias=True)
REQUESTS = _one_or_many(
    "RpcRequest",
    {
        "oneOf": [
            {
                "type": "object",
                "required": ["jsonrpc", "method"],
                "properties": {
                    "jsonrpc": {"const": "2.0"},
                    "id": {"type": ["string", "integer", "null"]},
                    "method": {"const": name},
                    "params": _PARAMS[params, "validation"],
                },
            }
            for name, params in PARAMS.items()
        ]
    },
) | {"$defs": _TYPES["$defs"]}
REPLY: dict[str, Any] = {
    "title": "RpcReply",
    "type": "object",
    "required": ["jsonrpc", "id"],
    "properties": {
        "jsonrpc": {"const": "2.0"},
        "id": {"type": ["string", "number", "null"]},
        "result": {},
        "error": {
            "type": "object",
            "required": ["code", "message"],
            "properties": {"code": {"type": "integer"}, "message": {"type": "string"}, "data": {"type": "object"}},
        },
    },
}
REPLIES = _one_or_many("RpcReplies", REPLY)


@router.post(
    "/rpc",
    summary="JSON-RPC 2.0",
    response_class=Response,
    openapi_extra=body_as(REQUESTS),
    responses={
        **replies(REPLIES, REPLY, (Unauthorized, BodyTooSlow, BodyTooLarge, UnsupportedMediaType, InternalError)),
        204: {"description": "There were notifications only."},
    },
)
async def rpc(request: Request) -> Response:
    """The methods of `methods.py`; batches and notifications."""
    backend = backend_of(request)
    settings = backend.settings

    def note(error: ApiError) -> None:
        backend.metrics.errors.labels(type(error).__name__).inc()

    try:
        caller = caller_of(request)
        _check_media_type(request)
        body = await read_body(request)
    except ApiError as error:
        note(error)
        return _json(encode(error_reply(error)), error.status, http_headers(error))
    except ClientDisconnect:
        return Response(status_code=400)  # nobody reads it
    call = Call(backend, caller, trace_context_of(request), len(body))
    reply = await answer(body, METHODS, call, Limits(settings.max_batch, settings.batch_concurrency), note=note)
    return Response(status_code=204) if reply is None else _json(reply)


def _json(body: bytes, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(body, status, headers=headers, media_type="application/json")


_JSON_TYPES = ("application/json", "application/json-rpc", "application/jsonrequest")
"""The latter two by the JSON-RPC group's own note on HTTP (https://www.jsonrpc.org/historical/json-rpc-over-http.html)."""


def _check_media_type(request: Request) -> None:
    """Raises UnsupportedMediaType. HTML forms of other sites cannot send JSON's types: no forgery through a browser."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type not in _JSON_TYPES and not (media_type.startswith("application/") and media_type.endswith("+json")):
        raise UnsupportedMediaType
    if request.headers.get("content-encoding", "").strip().lower() not in ("", "identity"):
        raise UnsupportedMediaType("the body must not be compressed: send no `Content-Encoding`")
