"""The command line: what it prints, and its exit codes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from headrace.cli.app import app
from headrace.cli.started import KEPT, started
from testbed.command_line import exit_code
from testbed.event_frames import END, final_text, frame, token
from testbed.scripted_server import Answer, ScriptedServer

TOKEN = token("1-1", "Paris")
FINAL = final_text("1-2", "Paris")
ANSWERED: list[Answer] = [lambda x: x.result({"taskId": "t1"}), lambda x: x.events(TOKEN, FINAL, END)]
MODEL = {"name": "m", "default": True, "ready": True, "readyWorkers": 2, "waiting": 3, "running": 4}


@pytest.mark.parametrize("command", ["ask", "chat"])
def test_a_prompt_is_answered(command: str, server: ScriptedServer, capsys: pytest.CaptureFixture[str]) -> None:
    server.answers = [*ANSWERED]
    assert (
        exit_code(
            command, "--url", server.url, "--api-key", "k", "--temperature", "0", "--system", "Be brief.", "Capital?"
        )
        == 0
    )
    assert capsys.readouterr().out == "Paris\n"
    params = server.requests[0].params
    assert params["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Capital?"},
    ]
    assert params["temperature"] == 0
    assert "maxTokens" not in params
    assert server.requests[0].headers["Authorization"] == "Bearer k"


def test_a_question_comes_from_a_pipe_and_its_answer_is_json_by_a_schema(
    server: ScriptedServer, tmp_path: Path
) -> None:
    schema = tmp_path / "schema.json"
    schema.write_text('{"type": "object"}')
    server.answers = [*ANSWERED]
    ran = CliRunner().invoke(app, ["ask", "--url", server.url, "--schema", str(schema), "-o", "json"], input="Where?")
    assert ran.exit_code == 0, ran.output
    assert json.loads(ran.stdout)["text"] == "Paris"
    params = server.requests[0].params
    assert params["messages"] == [{"role": "user", "content": "Where?"}]
    assert params["responseFormat"]["json_schema"]["schema"] == {"type": "object"}
    server.answers = [*ANSWERED]
    assert CliRunner().invoke(app, ["ask", "--url", server.url, "--json", "Where?"]).stdout == "Paris\n"
    assert server.requests[2].params["responseFormat"] == {"type": "json_object"}


def test_a_failed_task_is_an_exit_code_in_either_output(
    server: ScriptedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    failed = frame("1-2", "error", code="engine_failed", message="The cable is cut.", retryable=False)
    answers: list[Answer] = [lambda x: x.result({"taskId": "t1"}), lambda x: x.events(failed, END)]
    server.answers = [*answers]
    assert exit_code("ask", "--url", server.url, "Why?") == 1
    assert "headrace: The cable is cut.\n" in capsys.readouterr().err
    server.answers = [*answers]
    assert exit_code("ask", "--url", server.url, "-o", "json", "Why?") == 1
    assert json.loads(capsys.readouterr().out)["code"] == "engine_failed"


def test_an_interrupted_answer_is_cancelled(server: ScriptedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("headrace.cli.answer_view.PlainView.show", interrupt)
    server.answers = [*ANSWERED, lambda x: x.result({"cancelled": True, "state": "STARTED"})]
    assert exit_code("ask", "--url", server.url, "Capital?") == 130
    assert server.requests[2].body["method"] == "cancel_message"


def test_a_task_is_submitted_shown_watched_and_cancelled(
    server: ScriptedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    def printed(*arguments: str) -> str:
        assert exit_code(arguments[0], "--url", server.url, *arguments[1:]) == 0
        return capsys.readouterr().out

    server.answers = [lambda x: x.result({"taskId": "t1"})] * 2
    assert printed("submit", "Capital?") == "t1\n"
    assert json.loads(printed("submit", "-o", "json", "Capital?")) == {"taskId": "t1"}
    view = {"taskId": "t1", "state": "PENDING", "position": 2, "text": "", "index": 0}
    server.answers = [lambda x: x.result(view), lambda x: x.result(view)]
    assert printed("get", "t1") == "PENDING, position 2\n"
    assert json.loads(printed("get", "-o", "json", "t1"))["position"] == 2
    server.answers = [lambda x: x.events(TOKEN, FINAL, END), lambda x: x.events(FINAL, END)]
    assert printed("watch", "t1") == "Paris\n"
    events = printed("watch", "-o", "json", "--last-event-id", "1-1", "t1").splitlines()
    assert [json.loads(line)["type"] for line in events] == ["final_text", "end"]
    assert server.requests[-1].headers["Last-Event-ID"] == "1-1"
    server.answers = [lambda x: x.result({"cancelled": False, "state": "SUCCESS"})] * 2
    assert printed("cancel", "t1") == "not cancelled: the task has ended (SUCCESS)\n"
    assert json.loads(printed("cancel", "-o", "json", "t1")) == {"cancelled": False, "state": "SUCCESS"}


def test_a_watched_task_is_left_alone_by_an_interrupt(server: ScriptedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("headrace.cli.answer_view.PlainView.show", interrupt)
    server.answers = [lambda x: x.events(TOKEN, FINAL, END)]
    assert exit_code("watch", "--url", server.url, "t1") == 130
    assert len(server.requests) == 1


def test_models_are_listed(server: ScriptedServer, capsys: pytest.CaptureFixture[str]) -> None:
    away = {**MODEL, "name": "n", "default": False, "ready": False, "readyWorkers": 0, "detail": "loading weights 4 %"}
    server.answers = [lambda x: x.result({"models": [MODEL, away]})] * 2
    assert exit_code("models", "--url", server.url) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first == "m (default): 2 ready, 4 running, 3 waiting"
    assert second == "n: loading weights 4 %, 4 running, 3 waiting"
    assert exit_code("models", "--url", server.url, "--output", "json") == 0
    assert [model["name"] for model in json.loads(capsys.readouterr().out)] == ["m", "n"]


def test_errors_are_one_line_and_an_exit_code(server: ScriptedServer, capsys: pytest.CaptureFixture[str]) -> None:
    error = {"error": {"code": -32002, "message": "There is no such task", "data": {"retryable": False}}}
    server.answers = [lambda x: x.reply(200, error)]
    assert exit_code("get", "--url", server.url, "t1") == 1
    assert capsys.readouterr().err == "headrace: There is no such task\n"
    server.answers = [lambda x: x.drop()] * 5
    assert exit_code("models", "--url", server.url) == 3
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"headrace: No answer from the server at {server.url}/: ")


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("nonsense",),
        ("get",),
        ("up", "--port", "99999"),
        ("up", "--workers", "0"),
        ("up", "--env", "NAME"),
        ("models", "--url", "localhost:8000"),
        ("models", "--output", "yaml"),
        ("ask", "--schema", "/nowhere.json", "Why?"),
        ("ask", "--image", "cat.png", "What is this?"),
    ],
)
def test_wrong_usage_has_its_own_exit_code(arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(*arguments) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_tasks_that_were_started_here_are_listed(
    server: ScriptedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    server.answers = [lambda x: x.result({"taskId": "t1"}), lambda x: x.result({"taskId": "t2"})]
    assert exit_code("submit", "--url", server.url, "A secret?") == 0
    assert exit_code("submit", "--url", server.url, "Another?") == 0
    waits = {"taskId": "t2", "state": "PENDING", "position": 3, "text": "", "index": 0}
    unknown = {"code": -32002, "message": "There is no such task."}
    looks: list[Answer] = [
        lambda x: x.result(waits),
        lambda x: x.reply(200, {"jsonrpc": "2.0", "id": x.body["id"], "error": unknown}),
    ]
    server.answers = [*looks]
    capsys.readouterr()
    assert exit_code("tasks", "--url", server.url) == 0
    [line] = capsys.readouterr().out.splitlines()
    assert line.startswith("t2 ")
    assert line.endswith("PENDING, position 3")
    assert [request.params["taskId"] for request in server.requests[2:]] == ["t2", "t1"]
    server.answers = [*looks]
    assert exit_code("tasks", "--url", server.url, "-o", "json", "-n", "1") == 0
    [task] = json.loads(capsys.readouterr().out)
    assert (task["taskId"], task["state"]) == ("t2", "PENDING")
    assert len(server.requests) == 5
    assert exit_code("tasks", "--url", "http://127.0.0.1:1") == 0
    assert "secret" not in (tmp_path / "headrace" / "tasks.jsonl").read_text()


def test_what_is_remembered_is_bounded_and_never_in_the_way(
    server: ScriptedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    remembered = tmp_path / "headrace" / "tasks.jsonl"
    remembered.parent.mkdir()
    remembered.write_text("no JSON\n" * 2 * KEPT)
    server.answers = [lambda x: x.result({"taskId": "t1"})]
    assert exit_code("submit", "--url", server.url, "Why?") == 0
    assert len(remembered.read_text().splitlines()) == KEPT
    assert [task.task_id for task in started(server.url)] == ["t1"]
    monkeypatch.setenv("XDG_STATE_HOME", "/dev/null")
    server.answers = [lambda x: x.result({"taskId": "t2"})]
    assert exit_code("submit", "--url", server.url, "Why?") == 0


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_get_their_completion(shell: str) -> None:
    # Named, as an installed completion names it: --show-completion looks for the shell among its parent processes.
    ran = CliRunner().invoke(app, prog_name="headrace", env={"_HEADRACE_COMPLETE": f"source_{shell}"})
    assert ran.exit_code == 0
    assert "_HEADRACE_COMPLETE" in ran.output


def test_demo_once_stands_for_the_option(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(
        "headrace.local.up.run", lambda plan, question, *, once: seen.append((plan.port, question, once))
    )
    monkeypatch.setenv("DEMO_ONCE", "1")
    assert exit_code("up", "--ask", "Why?", "--port", "0") == 0
    monkeypatch.setenv("DEMO_ONCE", "0")
    assert exit_code("up") == 0
    assert seen == [(0, "Why?", True), (8000, None, False)]


WITHOUT_FCNTL = "import sys; sys.modules['fcntl'] = None; from headrace.cli import main; main()"
"""The command line where there is no `fcntl`: on Windows."""


def test_only_up_needs_what_windows_lacks(server: ScriptedServer) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", WITHOUT_FCNTL, *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=120)

    server.answers = [*ANSWERED]
    chat = run("chat", "--url", server.url, "Capital?")
    assert (chat.returncode, chat.stdout) == (0, "Paris\n"), chat.stderr
    up = run("up")
    assert (up.returncode, up.stdout) == (1, "")
    assert up.stderr == "headrace: `up` runs on Linux and macOS only; --url names a server for the other commands\n"


def test_a_conversation_is_shown_and_deleted(server: ScriptedServer, capsys: pytest.CaptureFixture[str]) -> None:
    kept = {"conversationId": "c", "messages": [{"role": "user", "content": "hi"}], "openTurn": "t1"}
    server.answers = [
        lambda x: x.result(kept),
        lambda x: x.result(kept),
        lambda x: x.result({"deleted": True}),
        lambda x: x.result({"deleted": False}),
    ]
    assert exit_code("conversation", "get", "--url", server.url, "c") == 0
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("user: hi\n", "waits for the answer of task t1\n")
    assert exit_code("conversation", "get", "--url", server.url, "-o", "json", "c") == 0
    assert json.loads(capsys.readouterr().out)["messages"] == kept["messages"]
    for _ in range(2):
        assert exit_code("conversation", "delete", "--url", server.url, "c") == 0
    assert capsys.readouterr().out == "deleted\nthere is no such conversation\n"
