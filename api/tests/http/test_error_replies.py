"""What a client and the log are told of an exception."""

import logging

import httpx
import pytest
from fastapi import FastAPI, Response
from starlette.types import Receive, Scope, Send

from api.http.error_replies import ErrorReplies
from testbed.api_app import StartApp
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


@pytest.mark.parametrize(
    ("verb", "path", "allowed"),
    [
        ("PATCH", "/v1/responses/resp_x", "DELETE, GET"),
        ("PUT", "/v1/conversations/conv_x", "DELETE, GET, POST"),
        ("DELETE", "/stream/x", "GET, HEAD"),
        ("GET", "/rpc", "POST"),
        ("POST", "/page/page.css", "GET, HEAD"),
    ],
)
async def test_a_path_that_is_asked_wrongly_tells_all_its_verbs(
    start_app: StartApp, verb: str, path: str, allowed: str
) -> None:
    async with start_app() as http:
        reply = await http.request(verb, path)
    assert (reply.status_code, reply.headers["Allow"]) == (405, allowed)


async def test_no_slash_at_a_path_s_end_leads_elsewhere(start_app: StartApp) -> None:
    """The address would be made of the header `Host`."""
    async with start_app() as http:
        reply = await http.get("/v1/models/smollm2/", headers={"Host": "evil.example"})
        assert (reply.status_code, reply.json()["error"]["code"]) == (404, "model_not_found")
        reply = await http.post("/v1/responses/", headers={"Host": "evil.example"})
        assert (reply.status_code, "location" in reply.headers) == (404, False)


async def test_each_error_is_counted_by_its_name(start_replica: StartReplica) -> None:
    replica = await start_replica(max_body_bytes=1024, max_batch=1)
    json_type = {"Content-Type": "application/json"}
    deep, long = "[" * 300 + "]" * 300, "[" + " " * 2000 + "]"
    async with httpx.AsyncClient(base_url=replica.url) as http:
        for path in ("/rpc", "/v1/chat/completions"):
            for body in (deep, long):
                await http.post(path, content=body, headers=json_type)
        await http.post("/rpc", content="[{}, {}]", headers=json_type)
        await http.get("/stream/nobody")

    def count(reason: str) -> float | None:
        return replica.backend.metrics.registry.get_sample_value("headrace_request_errors_total", {"reason": reason})

    assert {reason: count(reason) for reason in ("ParseError", "BodyTooLarge", "InvalidRequest", "TaskNotFound")} == {
        "ParseError": 2, "BodyTooLarge": 2, "InvalidRequest": 1, "TaskNotFound": 1
    }  # fmt: skip
