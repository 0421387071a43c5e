"""What is told of a store that cannot be used, against real servers, and servers that are no store at all."""

import asyncio
import logging
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from redis import Redis as SyncRedis
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from shared.settings import SharedSettings
from shared.store import outage as clockwork
from shared.store.outage import Kind, Outage, kind_of, level
from shared.store.redis_client import connect
from testbed.impostors import Conversation, echo, hang_up, http_server, impostor, says, tls_context
from testbed.ports import free_port
from testbed.valkey import Valkey, server_binary
from testbed.waiting import until, wait_until

SECRET = "s3cr3t-pass"


@asynccontextmanager
async def client_of(url: str, outage: Outage) -> AsyncIterator[Redis]:
    client = connect(SharedSettings(redis_url=SecretStr(url), redis_timeout=0.5), outage)
    yield client
    await client.aclose()


async def told_of(url: str, caplog: pytest.LogCaptureFixture) -> str:
    """The one line that three tries make, without what stands in all of them."""
    outage = Outage()
    async with client_of(url, outage) as client:
        for _ in range(3):
            with pytest.raises((RedisConnectionError, RedisTimeoutError)) as raised:
                await client.ping()
            assert SECRET not in url or SECRET not in str(raised.value)
            assert level(raised.value) == logging.DEBUG
            assert kind_of(raised.value) is not None
    (line,) = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert SECRET not in url or SECRET not in caplog.text
    assert line.startswith(outage.reason)
    return outage.reason.removeprefix("Redis at ")


IMPOSTORS: dict[str, tuple[Conversation, str]] = {
    "echo": (echo, "what answers there is not Redis or Valkey"),
    "ssh": (says(b"SSH-2.0-OpenSSH_9.6\r\n"), "what answers there is not Redis or Valkey"),
    "smtp": (says(b"220 mail.example.com ESMTP\r\n"), "what answers there is not Redis or Valkey"),
    "memcached": (says(b"ERROR\r\n"), "what answers there is not Redis or Valkey"),
    "pop3": (says(b"+OK POP3 ready\r\n"), "what answers there is not Redis or Valkey"),
    "none": (hang_up, "it closes the connection"),
    "loading": (says(b"-LOADING Redis is loading the dataset in memory\r\n"), "it is still loading its data"),
    "full": (says(b"-ERR max number of clients reached\r\n"), "(max number of clients reached)"),
    "protected": (says(b"-DENIED Redis is running in protected mode.\r\n"), "it refuses the connection (DENIED Redis"),
    "old": (says(b"-ERR unknown command `HELLO`, with args beginning with: `3`, `AUTH`, `default`, `s3cr3t-pass`\r\n"),
            "it lacks a command that Headrace needs (unknown command `HELLO`)"),
    "tactless": (says(b"-NOPERM s3cr3t-pass does not do\r\n"), "its ACL does not allow what Headrace needs ("),
}  # fmt: skip


@pytest.mark.parametrize("credentials", ["", f":{SECRET}@", f"{SECRET}:{SECRET}@"])
@pytest.mark.parametrize("name", IMPOSTORS)
async def test_what_is_not_redis_is_told_once_with_its_address_and_without_the_password(
    name: str, credentials: str, caplog: pytest.LogCaptureFixture
) -> None:
    converse, cause = IMPOSTORS[name]
    async with impostor(converse) as port:
        told = await told_of(f"redis://{credentials}127.0.0.1:{port}/0", caplog)
    assert told.startswith(f"127.0.0.1:{port} cannot be used: ")
    assert cause in told


@pytest.mark.parametrize("credentials", ["", f":{SECRET}@"])
async def test_an_http_server_is_told_as_what_it_is(credentials: str, caplog: pytest.LogCaptureFixture) -> None:
    async with http_server() as port:
        assert "not Redis or Valkey" in await told_of(f"redis://{credentials}127.0.0.1:{port}/0", caplog)


