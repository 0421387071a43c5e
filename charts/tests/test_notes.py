"""What Helm prints after an installation, and the chat of `helm test`."""

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from .conftest import CASES, QWEN, Manifests, Render


def test_the_notes_have_one_port_forward_and_one_conversation(manifests: Manifests) -> None:
    notes = manifests.notes
    service = manifests.one("Service", "-api")
    port = service["spec"]["ports"][0]["port"]
    assert f"port-forward service/{service['metadata']['name']} 8000:{port}" in notes
    (line,) = [line for line in notes.splitlines() if "http://127.0.0.1:8000/rpc" in line]
    call = json.loads(line.split("-d '")[1].rstrip("'"))
    assert call["method"] == "create_message"
    assert f"worker-{call['params']['model']}" in str([name for name, _ in manifests.pods()])


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({}, "SmolLM2-135M on a CPU"),
        ({}, "no API keys"),
        ({"autoscaling": {"provider": "keda"}}, "does not know keda.sh/v1alpha1"),
        ({"autoscaling": {"provider": "hpa"}}, "nothing serves external metrics"),
        ({"models": {"m": {**QWEN, "scaling": {"max": 3}}}}, "it stays at 1"),
        ({"models": {"m": QWEN}}, "every start of a worker downloads the model again"),
        ({"gateway": {"enabled": True, "parentRefs": [{"name": "g"}]}}, "Install the Gateway API"),
        ({"redis": {"bundled": {"persistence": {"enabled": False}}}}, "its restart loses every task"),
    ],
)
def test_the_notes_say_what_is_missing(render: Render, values: Any, sentence: str) -> None:
    assert sentence in render(values).notes


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
