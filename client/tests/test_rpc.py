"""Both clients call a server that loses replies, refuses, and is down."""

import pytest

from headrace import (
    RequestRefused,
    Unreachable,
)
from testbed.client_faces import Face
from testbed.event_frames import refusal
from testbed.scripted_server import ScriptedServer


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