async def test_nobody_there_and_no_such_name(caplog: pytest.LogCaptureFixture) -> None:
    port = free_port()
    assert await told_of(f"redis://:{SECRET}@127.0.0.1:{port}", caplog) == (
        f"127.0.0.1:{port} cannot be used: it cannot be reached (Connection refused)"
    )
    caplog.clear()
    assert "nobody.invalid:6379 cannot be used: its name does not resolve" in await told_of(
        "redis://nobody.invalid", caplog
    )


async def test_tls_on_one_side_alone_and_a_certificate_that_nobody_trusts(
    tmp_path: Path, valkey: Valkey, caplog: pytest.LogCaptureFixture
) -> None:
    plain = await told_of(f"rediss://127.0.0.1:{valkey.port}/0", caplog)
    assert "perhaps because it speaks no TLS" in plain
    async with impostor(echo, tls_context(tmp_path)) as port:
        caplog.clear()
        assert "perhaps because it speaks TLS" in await told_of(f"redis://127.0.0.1:{port}/0", caplog)
        caplog.clear()
        assert "no TLS connection to it comes about (the certificate: self-signed certificate)" in await told_of(
            f"rediss://127.0.0.1:{port}/0", caplog
        )
        caplog.clear()
        trusted = f"rediss://:{SECRET}@127.0.0.1:{port}/0?ssl_ca_certs={tmp_path / 'tls.crt'}"
        assert "not Redis or Valkey" in await told_of(trusted, caplog)
        caplog.clear()
        assert "it cannot be reached (No such file" in await told_of(
            f"rediss://127.0.0.1:{port}/0?ssl_ca_certs=/nowhere/ca.crt", caplog
        )


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    """A server with a password, a user who may do nothing but look, and one who may in scripts too, at `ours`."""
    server = Valkey(tmp_path_factory.mktemp("locked"), durable=False)
    with SyncRedis(port=server.port) as client:
        client.execute_command("ACL", "SETUSER", "looker", "on", ">right", "~*", "&*", "+@read", "+@connection")
        client.execute_command("ACL", "SETUSER", "scripter", "on", ">right", "~ours", "+@read", "+@connection", "+eval")
        client.config_set("requirepass", "right")
    yield server
    server.stop()


@pytest.mark.parametrize(
    ("credentials", "cause"),
    [
        ("", "it asks for a password, and HEADRACE_REDIS_URL has none"),
        (f":{SECRET}@", "it refuses the user name or the password"),
        (f"looker:{SECRET}@", "it refuses the user name or the password"),
        (f"nobody:{SECRET}@", "it refuses the user name or the password"),
    ],
)
async def test_a_wrong_password_is_told_as_one(
    locked: Valkey, credentials: str, cause: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert (await told_of(f"redis://{credentials}127.0.0.1:{locked.port}/0", caplog)).endswith(cause)


async def test_a_database_that_is_not_there(locked: Valkey, caplog: pytest.LogCaptureFixture) -> None:
    told = await told_of(f"redis://:right@127.0.0.1:{locked.port}/99", caplog)
    assert "it refuses the connection (DB index is out of range)" in told


async def test_a_permission_that_is_missing_is_told_though_the_connection_stands(
    locked: Valkey, caplog: pytest.LogCaptureFixture
) -> None:
    outage = Outage()
    async with client_of(f"redis://looker:right@127.0.0.1:{locked.port}/0", outage) as client:
        await client.get("k")
        assert not outage.reason
        with pytest.raises(ResponseError) as raised:
            await client.set("k", "v")
        pipeline = client.pipeline(transaction=True)
        pipeline.set("k", "v")
        with pytest.raises(ResponseError):
            await pipeline.execute()
    assert kind_of(raised.value) is Kind.PERMISSION
    assert "User looker has no permissions to run the 'set' command" in outage.refusal
    assert len(caplog.records) == 1


@pytest.mark.parametrize("script", ["redis.call('GET', 'theirs')", "redis.call('SET', 'ours', 1)"])
async def test_a_permission_that_a_script_lacks_is_told_like_any_other(
    locked: Valkey, script: str, caplog: pytest.LogCaptureFixture
) -> None:
    outage = Outage()
    async with client_of(f"redis://scripter:right@127.0.0.1:{locked.port}/0", outage) as client:
        assert await client.eval("return redis.call('GET', 'ours')", 0) is None
        with pytest.raises(ResponseError) as raised:
            await client.eval(script, 0)
    assert kind_of(raised.value) is Kind.PERMISSION
    assert "its ACL does not allow what Headrace needs (ERR ACL failure in script" in outage.refusal
    assert len(caplog.records) == 1


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Valkey]:
    server = Valkey(tmp_path / "own", durable=False)
    yield server
    server.stop()


