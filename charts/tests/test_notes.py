"""What Helm prints after an installation, and the chat of `helm test`."""

import asyncio
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from api.settings import Settings
from charts.tests.cases import CASES, QWEN
from charts.tests.rendering import Manifests, Render
from testbed.ports import free_port
from testbed.stack import stack
from testbed.valkey import Valkey
from worker.engine_options import PACKAGED_MODEL

KUBECTL = Path(__file__).parent / "kubectl.py"
SCALED_TO_ZERO = {"autoscaling": {"provider": "keda"}, "models": {"m": {**QWEN, "scaling": {"min": 0, "max": 2}}}}
ANSWER_SECONDS = 300


def commands(notes: str) -> str:
    """What a user pastes into a shell."""
    return "\n".join(line.strip() for line in notes.splitlines() if line.startswith("  ") and "  - " not in line)


def test_the_notes_have_one_port_forward_and_one_conversation(manifests: Manifests) -> None:
    notes = manifests.notes
    service = manifests.one("Service", "-api")
    port = service["spec"]["ports"][0]["port"]
    assert f"port-forward service/{service['metadata']['name']} 8000:{port}" in notes
    (line,) = [line for line in notes.splitlines() if "http://127.0.0.1:8000/rpc" in line]
    call = json.loads(line.split("-d '")[1].partition("' |")[0])
    assert call["method"] == "create_message"
    assert call["params"]["temperature"] == 0
    assert f"worker-{call['params']['model']}" in str([name for name, _ in manifests.pods()])
    assert f"rollout status deployment/headrace-worker-{call['params']['model']}\n" in notes
    assert subprocess.run(["bash", "-n", "-c", commands(notes)], timeout=10).returncode == 0


async def test_the_notes_pasted_into_a_shell_answer_paris(render: Render, valkey: Valkey, tmp_path: Path) -> None:
    keys = {"secret-key": "team-a"}
    notes = render({"auth": {"apiKeys": keys}}).notes
    (tmp_path / "kubectl").write_text(f'#!/bin/sh\nexec {sys.executable} {KUBECTL} "$@"\n')
    (tmp_path / "kubectl").chmod(0o755)
    (tmp_path / "api-keys.json").write_text(json.dumps(keys))
    model = "smollm2-135m-instruct"
    models = {"HEADRACE_MODELS": model, "HEADRACE_DEFAULT_MODEL": model, "HEADRACE_MODEL_NAME": model}
    port, worker_port = free_port(), free_port()
    async with stack(valkey.url, tmp_path, **models) as running:
        await running.start_api(HEADRACE_API_KEYS=str(tmp_path / "api-keys.json"))
        ready = {"HEADRACE_INTERNAL_PORT": str(worker_port)}
        await running.start_worker(PACKAGED_MODEL, ready=False, **ready)
        environment = {
            **os.environ,
            "PATH": f"{tmp_path}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "API_URL": running.urls[0],
            "WORKER_READY_URL": f"http://127.0.0.1:{worker_port}/readyz",
            "API_KEYS": str(tmp_path / "api-keys.json"),
        }
        pasted = commands(notes).replace("8000", str(port))
        shell = await asyncio.create_subprocess_exec(
            "bash", "-euo", "pipefail", "-c", pasted, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        async with asyncio.timeout(ANSWER_SECONDS):
            printed, _ = await shell.communicate()
        said = printed.decode()
        assert shell.returncode == 0, said + running.logs()
        assert "Paris" in said.partition("event: final_text")[2], said
        assert '"state":"SUCCESS"' in said


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({}, "SmolLM2-135M on a CPU"),
        ({}, "no API keys"),
        (SCALED_TO_ZERO, "a task that says nothing else ends after api.settings.defaultTimeoutSeconds (600 s)"),
        (SCALED_TO_ZERO, "after autoscaling.keda.initialCooldownPeriod (900 s) without work"),
        ({"autoscaling": {"provider": "hpa"}}, "nothing serves external metrics"),
        ({"models": {"m": {**QWEN, "scaling": {"max": 3}}}}, "it stays at 1"),
        ({"models": {"m": QWEN}}, "every start of a worker downloads the model again"),
        ({"redis": {"bundled": {"persistence": {"enabled": False}}}}, "its restart loses every task"),
    ],
)
def test_the_notes_say_what_is_missing(render: Render, values: Any, sentence: str) -> None:
    assert sentence in render(values).notes


