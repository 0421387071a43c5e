"""Both clients against a server that drops, refuses, and says farewell."""

import itertools
import json
import threading
from typing import Any

import pytest

from headrace import (
    AsyncClient,
    DeadlineExceeded,
    FinalText,
    NotHeadrace,
    RequestRefused,
    TaskCancelled,
    TaskExpired,
    TaskFailed,
    TaskNotFound,
    ToolCalls,
    TooManyRounds,
    Unreachable,
)
from testbed.client_faces import Face
from testbed.scripted_server import Answer, Exchange, ScriptedServer

USAGE = {"promptTokens": 3, "completionTokens": 2, "cachedTokens": 0}
TIMINGS = {"queued": 0.1, "firstToken": 0.2, "total": 0.3}


def frame(event_id: str, kind: str, **data: Any) -> str:
    data = {"type": kind, "taskId": "t1", **data}
    return f"id: {event_id}\nevent: {kind}\ndata: {json.dumps(data)}\n\n"


def token(event_id: str, text: str) -> str:
    return frame(event_id, "token", text=text, index=int(event_id.partition("-")[2]))


STARTED = frame("1-0", "status", state="STARTED", attempt=1)
SUCCESS = frame("1-81", "status", state="SUCCESS")
FINAL = frame("1-8", "final_text", text="ab", finishReason="stop", usage=USAGE, timings=TIMINGS)
END = frame("1-9", "end", state="SUCCESS")


def call_of(name: str, **arguments: Any) -> str:
    calls = [{"id": "call_1", "name": name, "arguments": arguments}]
    return frame("1-8", "tool_calls", toolCalls=calls, text="", usage=USAGE, timings=TIMINGS)


def refusal(code: int, **data: Any) -> dict[str, Any]:
    return {"error": {"code": code, "message": "no", "data": data}}


def text_of(events: list[Any]) -> str:
    return "".join(event.text for event in events if event.type == "token")


def test_a_stream_gives_typed_events_to_the_end(client: Face, server: ScriptedServer) -> None:
    server.answers = [lambda x: x.events(STARTED, token("1-1", "a"), token("1-2", "b"), FINAL, END)]
    events = client.call("stream", "t1")
    assert [event.type for event in events] == ["status", "token", "token", "final_text", "end"]
    assert events[3] == FinalText.model_validate_json(FINAL.partition("data: ")[2])
    assert server.requests[0].path == "/stream/t1"
    assert server.requests[0].headers["Authorization"] == "Bearer key"
    assert "Last-Event-ID" not in server.requests[0].headers


def test_a_dropped_connection_is_continued_behind_the_last_event(client: Face, server: ScriptedServer) -> None:
    server.answers = [
        lambda x: x.events(STARTED, token("1-1", "a"), "id: 1-2\nevent: token\nda", then=lambda x: x.drop()),
        lambda x: x.drop(),
        lambda x: x.events(token("1-2", "b"), END),
    ]
    assert text_of(client.call("stream", "t1")) == "ab"
    assert [request.headers.get("Last-Event-ID") for request in server.requests] == [None, "1-1", "1-1"]


def test_a_farewell_is_followed_to_the_next_replica(client: Face, server: ScriptedServer) -> None:
    server.answers = [
        lambda x: x.events(STARTED, token("1-1", "a"), "retry: 20\n\n"),
        lambda x: x.events(token("1-2", "b"), END),
    ]
    events = client.call("stream", "t1")
    assert [event.type for event in events] == ["status", "token", "token", "end"]
    assert server.requests[1].headers["Last-Event-ID"] == "1-1"


def test_a_server_that_is_busy_is_asked_again(client: Face, server: ScriptedServer) -> None:
    server.answers = [
        lambda x: x.reply(503, refusal(-32007, retryable=True)),
        lambda x: x.reply(502),
        lambda x: x.events(END),
    ]
    assert [event.type for event in client.call("stream", "t1")] == ["end"]


def test_a_stream_that_was_read_to_its_end_has_no_more_events(client: Face, server: ScriptedServer) -> None:
    server.answers = [lambda x: x.reply(204)]
    assert client.call("stream", "t1", last_event_id="1-9") == []
    assert server.requests[0].headers["Last-Event-ID"] == "1-9"


