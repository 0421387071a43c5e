import asyncio
import json
import signal
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from pydantic import SecretStr
from redis import Redis as SyncRedis
from redis.asyncio import Redis

from testbed.impostors import echo, http_server, impostor
from testbed.task_client import TaskClient
from testbed.valkey import Valkey
from testbed.waiting import until
from testbed.worker_process import StartWorker, WorkerProcess, engine_of
from worker.app import main
from worker.tasks.redis_retry import persist


async def test_a_worker_that_is_killed_loses_no_token(client: TaskClient, start_worker: StartWorker) -> None:
    victim = await start_worker()
    reference = await client.submit("!tokens 60", seed=3)
    whole = await client.result(reference)
    task_id = await client.submit("!tokens 60", seed=3)
    await client.streaming(task_id, 10)

    victim.kill()
    await start_worker()

    async def requeued() -> bool:
        outcome: str = (await client.ledger.take_from_dead(task_id)).outcome
        return outcome == "requeued"

    await until(requeued)
    await client.send(task_id, "handover")

    assert await client.result(task_id) == whole
    entries = await client.stream.read(task_id)
    assert client.text(entries) == whole["cleaned_response_text"]
    retries = [entry for entry in entries if b'"RETRY"' in entry.data]
    assert len(retries) == 1


async def test_the_engine_dies_with_its_worker(client: TaskClient, start_worker: StartWorker) -> None:
    worker = await start_worker()
    engine = engine_of(worker.pid)

    worker.kill()

    await until(lambda: not psutil.pid_exists(engine), 5)


async def test_a_frozen_worker_that_lost_its_lease_writes_nothing_and_stops_within_a_second(
    client: TaskClient, start_worker: StartWorker
) -> None:
    zombie = await start_worker()
    task_id = await client.submit("!tokens 900", seed=3)
    await client.streaming(task_id, 10)

    zombie.signal(signal.SIGSTOP)
    await asyncio.sleep(1.6)
    assert (await client.ledger.take_from_dead(task_id)).outcome == "requeued"
    before = await client.stream.read(task_id)
    zombie.signal(signal.SIGCONT)
    thawed = time.monotonic()
    await until(lambda: "is no longer this worker's" in zombie.log.read_text(), 5)

    assert time.monotonic() - thawed < 1
    await asyncio.sleep(0.5)
    assert await client.stream.read(task_id) == before
    record = await client.ledger.get(task_id)
    assert record is not None
    assert record.state == "waiting"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_on_sigterm_short_tasks_end_and_long_ones_go_on_elsewhere(
    client: TaskClient, start_worker: StartWorker, number: signal.Signals
) -> None:
    leaving = await start_worker()
    reference = await client.submit("!tokens 300", seed=5)
    short, long = await client.submit("!tokens 60"), await client.submit("!tokens 300", seed=5)
    await asyncio.gather(client.streaming(short), client.streaming(long))

    leaving.signal(number)
    await asyncio.sleep(0.2)
    leaving.signal(number)
    assert await leaving.exit_code(8) == 0
    assert (await client.ended(short)).attempt == 1
    record = await client.ledger.get(long)
    assert record is not None
    assert (record.wire_state, record.crashes, record.losses) == ("RETRY", 0, 0)
    await start_worker()

    whole = await client.result(long)
    assert whole == await client.result(reference)
    assert client.text(await client.stream.read(long)) == whole["cleaned_response_text"]


async def test_a_worker_leaves_in_time_even_while_redis_is_gone(
    client: TaskClient, start_worker: StartWorker, valkey: Valkey
) -> None:
    worker = await start_worker(handover_seconds=2)
    task_id = await client.submit("!tokens 1000")
    await client.streaming(task_id)
    await asyncio.to_thread(valkey.stop)

    worker.signal(signal.SIGTERM)

    await worker.exit_code(1 + 2 + 2)


async def test_a_worker_outlives_a_restart_of_redis_and_its_running_task_runs_once(
    client: TaskClient, start_worker: StartWorker, valkey: Valkey
) -> None:
    worker = await start_worker()
    task_id = await client.submit("!tokens 300")
    await client.streaming(task_id)

    await asyncio.to_thread(valkey.stop)
    await asyncio.sleep(0.5)
    await asyncio.to_thread(valkey.start)
    result = await client.result(task_id)
    after, _ = await persist(lambda: client.submit("!say back again"))

    assert result["usage"]["completion_tokens"] == 301
    assert (await client.ended(task_id)).attempt == 1
    assert (await client.result(after))["cleaned_response_text"] == "back again"
    assert worker.running


