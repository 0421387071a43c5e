"""`headrace up` with real processes: it starts, answers, survives, and leaves nothing behind."""

import json
import os
import pty
import signal
import socket

import pytest

from headrace import Client, Event, FinalText
from headrace.events import End
from testbed.up_process import BOUND_SECONDS, StartUp


def test_the_question_is_answered_and_nothing_is_left(start: StartUp) -> None:
    up = start("--ask", "!say It is Paris.", "--once")
    up.says("the model is loading")
    assert len(up.children()) >= 3
    assert up.exit_code() == 0
    assert "\nIt is Paris.\n" in up.output
    assert not (up.data_dir / "stack.env").exists()


def test_with_keys_of_its_own_the_stack_asks_by_one_and_says_so_where_it_has_none(start: StartUp) -> None:
    keys = "HEADRACE_API_KEYS=" + json.dumps({"a-secret": "tenant"})
    up = start("--env", keys, "--api-key", "a-secret", "--ask", "!say It is Paris.", "--once")
    assert up.exit_code() == 0
    assert "\nIt is Paris.\n" in up.output
    for wrong in ((), ("--api-key", "another")):
        refused = start("--env", keys, *wrong)
        assert refused.exit_code() == 1
        assert "The API asks for a key" in refused.output
        assert "HEADRACE_API_KEY" in refused.output


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])  # and SIGTERM: below, with tasks
def test_a_signal_stops_every_process(start: StartUp, number: signal.Signals) -> None:
    up = start()
    up.says("Ctrl-C stops it")
    assert len(up.children()) >= 4  # Valkey, API, worker, its engine
    up.process.send_signal(number)
    assert up.exit_code() == 0


def test_a_signal_while_starting_stops_every_process(start: StartUp) -> None:
    up = start(source="scripted:?start_ms=60000")
    up.says("the model is loading")
    up.children()
    up.process.send_signal(signal.SIGINT)
    assert up.exit_code() == 0


def test_no_process_outlives_a_kill(start: StartUp) -> None:
    up = start()
    up.says("Ctrl-C stops it")
    assert len(up.children()) >= 4
    up.process.kill()
    assert up.exit_code() == -signal.SIGKILL


def test_a_port_in_use_is_one_sentence(start: StartUp) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        up = start("--port", str(port))
        assert up.exit_code() == 1
    assert f"headrace: Port {port} is in use: stop what listens there, or choose another with --port\n" in up.output
    assert "Traceback" not in up.output


def test_a_data_directory_serves_one_stack(start: StartUp) -> None:
    first = start()
    first.says("Ctrl-C stops it")
    second = start()
    assert second.exit_code() == 1
    assert "Another `headrace up` uses" in second.output
    assert (first.data_dir / "stack.env").exists()


def test_a_missing_model_is_one_sentence(start: StartUp) -> None:
    up = start(source="/nowhere/model.gguf")
    assert up.exit_code() == 1
    assert "There is no GGUF file at /nowhere/model.gguf" in up.output
    assert "Traceback" not in up.output


def test_a_wrong_setting_is_one_sentence(start: StartUp) -> None:
    up = start("--env", "HEADRACE_MAX_BODY_BYTES=none")
    assert up.exit_code() == 1
    assert "HEADRACE_MAX_BODY_BYTES" in up.output
    assert "Traceback" not in up.output


def test_what_dies_is_restarted_and_the_answer_goes_on(start: StartUp) -> None:
    up = start("--env", "HEADRACE_LEASE_SECONDS=2", source="scripted:?token_ms=40&tokens=100")
    up.says("Ctrl-C stops it")
    for times, module in enumerate(("worker", "api"), 1):
        with Client(up.addresses()["HEADRACE_URL"]) as client:
            events = client.stream(client.create("Hello"), within=BOUND_SECONDS)
            read: list[Event] = [next(event for event in events if event.type == "token")]
            up.child(module).kill()
            read.extend(events)
        final = next(event for event in read if isinstance(event, FinalText))
        assert "".join(event.text for event in read if event.type == "token") == final.text
        assert isinstance(read[-1], End)
        assert read[-1].state == "SUCCESS"
        up.says("was killed by SIGKILL and is started again", times=times)


def test_what_dies_too_often_ends_the_stack(start: StartUp) -> None:
    up = start()
    up.says("Ctrl-C stops it")
    for count in range(6):
        up.child("api").kill()
        if count < 5:
            up.says("is started again", times=count + 1)
    assert up.exit_code() == 1
    assert "headrace: api was killed by SIGKILL, 6 times in a minute" in up.output


def test_accepted_tasks_outlive_the_stack(start: StartUp) -> None:
    up = start(source="scripted:?token_ms=40&tokens=100")
    up.says("Ctrl-C stops it")
    with Client(up.addresses()["HEADRACE_URL"]) as client:
        task_id = client.create("Hello")
        events = client.stream(task_id, within=BOUND_SECONDS)
        first = next(event for event in events if event.type == "token")
        events.close()  # type: ignore[attr-defined]  # a generator
    assert len(up.children()) >= 4
    up.process.terminate()
    assert up.exit_code() == 0
    again = start(source="scripted:?token_ms=0&tokens=100")
    again.says("Ctrl-C stops it")
    with Client(again.addresses()["HEADRACE_URL"]) as client:
        answer = client.wait(task_id, within=BOUND_SECONDS)
    assert answer.text.startswith(first.text)
    assert answer.usage.completion_tokens >= 100


def test_a_terminal_gets_a_prompt(start: StartUp) -> None:
    ours, theirs = pty.openpty()
    try:
        up = start(stdin=theirs)
        up.says("You: ")
        os.write(ours, b"!say Good morning.\n")
        up.says("Good morning.")
        os.write(ours, b"\x04")
        assert up.exit_code() == 0
    finally:
        os.close(ours)
        os.close(theirs)
