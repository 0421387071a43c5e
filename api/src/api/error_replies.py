"""The one place where an exception of a route becomes an HTTP reply; `/rpc` answers in JSON-RPC's own form."""

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.error_object import http_headers, problem
from api.errors import as_api_error


class ErrorReplies:
    """ASGI middleware: whatever a route raises is answered, and logged once if nobody expected it.

    Not an exception handler of FastAPI's: one for `Exception` stands outside of CORS, where a browser cannot read what
    it answers, and raises again behind its answer, so that the server logs a second traceback.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

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
            reply = JSONResponse(problem(refusal), status_code=refusal.status, headers=http_headers(refusal))
            await reply(scope, receive, send)
