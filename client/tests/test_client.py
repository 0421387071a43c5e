"""Both clients: what their methods ask and read."""

import pytest

from headrace import ConversationNotFound
from testbed.client_faces import Face
from testbed.scripted_server import ScriptedServer


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


def test_a_conversation_is_read_and_deleted(client: Face, server: ScriptedServer) -> None:
    messages = [{"role": "user", "content": "hi"}]
    missing = {"code": -32008, "message": "there is no conversation 'c'", "data": {"retryable": False}}
    server.answers = [
        lambda x: x.result({"conversationId": "c", "messages": messages, "openTurn": "t1", "metadata": {}}),
        lambda x: x.result({"deleted": True}),
        lambda x: x.reply(200, {"error": missing}),
    ]
    conversation = client.call("conversation", "c")
    assert (conversation.messages, conversation.open_turn) == (messages, "t1")
    assert client.call("delete_conversation", "c") is True
    with pytest.raises(ConversationNotFound):
        client.call("conversation", "c")
    assert [request.params for request in server.requests] == [{"conversationId": "c"}] * 3