async def fill(admin: Redis, folder: Path) -> None:
    await admin.config_set("maxmemory", "1")


async def follow_nobody(admin: Redis, folder: Path) -> None:
    await admin.replicaof("127.0.0.1", str(free_port()))


async def demand_replicas(admin: Redis, folder: Path) -> None:
    await admin.config_set("min-replicas-to-write", "1")


async def lose_the_disk(admin: Redis, folder: Path) -> None:
    await admin.config_set("save", "3600 1")
    await asyncio.to_thread(shutil.rmtree, folder)
    await admin.bgsave()

    async def failed() -> bool:
        return bool((await admin.info("persistence"))["rdb_last_bgsave_status"] != "ok")

    await until(failed)


@pytest.mark.parametrize(
    ("break_it", "kind"),
    [
        (fill, Kind.FULL),
        (follow_nobody, Kind.READ_ONLY),
        (demand_replicas, Kind.NO_REPLICAS),
        (lose_the_disk, Kind.DISK),
    ],
)
async def test_a_server_that_takes_no_writes_is_told_once_and_serves_again_when_it_does(
    own: Valkey, tmp_path: Path, break_it: Any, kind: Kind, caplog: pytest.LogCaptureFixture
) -> None:
    outage = Outage()
    async with client_of(own.url, outage) as client, Redis.from_url(own.url) as admin:
        await client.set("k", "v")
        await break_it(admin, tmp_path / "own")
        for _ in range(3):
            with pytest.raises(ResponseError) as raised:
                await client.set("k", "v")
            with pytest.raises(ResponseError):
                await client.eval("return redis.call('SET', KEYS[1], 'v')", 1, "k")
            pipeline = client.pipeline(transaction=False)
            pipeline.set("k", "v")
            with pytest.raises(ResponseError) as in_pipeline:
                await pipeline.execute()
    assert kind_of(raised.value) is kind_of(in_pipeline.value) is kind
    (record,) = caplog.records
    assert record.getMessage().startswith(f"Redis at 127.0.0.1:{own.port} cannot be used: {kind.value}")
    # One without room still serves what is running: taking its replicas out of service would cut streams.
    assert bool(outage.refusal) is (kind is not Kind.FULL)


async def test_a_command_that_the_server_does_not_know(valkey: Valkey, caplog: pytest.LogCaptureFixture) -> None:
    outage = Outage()
    async with client_of(valkey.url, outage) as client:
        with pytest.raises(ResponseError) as raised:
            await client.execute_command("NONSENSE", SECRET)  # type: ignore[no-untyped-call]
    assert kind_of(raised.value) is Kind.COMMAND
    assert "it lacks a command that Headrace needs (ERR unknown command 'NONSENSE')" in outage.reason
    assert SECRET not in caplog.text


async def test_an_error_of_one_key_is_no_outage(valkey: Valkey, caplog: pytest.LogCaptureFixture) -> None:
    outage = Outage()
    async with client_of(valkey.url, outage) as client:
        await client.set("k", "v")
        with pytest.raises(ResponseError) as raised:
            await client.lpush("k", "v")
    assert kind_of(raised.value) is None
    assert level(raised.value) == logging.WARNING
    assert not outage.reason
    assert not caplog.records


StartSentinel = Callable[..., int]