async def test_a_redis_without_memory_ends_neither_the_worker_nor_a_task(
    client: TaskClient, start_worker: StartWorker
) -> None:
    worker = await start_worker()
    running = await client.submit("!tokens 100")
    await client.streaming(running)
    queued = [await client.accept("!tokens 5") for _ in range(5)]
    for task_id in queued:
        await client.send(task_id)
        if task_id == queued[1]:
            await client.redis.config_set("maxmemory", "1")
            break
    await asyncio.sleep(2)
    assert worker.running
    await client.redis.config_set("maxmemory", "0")
    for task_id in queued[2:]:
        await client.send(task_id)

    for task_id in (running, *queued):
        assert (await client.result(task_id))["finish_reason"] == "stop"
    assert worker.running


async def test_a_worker_whose_engine_does_not_start_again_hands_over_and_exits_non_zero(
    client: TaskClient, start_worker: StartWorker, tmp_path: Path
) -> None:
    marker = tmp_path / "broken"
    worker = await start_worker(model_source=f"scripted:?token_ms=10&fail_if={marker}", engine_start_attempts=2)
    task_id = await client.submit("!tokens 100\n!crash 50")
    await client.streaming(task_id)
    marker.touch()

    assert await worker.exit_code() == 1
    record = await client.ledger.get(task_id)
    assert record is not None
    assert record.state == "waiting"


