"""`POST /rpc`: JSON-RPC over HTTP.

The rule of its HTTP statuses: a request that is refused before its body is read as JSON-RPC has the status of the
refusal (401, 408, 413, 415); every reply of JSON-RPC itself, errors included, is a 200, and no reply at all a 204.
"""

from fastapi import APIRouter, Request, Response
from starlette.requests import ClientDisconnect

from api.error_object import http_headers
from api.errors import ApiError, UnsupportedMediaType
from api.http.dependencies import backend_of, caller_of, trace_context_of
from api.http.request_body import read_body
from api.rpc.jsonrpc import Limits, answer, encode, error_reply
from api.rpc.methods import METHODS, Call

router = APIRouter()


@router.post("/rpc", summary="JSON-RPC 2.0", response_class=Response)
async def rpc(request: Request) -> Response:
    """create_message, get_message, cancel_message, tool_list, model_list; batches and notifications."""
    backend = backend_of(request)
    settings = backend.settings
    try:
        caller = caller_of(request)
        _check_media_type(request)
        body = await read_body(request)
    except ApiError as error:
        return _json(encode(error_reply(error)), error.status, http_headers(error))
    except ClientDisconnect:
        return Response(status_code=400)  # nobody reads it
    call = Call(backend, caller, trace_context_of(request), len(body))
    reply = await answer(body, METHODS, call, Limits(settings.max_batch, settings.batch_concurrency))
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