def test_the_deadline_that_the_notes_speak_of_is_the_codes(render: Render) -> None:
    code = Settings.model_fields["default_timeout_seconds"].default
    assert f"defaultTimeoutSeconds ({code:.0f} s)" in render(SCALED_TO_ZERO).notes


def test_who_starts_from_zero_in_time_is_told_nothing(render: Render) -> None:
    values = {
        **SCALED_TO_ZERO,
        "auth": {"existingSecret": "keys"},
        "modelDefaults": {"startup": {"budgetSeconds": 600}, "cache": {"enabled": True}, "scaling": {"max": 1}},
        "models": {"m": {**QWEN, "scaling": {"min": 0}}},
    }
    assert "Worth knowing" not in render(values).notes


def test_nothing_is_missing_where_nothing_is(render: Render) -> None:
    values = {"models": {"m": {**QWEN, "cache": {"enabled": True}}}, "auth": {"existingSecret": "keys"}}
    assert "Worth knowing" not in render(values).notes


class Api(BaseHTTPRequestHandler):
    """An API whose first stream breaks off after its first event."""

    events: list[dict[str, Any]]
    seen: list[tuple[str, str | None]]

    def do_POST(self) -> None:
        call = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert call["params"]["model"] == "m"
        self._reply(json.dumps({"jsonrpc": "2.0", "id": 1, "result": {"taskId": "t1"}}).encode(), "application/json")

    def do_GET(self) -> None:
        after = self.headers["Last-Event-ID"]
        self.seen.append((self.path, after))
        start = int(after or 0)
        stop = len(self.events) if after else 1
        frames = [
            f"id: {number}\nevent: {event['type']}\ndata: {json.dumps(event)}\n\n"
            for number, event in enumerate(self.events[start:stop], start + 1)
        ]
        self._reply("".join(frames).encode(), "text/event-stream")

    def _reply(self, body: bytes, content_type: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


ANSWER = [
    {"type": "status", "state": "PENDING", "detail": "pulling image"},
    {"type": "final_text", "text": "Paris."},
]
Chat = Callable[[list[dict[str, Any]]], "subprocess.CompletedProcess[str]"]


@pytest.fixture
def chat(chart_path: Path) -> Iterator[Chat]:
    servers: list[ThreadingHTTPServer] = []

    def run(events: list[dict[str, Any]]) -> "subprocess.CompletedProcess[str]":
        server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Api,), {"events": events, "seen": []}))
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        script = (chart_path / "files/chat_test.py").read_text()
        command = [sys.executable, "-c", script, f"http://127.0.0.1:{server.server_port}", "m", "10"]
        return subprocess.run(command, capture_output=True, text=True, timeout=20)

    yield run
    for server in servers:
        server.shutdown()
        server.server_close()


def test_the_chat_of_helm_test_resumes_a_broken_stream_and_passes(chat: Chat) -> None:
    done = chat([*ANSWER, {"type": "end", "state": "SUCCESS"}])
    assert done.returncode == 0, done.stderr
    assert "answer: Paris." in done.stdout
    assert done.stdout.count("pulling image") == 1


def test_the_chat_of_helm_test_fails_with_its_task(chat: Chat) -> None:
    done = chat([*ANSWER, {"type": "end", "state": "FAILURE"}])
    assert done.returncode == 1
    assert "the task ended in FAILURE" in done.stderr


def test_the_chat_pod_runs_that_script_against_the_service(render: Render, chart_path: Path) -> None:
    manifests = render(CASES["ingress"])
    (container,) = manifests.one("Pod", "test-chat")["spec"]["containers"]
    assert container["command"][-1].strip() == (chart_path / "files/chat_test.py").read_text().strip()
    assert container["args"] == ["http://headrace-api:8000", "smollm2-135m-instruct", "900"]
    assert container["image"] == "headrace-api:0.1.0"
    assert "headrace-api-keys" in str(manifests.one("Pod", "test-chat")["spec"]["volumes"])