def test_nothing_is_read_behind_the_end(client: Face, server: ScriptedServer) -> None:
    done = threading.Event()
    server.answers = [lambda x: x.events(END, then=lambda x: done.wait(10))]
    assert [event.type for event in client.call("stream", "t1", within=5)] == ["end"]
    done.set()


@pytest.mark.parametrize(
    ("status", "code", "error"),
    [(404, -32002, TaskNotFound), (410, -32002, TaskExpired), (401, -32001, RequestRefused)],
)
def test_a_stream_that_cannot_be_is_an_error_at_once(
    client: Face, server: ScriptedServer, status: int, code: int, error: type[Exception]
) -> None:
    server.answers = [lambda x: x.reply(status, refusal(code, retryable=False))]
    with pytest.raises(error) as raised:
        client.call("stream", "t1")
    assert raised.value.code == code  # type: ignore[attr-defined]  # HeadraceError
    assert len(server.requests) == 1


def test_a_web_page_is_not_taken_for_a_stream(client: Face, server: ScriptedServer) -> None:
    server.answers = [lambda x: x.reply(200, "hello", **{"Content-Type": "text/html"})]
    with pytest.raises(NotHeadrace):
        client.call("stream", "t1")


def test_a_deadline_ends_a_stream_that_has_only_keep_alives(client: Face, server: ScriptedServer) -> None:
    done = threading.Event()

    def keep_alive(exchange: Exchange) -> None:
        for _ in itertools.takewhile(lambda _: not done.wait(0.02), range(500)):
            exchange.chunk(": ping\n\n")

    server.answers = [lambda x: x.events(STARTED, then=keep_alive)]
    with pytest.raises(DeadlineExceeded):
        client.call("stream", "t1", within=0.2)
    done.set()


def test_unknown_events_and_fields_are_no_error(client: Face, server: ScriptedServer) -> None:
    news = frame("1-1", "news", text="of a later version")
    server.answers = [lambda x: x.events(frame("1-0", "status", state="STARTED", colour="red"), news, END)]
    assert [event.type for event in client.call("stream", "t1")] == ["status", "end"]


def test_creating_again_after_a_lost_reply_is_the_same_task(client: Face, server: ScriptedServer) -> None:
    server.answers = [
        lambda x: x.drop(),
        lambda x: x.reply(503, refusal(-32007, retryable=True)),
        lambda x: x.result({"taskId": "t1"}),
    ]
    assert client.call("create", "Hello", max_tokens=5) == "t1"
    first, *others = [request.body for request in server.requests]
    assert first["params"]["message"] == "Hello"
    assert first["params"]["maxTokens"] == 5
    assert first["params"]["idempotencyKey"]
    assert others == [first, first]


def test_two_creations_are_two_tasks(client: Face, server: ScriptedServer) -> None:
    server.answers = [lambda x: x.result({"taskId": "t1"}), lambda x: x.result({"taskId": "t2"})]
    client.call("create", "Hello")
    client.call("create", "Hello")
    keys = {request.params["idempotencyKey"] for request in server.requests}
    assert len(keys) == 2


def test_a_refusal_says_what_is_wrong_and_is_not_repeated(client: Face, server: ScriptedServer) -> None:
    server.answers = [lambda x: x.reply(200, refusal(-32005, retryable=False))]
    with pytest.raises(RequestRefused, match="no") as raised:
        client.call("create", "Hello", model="none")
    assert (raised.value.code, raised.value.retryable) == (-32005, False)
    assert len(server.requests) == 1


def test_a_server_that_asks_for_a_long_pause_is_left_to_the_caller(client: Face, server: ScriptedServer) -> None:
    server.answers = [lambda x: x.reply(200, refusal(-32004, retryable=True, retryAfterSeconds=3600))]
    with pytest.raises(RequestRefused) as raised:
        client.call("create", "Hello")
    assert (raised.value.retryable, raised.value.retry_after) == (True, 3600)


def test_a_server_that_is_down_is_unreachable_after_some_tries(client: Face, server: ScriptedServer) -> None:
    server.answers = [lambda x: x.drop()] * 5
    with pytest.raises(Unreachable):
        client.call("models")
    assert len(server.requests) == 5


