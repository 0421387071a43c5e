"""`python -m api` as a process."""

import asyncio
import json
import signal
import socket
import time
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from api.server import listen
from api.tenants.key_file import sha256_of
from testbed.api_process import CREATE, ApiProcess, StartProcess, eventually
from testbed.impostors import echo, http_server, impostor
from testbed.valkey import Valkey
from testbed.waiting import until, wait_until


def test_it_serves_two_ports_and_stops_on_sigterm_with_code_0(start: StartProcess) -> None:
    process = start()
    public, internal = process.url("Requests"), process.url("Probes and metrics")
    eventually(internal + "/readyz", 200)
    assert "taskId" in httpx.post(public + "/rpc", json=CREATE).text
    assert httpx.get(public + "/readyz").status_code == 404
    assert process.stop() == 0
    assert "Traceback" not in process.log


def test_it_starts_without_redis_and_recovers_when_redis_appears(start: StartProcess, valkey: Valkey) -> None:
    valkey.stop()
    process = start()
    public, internal = process.url("Requests"), process.url("Probes and metrics")
    eventually(internal + "/readyz", 503)
    eventually(internal + "/healthz", 200)
    reply = httpx.post(public + "/rpc", json=CREATE).json()
    assert reply["error"]["code"] == -32007
    valkey.start()
    eventually(internal + "/readyz", 200)
    assert "taskId" in httpx.post(public + "/rpc", json=CREATE).text
    assert process.stop() == 0
    assert "Traceback" not in process.log


def alarms(process: ApiProcess) -> list[str]:
    """What an operator is told."""
    lines = [json.loads(line) for line in process.log.splitlines()]
    return [str(line["message"]) for line in lines if line["level"] in ("WARNING", "ERROR", "CRITICAL")]


DOORS = {
    "/v1/chat/completions": {"model": "smollm2-135m-instruct", "messages": [{"role": "user", "content": "hi"}]},
    "/v1/messages": {
        "model": "smollm2-135m-instruct", "max_tokens": 5, "messages": [{"role": "user", "content": "hi"}],
    },
    "/tokenize": {"model": "smollm2-135m-instruct", "prompt": "hi"},
}  # fmt: skip


def test_a_wrong_password_is_one_line_a_reason_of_readyz_and_a_refusal_at_every_door(
    start: StartProcess, valkey: Valkey
) -> None:
    with valkey.client() as admin:
        admin.config_set("requirepass", "right")
        try:
            process = start(redis_url=f"redis://:wr0ng@127.0.0.1:{valkey.port}/0", installation="ml/headrace")
            public, internal = process.url("Requests"), process.url("Probes and metrics")
            cause = f"Redis at 127.0.0.1:{valkey.port} cannot be used: it refuses the user name or the password"
            wait_until(lambda: eventually(internal + "/readyz", 503).json()["reason"] == cause, 10, lambda: process.log)
            for path, body in DOORS.items():
                reply = httpx.post(public + path, json=body)
                assert reply.status_code == 503, (path, reply.text)
                assert "The task store refuses this server" in reply.text
            refused = httpx.post(public + "/rpc", json=CREATE).json()["error"]
            assert (refused["code"], refused["data"]["retryable"]) == (-32007, True)
            assert httpx.get(public + "/stream/nobody").status_code == 503
            assert eventually(internal + "/internal/scaling/smollm2-135m-instruct", 503).json()["reason"] == cause
            time.sleep(3)  # in which the janitor, the doorbell and all the others go on trying
            assert len(alarms(process)) == 1, process.log
            assert alarms(process)[0].startswith(cause)
        finally:
            admin.config_set("requirepass", "")
    eventually(internal + "/readyz", 200)
    assert "taskId" in httpx.post(public + "/rpc", json=CREATE).text
    wait_until(lambda: len(alarms(process)) == 2, 10, lambda: process.log)
    assert "can be used again" in alarms(process)[1]
    assert process.stop() == 0
    assert "Traceback" not in process.log
    assert "wr0ng" not in process.log


@pytest.mark.parametrize("credentials", ["", ":wr0ng@"])
@pytest.mark.parametrize("kind", ["http", "echo"])
async def test_what_is_not_redis_at_all_is_no_fault_of_the_api(
    start: StartProcess, kind: str, credentials: str
) -> None:
    async with http_server() if kind == "http" else impostor(echo) as port:
        process = start(redis_url=f"redis://{credentials}127.0.0.1:{port}/0")
        public = await asyncio.to_thread(process.url, "Requests")
        internal = process.url("Probes and metrics")
        cause = f"Redis at 127.0.0.1:{port} cannot be used: what answers there is not Redis or Valkey"
        async with httpx.AsyncClient() as http:

            async def told() -> bool:
                with suppress(httpx.TransportError):
                    return str((await http.get(internal + "/readyz")).json().get("reason", "")).startswith(cause)
                return False

            await until(told, 10)
            for path, body in DOORS.items():
                assert (await http.post(public + path, json=body)).status_code == 503
            assert (await http.post(public + "/rpc", json=CREATE)).json()["error"]["code"] == -32007
        await asyncio.sleep(2)  # in which everybody goes on trying
        assert [line.startswith(cause) for line in alarms(process)] == [True], process.log
        assert await asyncio.to_thread(process.stop) == 0
    assert "Traceback" not in process.log
    assert "wr0ng" not in process.log


