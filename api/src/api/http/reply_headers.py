"""What every reply carries: `x-request-id`, and what keeps browsers from taking it for more than it is."""

import re
from uuid import uuid4

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_SANE = re.compile(r"[\w.:/+=-]{1,128}", re.ASCII)

_ALWAYS = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}
_NO_PAGE = "default-src 'none'; frame-ancestors 'none'"
"""Content security policy of what is no page: whatever text a model writes, no browser runs any of it."""


class ReplyHeaders:
    """ASGI middleware, around everything that answers. What a route says itself stands."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        # The caller's own where it sent one, so that both logs speak of the same request.
        sent = Headers(scope=scope).get("x-request-id", "")
        request_id = sent if _SANE.fullmatch(sent) else uuid4().hex

        async def reply(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(raw=message.setdefault("headers", []))
                headers["x-request-id"] = request_id
                for name, value in _ALWAYS.items():
                    headers.setdefault(name, value)
                if not headers.get("content-type", "").startswith("text/html"):
                    headers.setdefault("Content-Security-Policy", _NO_PAGE)
            await send(message)

        await self._app(scope, receive, reply)
