"""Who is calling: `Authorization: Bearer <key>` -> the tenant."""

import hmac
from collections.abc import Mapping

from fastapi import Request

from api.backend import backend_of
from api.errors import Unauthorized

DEFAULT_TENANT = "default"
"""Of everybody, where no API keys are configured."""


def caller(request: Request) -> str:
    """The caller's tenant, by the header; a FastAPI dependency. Raises Unauthorized."""
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    return _tenant(backend_of(request).settings.api_keys, key.strip() if scheme.lower() == "bearer" else "")


def reader(request: Request) -> str:
    """As `caller`, for streams: a browser's EventSource sets no headers and may send `?access_token=` (RFC 6750).

    The server's own log holds no query strings for that reason; proxies in front should not either.
    """
    if "authorization" in request.headers:
        return caller(request)
    return _tenant(backend_of(request).settings.api_keys, request.query_params.get("access_token", ""))


def _tenant(api_keys: Mapping[str, str], key: str) -> str:
    if not api_keys:
        return DEFAULT_TENANT
    sent = key.encode()
    found = ""
    for known, tenant in api_keys.items():  # all of them, so that the time tells nothing about which one came close
        if hmac.compare_digest(known.encode(), sent):
            found = tenant
    if not found:
        raise Unauthorized
    return found