def test_a_url_that_cannot_be_read_is_refused_in_one_sentence_without_the_password(start: StartProcess) -> None:
    process = start(redis_url="redis://:s3#cr3t@redis.example.com:6379/0")
    assert process.wait() == 1
    assert process.log.startswith("headrace-api: HEADRACE_REDIS_URL: has no readable host and port; ")
    assert process.log.count("\n") == 1
    assert "s3" not in process.log


def test_it_refuses_to_start_on_the_keys_of_another_installation(start: StartProcess) -> None:
    first = start(installation="ml/headrace")
    eventually(first.url("Probes and metrics") + "/readyz", 200)
    again = start(installation="ml/headrace")
    eventually(again.url("Probes and metrics") + "/readyz", 200)
    other = start(installation="test/headrace")
    assert other.wait() == 1
    assert "belong to the installation ml/headrace, and this is test/headrace" in other.log
    assert "Traceback" not in other.log
    assert "Application startup" not in other.log
    assert first.stop() == again.stop() == 0


def test_it_ends_when_redis_appears_with_the_keys_of_another_installation(start: StartProcess, valkey: Valkey) -> None:
    first = start(installation="ml/headrace")
    eventually(first.url("Probes and metrics") + "/readyz", 200)
    assert first.stop() == 0
    valkey.stop()
    other = start(installation="test/headrace")
    eventually(other.url("Probes and metrics") + "/readyz", 503)
    httpx.get(other.url("Requests") + "/nowhere")  # it serves
    valkey.start()
    assert other.wait() == 1
    assert "belong to the installation ml/headrace" in other.log
    assert "Traceback" not in other.log


def test_an_open_stream_is_ended_in_order_on_sigterm(start: StartProcess) -> None:
    process = start()
    public = process.url("Requests")
    task_id = httpx.post(public + "/rpc", json=CREATE).json()["result"]["taskId"]
    with httpx.stream("GET", f"{public}/stream/{task_id}", timeout=15) as stream:
        lines = stream.iter_lines()
        assert next(lines).startswith("id: ")
        process.popen.send_signal(signal.SIGTERM)
        rest = list(lines)
    assert any(line.startswith("retry: ") for line in rest)
    assert process.wait() == 0


@pytest.mark.parametrize("setting", ["port", "internal_port"])
def test_a_port_in_use_is_one_clear_sentence_and_code_1(start: StartProcess, setting: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        process = start(**{setting: str(port)})
        assert process.wait() == 1
    assert process.log == (
        f"headrace-api: port {port} on 127.0.0.1 is already in use; "
        "HEADRACE_PORT and HEADRACE_INTERNAL_PORT name others\n"
    )


def test_an_address_of_another_machine_is_one_clear_sentence(start: StartProcess) -> None:
    process = start(host="192.0.2.1")
    assert process.wait() == 1
    assert process.log.startswith("headrace-api: port 0 on 192.0.2.1 cannot be opened (")
    assert process.log.count("\n") == 1


def test_wrong_settings_are_one_line_each(start: StartProcess) -> None:
    process = start(port="70000", api_keys="/does/not/exist")
    assert process.wait() == 1
    lines = process.log.splitlines()
    assert len(lines) == 2
    assert all(line.startswith("headrace-api: HEADRACE_") for line in lines)


@pytest.mark.parametrize(("host", "warns"), [("127.0.0.1", False), ("0.0.0.0", True)])
def test_a_server_without_keys_warns_where_others_reach_it(start: StartProcess, host: str, warns: bool) -> None:
    process = start(host=host)
    process.url("Requests")
    assert process.stop() == 0
    assert ("everybody who reaches 0.0.0.0 may use this server" in process.log) is warns


def test_a_server_that_must_not_be_open_does_not_start_without_keys(start: StartProcess) -> None:
    process = start(open="false")
    assert process.wait() == 1
    assert process.log.count("\n") == 1
    assert "HEADRACE_API_KEYS names no API keys" in process.log


def test_a_running_server_follows_the_file_of_its_keys(start: StartProcess, tmp_path: Path) -> None:
    path = tmp_path / "api-keys.json"

    def write(*names: str) -> None:
        keys = [{"id": name, "tenant": name, "sha256": sha256_of(f"hr_{name}")} for name in names]
        path.write_text(json.dumps({"keys": keys}))

    write("a")
    public = start(api_keys=str(path), open="false").url("Requests")

    def status(name: str) -> int:
        return httpx.post(public + "/rpc", json=CREATE, headers={"Authorization": f"Bearer hr_{name}"}).status_code

    eventually(f"{public}/openapi.json", 200)
    assert [status(name) for name in "ab"] == [200, 401]
    write("b")
    wait_until(lambda: [status(name) for name in "ab"] == [401, 200], 15, lambda: "the new file is followed")


def test_a_key_in_a_query_never_reaches_the_log(start: StartProcess) -> None:
    process = start(api_keys='{"sesame-open": "a"}', log_level="DEBUG")
    public = process.url("Requests")
    reply = httpx.post(public + "/rpc", json=CREATE, headers={"Authorization": "Bearer sesame-open"})
    task_id = reply.json()["result"]["taskId"]
    httpx.head(f"{public}/stream/{task_id}", params={"access_token": "sesame-open"})
    with httpx.stream("GET", f"{public}/stream/{task_id}", params={"access_token": "sesame-open"}) as stream:
        assert stream.status_code == 200
    assert process.stop() == 0
    assert "sesame" not in process.log


def test_accepted_connections_send_at_once_and_notice_a_dead_peer() -> None:
    with listen("127.0.0.1", 0) as listener, socket.create_connection(listener.getsockname()):
        connection, _ = listener.accept()
        with connection:
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            assert connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 120_000
