"""Conversations on a terminal."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from headrace import Client
from headrace.calls import Message, Options
from headrace.cli.common import Output
from headrace.cli.conversation import Conversation
from testbed.event_frames import END, TIMINGS, USAGE, call_of, final_text, frame, refusal, token
from testbed.scripted_server import Answer, ScriptedServer

MODELS = {
    "models": [
        {"name": "m", "default": True, "ready": True, "readyWorkers": 1, "waiting": 0, "running": 0},
        {"name": "n", "default": False, "ready": False, "readyWorkers": 0, "waiting": 0, "running": 0},
    ]
}


@pytest.fixture
def client(server: ScriptedServer) -> Iterator[Client]:
    with Client(server.url) as client:
        yield client


@pytest.fixture(autouse=True)
def _no_history_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


def types(monkeypatch: pytest.MonkeyPatch, *lines: str) -> None:
    """What somebody types, and then Ctrl-D."""
    typed = iter(lines)

    def read(_: str) -> str:
        try:
            return next(typed)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr("builtins.input", read)


def converse(client: Client, options: Options, messages: list[Message]) -> Conversation:
    conversation = Conversation(client, options, messages)
    conversation.run()
    return conversation


def answered(text: str) -> list[Answer]:
    return [
        lambda x: x.result({"taskId": "t1"}),
        lambda x: x.events(token("1-1", text), final_text("1-2", text), END),
    ]


def creations(server: ScriptedServer) -> list[dict[str, Any]]:
    """The parameters of each task that was started."""
    calls = [request for request in server.requests if request.path == "/rpc"]
    return [call.params for call in calls if call.body["method"] == "create_message"]


def test_each_prompt_goes_on_with_the_conversation(
    server: ScriptedServer, client: Client, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    types(monkeypatch, "Hello", "  ", " Again ")
    server.answers = [*answered("Good morning."), *answered("Yes?")]
    messages: list[Message] = [{"role": "system", "content": "Be brief."}]
    converse(client, {"temperature": 0}, messages)
    assert "Good morning." in capsys.readouterr().out
    asked = [request.params for request in server.requests if request.path == "/rpc"]
    assert [message["content"] for message in asked[1]["messages"]] == ["Be brief.", "Hello", "Good morning.", "Again"]
    assert asked[1]["temperature"] == 0
    assert [message["role"] for message in messages] == ["system", "user", "assistant", "user", "assistant"]


def test_programs_get_the_outcome_of_each_answer_as_a_line(
    server: ScriptedServer, client: Client, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    types(monkeypatch, "Hello", "Again")
    server.answers = [*answered("Good morning."), *answered("Yes?")]
    Conversation(client, {}, output=Output.json).run()
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    assert [(line["type"], line["text"]) for line in lines] == [("final_text", "Good morning."), ("final_text", "Yes?")]


def test_a_stored_conversation_is_gone_on_with_by_its_name(
    server: ScriptedServer, client: Client, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Good morning."},
    ]
    kept = {"conversationId": "c", "messages": said, "openTurn": None}
    types(monkeypatch, "Again", "/system", "And again")
    server.answers = [
        lambda x: x.result(kept | {"messages": [], "openTurn": "t0"}),
        lambda x: x.events(final_text("1-2", "Good morning."), END),
        lambda x: x.result(kept),
        *answered("Yes?"),
        *answered("Yes."),
    ]
    conversation = Conversation.stored(client, {}, "c")
    conversation.recall()
    conversation.run()
    shown, told = capsys.readouterr()
    assert shown.startswith("[system] Be brief.\n\nYou: Hello\nGood morning.\n")
    assert "[task t0 is answering]" in told
    first, second = creations(server)
    assert (first["conversationId"], first["message"], "messages" in first) == ("c", "Again", False)
    contents = [message["content"] for message in second["messages"]]
    assert (second["conversationId"], contents) == ("c", ["Hello", "Good morning.", "Again", "Yes?", "And again"])


def test_a_conversation_that_is_not_there_is_begun_under_its_name(
    server: ScriptedServer, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    types(monkeypatch, "Hello", "Again")
    server.answers = [lambda x: x.reply(200, refusal(-32008)), *answered("Good morning."), *answered("Yes?")]
    Conversation.stored(client, {"temperature": 0}, "c").run()
    first, second = creations(server)
    assert (first["conversationId"], first["messages"]) == ("c", [{"role": "user", "content": "Hello"}])
    assert (second["conversationId"], second["message"], second["temperature"]) == ("c", "Again", 0)


def test_a_refused_prompt_is_told_and_forgotten(
    server: ScriptedServer, client: Client, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    types(monkeypatch, "Too much", "Hello")
    server.answers = [lambda x: x.reply(200, refusal(-32602)), *answered("Good morning.")]
    messages: list[Message] = []
    converse(client, {}, messages)
    assert capsys.readouterr().err == "headrace: no\n"
    assert [message["content"] for message in messages] == ["Hello", "Good morning."]


def test_an_interrupt_stops_the_answer_and_not_the_conversation(
    server: ScriptedServer, client: Client, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    types(monkeypatch, "For ever", "Hello")
    real = client.stream

    def interrupted(task_id: str, **options: object) -> object:
        monkeypatch.setattr(client, "stream", real)
        raise KeyboardInterrupt

    monkeypatch.setattr(client, "stream", interrupted)
    cancelled: Answer = lambda x: x.result({"cancelled": True, "state": "STARTED"})  # noqa: E731
    server.answers = [lambda x: x.result({"taskId": "t1"}), cancelled, *answered("Good morning.")]
    messages: list[Message] = []
    converse(client, {}, messages)
    assert server.requests[1].body["method"] == "cancel_message"
    assert "[stopped" in capsys.readouterr().err
    assert [message["content"] for message in messages] == ["Hello", "Good morning."]


def test_text_goes_to_stdout_and_what_else_is_worth_knowing_to_stderr(
    server: ScriptedServer, client: Client, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    types(monkeypatch, "Hello")
    server.answers = [
        lambda x: x.result({"taskId": "t1"}),
        lambda x: x.events(
            frame("0-1", "status", state="PENDING", detail="a worker is starting"),
            frame("1-0", "status", state="STARTED", attempt=1),
            token("1-1", "lost"),
            frame("2-0", "status", state="STARTED", attempt=2, restart=True),
            token("2-1", "kept"),
            call_of("add", a=1),
            END,
        ),
    ]
    converse(client, {}, [])
    printed = capsys.readouterr()
    assert "lostkept" in printed.out
    assert "add({'a': 1})" in printed.out
    assert printed.err == "[a worker is starting]\n\n[the answer starts over]\n"


def test_reasoning_is_seen_on_the_terminal_and_no_part_of_the_answer(
    server: ScriptedServer, client: Client, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    types(monkeypatch, "Hello")
    server.answers = [
        lambda x: x.result({"taskId": "t1"}),
        lambda x: x.events(
            frame("1-1", "token", text="", reasoning="Who ", index=1),
            frame("1-2", "token", text="", reasoning="is it?", index=2),
            token("1-3", "Hi"),
            token("1-4", "!"),
            frame(
                "1-5",
                "final_text",
                text="Hi!",
                reasoning="Who is it?",
                finishReason="stop",
                usage=USAGE,
                timings=TIMINGS,
            ),
            END,
        ),
    ]
    messages: list[Message] = []
    converse(client, {}, messages)
    printed = capsys.readouterr()
    assert printed.out == "Hi!\n\n"
    assert printed.err == "Who is it?\n\n"
    assert messages[-1] == {"role": "assistant", "content": "Hi!"}


def test_commands_choose_the_model_and_the_instructions(
    server: ScriptedServer, client: Client, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    types(monkeypatch, "/model", "/model n", "/model x", "/system Be brief.", "/system Be long.", "Hello", "/new", "/?")
    server.answers = [lambda x: x.result(MODELS)] * 3 + answered("Hi.")
    conversation = converse(client, {}, [])
    told = capsys.readouterr().err
    for line in ("* m: ready", "* n: not ready", "there is no model 'x'", "/save FILE"):
        assert line in told
    params = server.requests[3].params
    assert params["model"] == "n"
    assert [message["content"] for message in params["messages"]] == ["Be long.", "Hello"]
    assert conversation.messages == [{"role": "system", "content": "Be long."}]


def test_a_conversation_is_saved_and_gone_on_with(
    server: ScriptedServer,
    client: Client,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    file, other = tmp_path / "talk.json", tmp_path / "other.json"
    other.write_text('{"no": "conversation"}')
    types(
        monkeypatch,
        "Hello",
        f"/save {file}",
        "/save",
        "/new",
        f"/load {other}",
        "/load /nowhere",
        f"/load {file}",
        "/quit",
    )
    server.answers = answered("Hi.")
    conversation = converse(client, {}, [])
    saved = json.loads(file.read_text())
    assert (
        saved
        == conversation.messages
        == [
            {"role": "user", "content": "Hello"},
            {"role": "assistant", "content": "Hi."},
        ]
    )
    told = capsys.readouterr().err
    for line in ("needs the name of a file", "holds no conversation", "No such file", "2 messages"):
        assert line in told