async def test_the_second_port_tells_health_readiness_and_metrics(
    client: TaskClient, start_worker: StartWorker, unused_tcp_port: int
) -> None:
    await start_worker(internal_port=unused_tcp_port)
    await client.result(await client.submit("!tokens 5"))

    def fetch(path: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{unused_tcp_port}{path}", timeout=5) as response:
            return str(response.read(), "utf-8")

    assert await asyncio.to_thread(fetch, "/healthz") == "ok\n"
    assert await asyncio.to_thread(fetch, "/readyz") == "ok\n"
    assert 'headrace_worker_tokens_total{model="scripted"} 6.0' in await asyncio.to_thread(fetch, "/metrics")


async def test_an_engine_that_cannot_start_ends_the_worker_with_its_sentence(start_worker: StartWorker) -> None:
    worker = await start_worker(wait=False, model_source="scripted:?fail_start=There is no such model.")

    assert await worker.exit_code() == 1
    assert "There is no such model." in worker.log.read_text()
    assert "Traceback" not in worker.log.read_text()


def alarms(worker: WorkerProcess) -> list[str]:
    """What an operator is told."""
    lines = [json.loads(line) for line in worker.log.read_text().splitlines() if line.startswith("{")]
    return [str(line["message"]) for line in lines if line["level"] in ("WARNING", "ERROR", "CRITICAL")]


def unready(port: int) -> str:
    """What /readyz says; empty when the worker takes tasks."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5) as response:
            assert response.read() == b"ok\n"
            return ""
    except urllib.error.HTTPError as error:
        with error:
            return str(error.read(), "utf-8").strip()
    except OSError:
        return "does not listen yet"


async def until_unready(port: int, cause: str) -> None:
    """Returns when /readyz gives this cause; an empty one: when it is ready."""

    async def says() -> bool:
        reason = await asyncio.to_thread(unready, port)
        return reason.startswith(cause) if cause else not reason

    await until(says, 30, f"/readyz says {cause!r}")


@pytest.fixture
def locked(tmp_path: Path) -> Iterator[Valkey]:
    """A server with the password `right`."""
    server = Valkey(tmp_path / "locked")
    with SyncRedis(port=server.port) as admin:
        admin.config_set("requirepass", "right")
    yield server
    server.stop()


async def test_a_worker_with_a_wrong_password_says_so_once_and_takes_tasks_when_it_is_right(
    locked: Valkey, start_worker: StartWorker, unused_tcp_port: int
) -> None:
    url = SecretStr(f"redis://:wr0ng@127.0.0.1:{locked.port}/0")
    worker = await start_worker(wait=False, redis_url=url, installation="ml/headrace", internal_port=unused_tcp_port)
    cause = f"Redis at 127.0.0.1:{locked.port} cannot be used: it refuses the user name or the password"
    await until_unready(unused_tcp_port, cause)
    await asyncio.sleep(3)  # in which everybody goes on trying
    assert [line.startswith(cause) for line in alarms(worker)] == [True]
    with SyncRedis(port=locked.port, password="right") as admin:
        admin.config_set("requirepass", "wr0ng")
    await until_unready(unused_tcp_port, "")
    await until(lambda: len(alarms(worker)) == 2)
    assert "can be used again" in alarms(worker)[1]
    assert "wr0ng" not in worker.log.read_text()
    worker.signal(signal.SIGTERM)
    assert await worker.exit_code() == 0


@pytest.mark.parametrize("kind", ["http", "echo"])
async def test_a_worker_whose_redis_is_none_says_so_once_and_lives(
    start_worker: StartWorker, kind: str, unused_tcp_port: int
) -> None:
    async with http_server() if kind == "http" else impostor(echo) as port:
        url = SecretStr(f"redis://127.0.0.1:{port}/0")
        worker = await start_worker(wait=False, redis_url=url, internal_port=unused_tcp_port)
        cause = f"Redis at 127.0.0.1:{port} cannot be used: what answers there is not Redis or Valkey"
        await until_unready(unused_tcp_port, cause)
        await asyncio.sleep(3)  # in which everybody goes on trying
        assert worker.running
        assert [line.startswith(cause) for line in alarms(worker)] == [True]
        assert "Traceback" not in worker.log.read_text()
        worker.signal(signal.SIGTERM)
        assert await worker.exit_code() == 0


async def allow(redis: Redis, *rules: str) -> None:
    """Changes what the user `taker` may do."""
    await redis.execute_command("ACL", "SETUSER", "taker", *rules)  # type: ignore[no-untyped-call]


async def test_a_worker_that_may_not_take_messages_says_so_once_and_does_not_run_hot(
    valkey: Valkey, client: TaskClient, start_worker: StartWorker, unused_tcp_port: int
) -> None:
    await allow(client.redis, "on", ">pw", "~*", "&*", "+@all", "-brpop")
    try:
        url = SecretStr(f"redis://taker:pw@127.0.0.1:{valkey.port}/0")
        worker = await start_worker(redis_url=url, internal_port=unused_tcp_port)
        cause = f"Redis at 127.0.0.1:{valkey.port} cannot be used: its ACL does not allow what Headrace needs"
        await until_unready(unused_tcp_port, cause)
        before = sum(psutil.Process(worker.pid).cpu_times()[:2])
        await asyncio.sleep(3)  # in which it goes on trying
        assert sum(psutil.Process(worker.pid).cpu_times()[:2]) - before < 1.5
        assert [line.startswith(cause) for line in alarms(worker)] == [True]
        await allow(client.redis, "+brpop")
        assert (await client.result(await client.submit("!say hello")))["cleaned_response_text"] == "hello"
    finally:
        await client.redis.acl_deluser("taker")


async def test_a_worker_refuses_to_start_on_the_keys_of_another_installation(
    client: TaskClient, start_worker: StartWorker
) -> None:
    await start_worker(installation="ml/headrace")
    other = await start_worker(wait=False, installation="test/headrace")

    assert await other.exit_code() == 1
    assert "belong to the installation ml/headrace, and this is test/headrace" in other.log.read_text()
    assert "Traceback" not in other.log.read_text()
    assert await client.result(await client.submit("!say hello"))


def test_wrong_settings_end_the_worker_with_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HEADRACE_DEVICE", "cpu")
    monkeypatch.setenv("HEADRACE_QUANTIZATION", "bitsandbytes-4bit")

    assert main() == 2

    said = capsys.readouterr().err
    assert "needs a GPU" in said
    assert said.count("\n") == 1


async def test_sigterm_while_the_engine_loads_ends_the_worker_at_once(
    start_worker: StartWorker, client: TaskClient
) -> None:
    worker = await start_worker(wait=False, model_source="scripted:?start_ms=60000")

    async def announced() -> bool:
        return bool(await client.workers.starting("scripted"))

    await until(announced)
    worker.signal(signal.SIGTERM)

    assert await worker.exit_code(8) == 0
