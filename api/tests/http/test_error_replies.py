"""What a client and the log are told of an exception."""

import logging

import httpx
import pytest
from fastapi import FastAPI, Response
from starlette.types import Receive, Scope, Send

from api.http.error_replies import ErrorReplies
from testbed.api_replica import StartReplica


def tracebacks(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.exc_info]


async def test_an_unexpected_exception_is_logged_once_and_a_browser_can_read_the_reply(
    start_replica: StartReplica, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    replica = await start_replica(cors_origins=("https://chat.example",))

    async def crash(*_: object, **__: object) -> None:
        raise RuntimeError("secret")

    monkeypatch.setattr(replica.backend.own_tasks, "record", crash)
    async with httpx.AsyncClient(base_url=replica.url) as http:
        reply = await http.get("/stream/a-task", headers={"Origin": "https://chat.example"})
    assert (reply.status_code, reply.json()["error"]["code"]) == (500, -32603)
    assert reply.headers["access-control-allow-origin"] == "https://chat.example"
    assert "secret" not in reply.text
    assert [record.name for record in tracebacks(caplog)] == ["api.errors"]


async def test_an_exception_behind_the_beginning_of_a_reply_is_left_to_the_server() -> None:
    async def route(scope: Scope, receive: Receive, send: Send) -> None:
        await Response("half of it")(scope, receive, send)
        raise RuntimeError("too late")

    app = FastAPI()
    app.mount("/", route)
    app.add_middleware(ErrorReplies, doors={})
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://api") as http:
        with pytest.raises(RuntimeError, match="too late"):
            await http.get("/")