@pytest.fixture
def start_sentinel(tmp_path: Path) -> Iterator[StartSentinel]:
    """Starts a Sentinel that watches nothing; its port."""
    processes: list[subprocess.Popen[bytes]] = []

    def start(*settings: str) -> int:
        port = free_port()
        config = tmp_path / f"sentinel-{port}.conf"
        config.write_text("\n".join((f"port {port}", "bind 127.0.0.1", *settings, "")))
        command = [str(server_binary()), str(config), "--sentinel"]
        processes.append(subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL))

        def listens() -> bool:
            try:
                with SyncRedis(port=port) as client:
                    return bool(client.ping())
            except RedisConnectionError as error:
                return kind_of(error) is Kind.NO_PASSWORD

        wait_until(listens, 20, lambda: "the Sentinel answers")
        return port

    yield start
    for process in processes:
        process.kill()
        process.wait(10)


async def test_of_sentinels_it_is_told_which_one_and_what(
    start_sentinel: StartSentinel, caplog: pytest.LogCaptureFixture
) -> None:
    nobody = free_port()
    url = f"sentinel://:{SECRET}@127.0.0.1:{nobody}"
    told = await told_of(url, caplog)
    assert told == f"127.0.0.1:{nobody} (Sentinel) cannot be used: it cannot be reached (Connection refused)"
    caplog.clear()
    lone = start_sentinel()
    told = await told_of(f"{url};sentinel://127.0.0.1:{lone}/0", caplog)
    sentence = "no Sentinel knows a master of this name that is up (mymaster)"
    assert told == f"127.0.0.1:{lone} (Sentinel) cannot be used: {sentence}"
    caplog.clear()
    locked = start_sentinel("requirepass right")
    told = await told_of(f"sentinel://127.0.0.1:{locked}/0", caplog)
    assert told.startswith(f"127.0.0.1:{locked} (Sentinel) cannot be used: it asks for a password")
    caplog.clear()
    async with http_server() as port:
        told = await told_of(f"sentinel://127.0.0.1:{port}/0", caplog)
    assert told.startswith(f"127.0.0.1:{port} (Sentinel) cannot be used: what answers there is not Redis")


class Clock:
    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(clockwork, "time", clock)
    return clock


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    lines = [record.getMessage() for record in caplog.records]
    caplog.clear()
    return lines


def test_an_outage_is_one_line_for_each_kind_and_one_at_its_end(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    outage = Outage()
    outage.unconnected(Kind.UNREACHABLE, "r:6379", "Connection refused")
    clock.now += 5
    outage.unconnected(Kind.PASSWORD, "r:6379")
    for kind in (Kind.UNREACHABLE, Kind.PASSWORD) * 100:
        clock.now += 1
        outage.unconnected(kind, "r:6379")
    assert [line.partition(". ")[0] for line in said(caplog)] == [
        "Redis at r:6379 cannot be used: it cannot be reached (Connection refused)",
        "Redis at r:6379 cannot be used: it refuses the user name or the password",
    ]
    assert outage.reason == "Redis at r:6379 cannot be used: it refuses the user name or the password"
    outage.worked()
    assert outage.reason, "a failure and a success of the same moment say nothing yet"
    clock.now += 1
    outage.worked()
    assert said(caplog) == ["Redis at r:6379 can be used again, after 205 s."]
    assert not outage.reason
    outage.worked()
    assert not said(caplog)


def test_a_store_that_comes_and_goes_is_told_of_once_a_minute(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    outage = Outage()
    for _ in range(50):
        outage.unconnected(Kind.CLOSED, "r:6379")
        clock.now += 2
        outage.worked()
        assert not outage.reason
    assert len(said(caplog)) == 4


def test_a_refusal_makes_unready_for_as_long_as_it_is_met(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    outage = Outage()
    outage.connected("r:6379")
    outage.refused(Kind.READ_ONLY)
    assert outage.reason == outage.refusal == "Redis at r:6379 cannot be used: it is a read-only replica"
    clock.now += 6
    outage.worked()
    assert not outage.reason
    for _ in range(10):
        outage.refused(Kind.READ_ONLY)
        clock.now += 20
        outage.worked()
    assert len(said(caplog)) == 1
    clock.now += 60
    outage.worked()
    assert said(caplog) == ["Redis at r:6379 can be used again, after 186 s."]


def test_every_kind_has_its_sentence_and_is_found_by_something() -> None:
    assert {kind for kind in Kind if kind.refuses} >= set(clockwork._BY_CODE.values()) - {Kind.LOADING}
