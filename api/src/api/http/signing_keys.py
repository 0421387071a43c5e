"""The signing keys of an identity provider are there before a route asks whose token it was sent."""

from fastapi import FastAPI
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from api.backend import Backend


class SigningKeys:
    """ASGI middleware; only where a provider is configured. A token of an unknown key lets it fetch the keys anew."""

    def __init__(self, app: ASGIApp, main: FastAPI) -> None:
        """`main` has the backend in its state."""
        self._app = app
        self._main = main

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            backend: Backend = self._main.state.backend
            headers = Headers(scope=scope)
            for name in ("x-api-key", "authorization"):
                await backend.key_ring.prepare(headers.get(name, "").rpartition(" ")[2])
        await self._app(scope, receive, send)
