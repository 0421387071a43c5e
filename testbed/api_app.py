"""The API's application without a port: requests reach it in the test's own loop."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import httpx
from fastapi import FastAPI

from api.app import create_app
from api.settings import Settings
from testbed.judged_app import JudgedApp

StartApp = Callable[..., AbstractAsyncContextManager[httpx.AsyncClient]]
"""`async with start_app(setting=value) as http`."""
Call = Callable[..., Awaitable[dict[str, Any]]]
"""`await call("method", name=value)` -> the reply's object; `key=` is the API key."""


@asynccontextmanager
async def serving(settings: Settings) -> AsyncIterator[tuple[FastAPI, httpx.AsyncClient]]:
    """The application in its lifespan, and a client of it; its replies are judged at the end."""
    app = create_app(settings)
    judged = JudgedApp(app)
    transport = httpx.ASGITransport(judged)
    async with app.router.lifespan_context(app), httpx.AsyncClient(transport=transport, base_url="http://api") as http:
        yield app, http
    judged.check()


async def rpc(http: httpx.AsyncClient, method: str, params: Any, *, key: str = "") -> dict[str, Any]:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
    reply: dict[str, Any] = (await http.post("/rpc", json=body, headers=headers)).json()
    return reply
