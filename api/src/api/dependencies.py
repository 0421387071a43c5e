"""What every HTTP door takes from a request before it reads it: the application's backend, and who is calling."""

from fastapi import Request

from api.auth import Caller
from api.backend import Backend


def backend_of(request: Request) -> Backend:
    """The backend of the application that serves this request."""
    backend: Backend = request.app.state.backend
    return backend


def caller_of(request: Request) -> Caller:
    """By the header `Authorization: Bearer <key>`. Raises Unauthorized."""
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    return backend_of(request).key_ring.caller(key.strip() if scheme.lower() == "bearer" else "")


def caller_of_stream(request: Request) -> Caller:
    """As `caller_of`; a browser's EventSource sets no headers and may send `?access_token=` instead (RFC 6750).

    The server's own log holds no query strings for that reason; proxies in front should not either.
    """
    if "authorization" in request.headers:
        return caller_of(request)
    return backend_of(request).key_ring.caller(request.query_params.get("access_token", ""))
