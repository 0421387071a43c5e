"""What every HTTP door takes from its connection: the backend, who is calling, whether the client is still there."""

from fastapi import Request
from starlette.types import Receive

from api.backend import Backend
from api.errors import Unauthorized
from api.tenants.caller import Caller
from shared.telemetry.tracing import context_text, received

KEY_IN_QUERY = "access_token"
"""Deprecated parameter of `/stream`: an API key (RFC 6750). The next version takes stream tokens only."""


def backend_of(request: Request) -> Backend:
    """The backend of the application that serves this request."""
    backend: Backend = request.app.state.backend
    return backend


def caller_of(request: Request) -> Caller:
    """By the header `Authorization: Bearer <key>`, or by `x-api-key`, which Anthropic's clients send; where both are
    there, both count. Raises Unauthorized.
    """
    key_ring = backend_of(request).key_ring
    if "x-api-key" not in request.headers:
        return key_ring.caller(_bearer(request))
    caller = key_ring.caller(_only(request, "x-api-key").strip())
    if "authorization" in request.headers and key_ring.caller(_bearer(request)) != caller:
        raise Unauthorized("Authorization and x-api-key name two different callers: send one of them.")
    return caller


def _bearer(request: Request) -> str:
    scheme, _, key = _only(request, "authorization").partition(" ")
    return key.strip() if scheme.lower() == "bearer" else ""


def _only(request: Request, name: str) -> str:
    """Of a header that was sent twice neither counts: a proxy in front may have believed the other one."""
    sent = request.headers.getlist(name)
    return sent[0] if len(sent) == 1 else ""


def _sends_key(request: Request) -> bool:
    return "authorization" in request.headers or "x-api-key" in request.headers


async def caller_of_reader(request: Request, task_id: str) -> Caller:
    """As `caller_of`; who sets no headers, such as a browser's EventSource, sends `?stream_token=` instead."""
    if _sends_key(request) or "stream_token" not in request.query_params:
        return caller_of(request)
    backend = backend_of(request)
    caller = await backend.stream_tokens.caller(request.query_params["stream_token"], task_id)
    if not backend.key_ring.holds(caller):
        raise Unauthorized("The API key that the stream token was made with was revoked, or has expired.")
    return caller


async def caller_of_stream(request: Request, task_id: str) -> Caller:
    """As `caller_of_reader`. Deprecated: the key itself, `?access_token=`. The server's own log holds no query strings
    for that reason; proxies in front should not either.
    """
    query = request.query_params
    if KEY_IN_QUERY in query and "stream_token" not in query and not _sends_key(request):
        return backend_of(request).key_ring.caller(query[KEY_IN_QUERY])
    return await caller_of_reader(request, task_id)


def trace_context_of(request: Request) -> str:
    """The request's own place in its trace, or its sender's where tracing is off (`tracing.context_text`)."""
    return context_text() or received(request.headers)


async def disconnected(receive: Receive) -> None:
    """Returns when the client has closed its connection."""
    while (await receive())["type"] != "http.disconnect":
        pass
