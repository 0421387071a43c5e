"""The command line: what it prints, and its exit codes."""

import json
import subprocess
import sys

import pytest

from headrace import cli
from testbed.event_frames import END, final_text, token
from testbed.scripted_server import ScriptedServer

TOKEN = token("1-1", "Paris")
FINAL = final_text("1-2", "Paris")


def exit_code(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    assert isinstance(ended.value.code, int)
    return ended.value.code


def test_a_prompt_is_answered(server: ScriptedServer, capsys: pytest.CaptureFixture[str]) -> None:
    server.answers = [lambda x: x.result({"taskId": "t1"}), lambda x: x.events(TOKEN, FINAL, END)]
    cli.main(["chat", "--url", server.url, "--api-key", "k", "--temperature", "0", "--system", "Be brief.", "Capital?"])
    assert capsys.readouterr().out == "Paris\n"
    params = server.requests[0].params
    assert params["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Capital?"},
    ]
    assert params["temperature"] == 0
    assert "maxTokens" not in params
    assert server.requests[0].headers["Authorization"] == "Bearer k"


def test_an_interrupted_answer_is_cancelled(server: ScriptedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("headrace.chat.show", interrupt)
    server.answers = [
        lambda x: x.result({"taskId": "t1"}),
        lambda x: x.events(TOKEN, FINAL, END),
        lambda x: x.result({"cancelled": True, "state": "STARTED"}),
    ]
    assert exit_code("chat", "--url", server.url, "Capital?") == 130
    assert server.requests[2].body["method"] == "cancel_message"


def test_a_task_is_shown_streamed_and_cancelled(server: ScriptedServer, capsys: pytest.CaptureFixture[str]) -> None:
    server.answers = [
        lambda x: x.result({"taskId": "t1", "state": "STARTED", "text": "a", "index": 1}),
        lambda x: x.events(FINAL, END),
        lambda x: x.result({"cancelled": False, "state": "SUCCESS"}),
    ]
    cli.main(["task", "get", "--url", server.url, "t1"])
    assert json.loads(capsys.readouterr().out)["state"] == "STARTED"
    cli.main(["task", "stream", "--url", server.url, "--last-event-id", "1-1", "t1"])
    assert [json.loads(line)["type"] for line in capsys.readouterr().out.splitlines()] == ["final_text", "end"]
    assert server.requests[1].headers["Last-Event-ID"] == "1-1"
    cli.main(["task", "cancel", "--url", server.url, "t1"])
    assert capsys.readouterr().out == "not cancelled: the task has ended (SUCCESS)\n"


def test_models_are_listed(server: ScriptedServer, capsys: pytest.CaptureFixture[str]) -> None:
    model = {"name": "m", "default": True, "ready": True, "readyWorkers": 2, "waiting": 3, "running": 4}
    server.answers = [lambda x: x.result({"models": [model]})]
    cli.main(["models", "--url", server.url])
    assert capsys.readouterr().out == "m (default): 2 ready, 4 running, 3 waiting\n"


def test_errors_are_one_line_and_an_exit_code(server: ScriptedServer, capsys: pytest.CaptureFixture[str]) -> None:
    error = {"error": {"code": -32002, "message": "There is no such task", "data": {"retryable": False}}}
    server.answers = [lambda x: x.reply(200, error)]
    assert exit_code("task", "get", "--url", server.url, "t1") == 1
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
        ("task", "get"),
        ("up", "--port", "99999"),
        ("up", "--workers", "0"),
        ("up", "--env", "NAME"),
        ("models", "--url", "localhost:8000"),
    ],
)
def test_wrong_usage_has_its_own_exit_code(arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(*arguments) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_demo_once_stands_for_the_option(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(
        "headrace.local.up.run", lambda plan, question, *, once: seen.append((plan.port, question, once))
    )
    monkeypatch.setenv("DEMO_ONCE", "1")
    cli.main(["up", "--ask", "Why?", "--port", "0"])
    monkeypatch.setenv("DEMO_ONCE", "0")
    cli.main(["up"])
    assert seen == [(0, "Why?", True), (8000, None, False)]


WITHOUT_FCNTL = "import sys; sys.modules['fcntl'] = None; from headrace.cli import main; main()"
"""The command line where there is no `fcntl`: on Windows."""


def test_only_up_needs_what_windows_lacks(server: ScriptedServer) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", WITHOUT_FCNTL, *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=60)

    server.answers = [lambda x: x.result({"taskId": "t1"}), lambda x: x.events(TOKEN, FINAL, END)]
    chat = run("chat", "--url", server.url, "Capital?")
    assert (chat.returncode, chat.stdout) == (0, "Paris\n"), chat.stderr
    up = run("up")
    assert (up.returncode, up.stdout) == (1, "")
    assert up.stderr == "headrace: `up` runs on Linux and macOS only; --url names a server for the other commands\n"
