"""Functions that the model calls."""

import pytest

from headrace import (
    AsyncClient,
    TooManyRounds,
)
from testbed.client_faces import Face
from testbed.event_frames import END, FINAL, call_of
from testbed.scripted_server import Answer, ScriptedServer


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
