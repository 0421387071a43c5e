"""Both clients follow a stream of a server that drops, refuses, and says farewell."""

import itertools
import threading
from typing import Any

import pytest

from headrace import (
    DeadlineExceeded,
    FinalText,
    NotHeadrace,
    RequestRefused,
    TaskCancelled,
    TaskExpired,
    TaskFailed,
    TaskNotFound,
    ToolCalls,
)
from testbed.client_faces import Face
from testbed.event_frames import END, FINAL, STARTED, SUCCESS, call_of, frame, refusal, token
from testbed.scripted_server import Exchange, ScriptedServer


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
