"""The one place where an exception of a route becomes an HTTP reply; `/rpc` answers in JSON-RPC's own form."""

from collections.abc import Callable, Iterator, Mapping

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.error_object import http_headers, problem
from api.errors import ApiError, NoSuchPath, NotThisVerb, as_api_error
from api.http.allowance_headers import allowance_headers


async def unrouted(request: Request, error: Exception) -> Response:
    """An exception handler: what the router refuses is an error like any other, not in a form of FastAPI's own."""
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        # The router itself tells the verbs of the first route that fits; files have none.
        allowed = ", ".join(_verbs(request)) or "GET, HEAD"
        raise NotThisVerb(f"this path answers {allowed}", allow=allowed)
    raise NoSuchPath


def _verbs(request: Request) -> Iterator[str]:
    """What the path may be asked by."""
    for verb in ("DELETE", "GET", "HEAD", "PATCH", "POST", "PUT"):
        asked = {**request.scope, "method": verb}
        if any(route.matches(asked)[0] is Match.FULL for route in request.app.routes):
            yield verb


class ErrorReplies:
    """ASGI middleware: whatever a route raises is answered, and logged once if nobody expected it.

    Not an exception handler of FastAPI's: one for `Exception` stands outside of CORS, where a browser cannot read what
    it answers, and raises again behind its answer, so that the server logs a second traceback.
    """

    def __init__(self, app: ASGIApp, doors: Mapping[str, Callable[[ApiError], Response]]) -> None:
        """`doors`: how errors look below these paths; the first that fits counts."""
        self._app = app
        self._doors = doors

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        began = False

        async def noted(message: Message) -> None:
            nonlocal began
            began = True
            await send(message)

        try:
            await self._app(scope, receive, noted)
        except Exception as error:
            if began or scope["type"] != "http":
                raise  # too late for a status: the server logs it and cuts the connection
            refusal = as_api_error(error)
            scope["app"].state.backend.metrics.errors.labels(type(refusal).__name__).inc()
            await self._reply(scope["path"], refusal)(scope, receive, send)

    def _reply(self, path: str, refusal: ApiError) -> Response:
        reply = next((reply for below, reply in self._doors.items() if path.startswith(below)), _problem)(refusal)
        reply.headers.update(allowance_headers(refusal.allowance))
        if isinstance(refusal, NotThisVerb):
            reply.headers["Allow"] = str(refusal.data["allow"])
        return reply


def _problem(refusal: ApiError) -> Response:
    return JSONResponse(problem(refusal), status_code=refusal.status, headers=http_headers(refusal))