def test_what_a_task_ends_with_is_its_result_or_its_error(client: Face, server: ScriptedServer) -> None:
    failed = frame("1-8", "error", code="deadline_exceeded", message="too late", retryable=True)
    server.answers = [
        lambda x: x.events(FINAL, SUCCESS, END),
        lambda x: x.events(call_of("add", a=1), SUCCESS, END),
        lambda x: x.events(failed, frame("1-9", "end", state="FAILURE")),
        lambda x: x.events(STARTED, frame("1-9", "end", state="REVOKED")),
    ]
    assert client.call("wait", "t1").text == "ab"
    assert isinstance(client.call("wait", "t1"), ToolCalls)
    with pytest.raises(TaskFailed, match="too late") as raised:
        client.call("wait", "t1")
    assert (raised.value.code, raised.value.retryable, raised.value.task_id) == ("deadline_exceeded", True, "t1")
    with pytest.raises(TaskCancelled):
        client.call("wait", "t1")


def test_state_cancellation_and_models_are_read(client: Face, server: ScriptedServer) -> None:
    model = {"name": "m", "default": True, "ready": True, "readyWorkers": 1, "waiting": 0, "running": 2}
    server.answers = [
        lambda x: x.result({"taskId": "t1", "state": "STARTED", "text": "a", "index": 1}),
        lambda x: x.result({"cancelled": True, "state": "STARTED"}),
        lambda x: x.result({"models": [model]}),
    ]
    view = client.call("get", "t1")
    assert (view.state, view.text, view.index, view.result, view.error) == ("STARTED", "a", 1, None, None)
    assert client.call("cancel", "t1").cancelled
    assert client.call("models")[0].running == 2
    assert [request.body["method"] for request in server.requests] == ["get_message", "cancel_message", "model_list"]


def add(a: int, b: int = 1) -> int:
    """Adds two numbers."""
    return a + b


async def add_slowly(a: int, b: int = 1) -> int:
    """Adds two numbers."""
    return a + b


def play_rounds(server: ScriptedServer, *streams: str) -> None:
    for number, stream in enumerate(streams):
        server.answers += [creates(f"t{number}"), streams_to_its_end(stream)]


def creates(task_id: str) -> Answer:
    return lambda x: x.result({"taskId": task_id})


def streams_to_its_end(stream: str) -> Answer:
    return lambda x: x.events(stream, END)


def test_functions_are_called_until_the_model_answers(client: Face, server: ScriptedServer) -> None:
    play_rounds(server, call_of("add", a=2, b=3), FINAL)
    answer = client.call("run_tools", "2 + 3?", [add], tool_choice="required", temperature=0)
    assert answer.text == "ab"
    first, _, second, _ = server.requests
    (tool,) = first.params["tools"]
    assert tool["function"]["name"] == "add"
    assert tool["function"]["description"] == "Adds two numbers."
    assert tool["function"]["parameters"]["required"] == ["a"]
    assert first.params["toolChoice"] == "required"
    assert "toolChoice" not in second.params
    assert second.params["idempotencyKey"] != first.params["idempotencyKey"]
    assert [message["role"] for message in second.params["messages"]] == ["user", "assistant", "tool"]
    assert second.params["messages"][2] == {"role": "tool", "tool_call_id": "call_1", "content": "5"}


def test_wrong_calls_are_told_to_the_model(client: Face, server: ScriptedServer) -> None:
    play_rounds(server, call_of("add", a="many"), call_of("subtract", a=1), FINAL)
    client.call("run_tools", "2 + 3?", [add])
    told = [message["content"] for message in server.requests[4].params["messages"] if message["role"] == "tool"]
    assert "valid integer" in told[0]
    assert "no function subtract" in told[1]


def test_a_model_that_only_calls_is_stopped(client: Face, server: ScriptedServer) -> None:
    play_rounds(server, *[call_of("add", a=2)] * 3)
    with pytest.raises(TooManyRounds):
        client.call("run_tools", "2 + 3?", [add], max_rounds=2)


async def test_the_async_client_awaits_coroutine_functions(server: ScriptedServer) -> None:
    play_rounds(server, call_of("add_slowly", a=2, b=3), FINAL)
    async with AsyncClient(server.url) as client:
        await client.run_tools("2 + 3?", [add_slowly])
    assert server.requests[2].params["messages"][2]["content"] == "5"
