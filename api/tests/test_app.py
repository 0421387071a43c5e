"""The application: what it is made of, and what it says when it breaks."""

import logging

import httpx
import pytest
from fastapi import FastAPI

from testbed.api_app import Call
from testbed.valkey import Valkey


async def test_an_unexpected_exception_in_a_route_is_logged_and_told_without_its_text(
    app_and_client: tuple[FastAPI, httpx.AsyncClient], caplog: pytest.LogCaptureFixture
) -> None:
    app, http = app_and_client

    @app.get("/crash")
    async def crash() -> None:
        raise RuntimeError("secret detail")

    reply = await http.get("/crash")
    assert reply.status_code == 500
    assert reply.json()["error"]["code"] == -32603
    assert "secret" not in reply.text
    assert "secret detail" in caplog.text


async def test_redis_going_away_and_coming_back_needs_no_restart(
    call: Call, valkey: Valkey, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    assert "result" in await call("create_message", message="hi")
    valkey.stop()
    for method, params in (
        ("create_message", {"message": "hi"}),
        ("get_message", {"taskId": "t"}),
        ("cancel_message", {"taskId": "t"}),
        ("model_list", {}),
    ):
        assert (await call(method, **params))["error"]["code"] == -32007
    assert (await call("tool_list"))["result"] == []
    valkey.start()
    assert "result" in await call("create_message", message="hi")
    assert "Traceback" not in caplog.text
