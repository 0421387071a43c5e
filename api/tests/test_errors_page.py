"""docs/errors.md, row by row."""

import asyncio
import gzip
import json
import os
import re
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import httpx
import pytest
from pydantic import SecretStr
from redis.asyncio import Redis

from api import errors
from api.tasks.new_task import NewTasks
from api.tenants.key_file import sha256_of
from shared.store.event_stream import EventStream
from shared.store.keys import Keys
from shared.store.task_ledger import TaskLedger
from shared.store.worker_registry import WorkerRegistry
from shared.wire.schemas import ErrorCode, ModelCard
from testbed.api_app import StartApp
from testbed.impostors import http_server
from testbed.ports import free_port
from testbed.valkey import Valkey

PAGE = (Path(__file__).parents[2] / "docs" / "errors.md").read_text()
JSON = {"Content-Type": "application/json"}
KEYS = {"key-of-a": "a", "key-of-b": "b"}


@dataclass(frozen=True)
class Row:
    """One row of the tables with five columns."""

    request: str
    status: int
    code: int | None
    message: str
    retryable: bool


def rows() -> Iterator[Row]:
    for line in PAGE.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        if line.startswith("|") and len(cells) == 5 and cells[1].isdigit():
            request, status, code, message, retryable = cells
            yield Row(request, int(status), None if code == "-" else int(code), message, retryable == "yes")


ROWS = list(rows())


@dataclass(frozen=True)
class World:
    """What a scenario can arrange."""

    start: Callable[..., AbstractAsyncContextManager[httpx.AsyncClient]]
    valkey: Valkey
    redis: Redis
    keys: Keys
    ledger: TaskLedger
    registry: WorkerRegistry
    card: ModelCard
    monkeypatch: pytest.MonkeyPatch


Scenario = Callable[[World], Awaitable[httpx.Response]]
SCENARIOS: dict[str, Scenario] = {}


def scenario(request: str) -> Callable[[Scenario], Scenario]:
    """The function that brings about what a row's first column says."""

    def register(function: Scenario) -> Scenario:
        SCENARIOS[request] = function
        return function

    return register


async def create(http: httpx.AsyncClient, *, key: str = "", **params: Any) -> httpx.Response:
    return await call(http, "create_message", {"message": "hi"} | params, key=key)


async def call(http: httpx.AsyncClient, method: str, params: Any, *, key: str = "") -> httpx.Response:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
    return await http.post("/rpc", json=body, headers=headers)


async def task_id_of(reply: httpx.Response) -> str:
    task_id: str = reply.json()["result"]["taskId"]
    return task_id


@scenario("no API key where keys are configured")
async def _(world: World) -> httpx.Response:
    async with world.start(api_keys=KEYS) as http:
        return await create(http)


@scenario("an unknown API key")
async def _(world: World) -> httpx.Response:
    async with world.start(api_keys=KEYS) as http:
        return await create(http, key="key-of-c")


@scenario("an expired API key")
async def _(world: World) -> httpx.Response:
    async with world.start(api_keys=one_key(expires="2026-01-01T00:00:00Z")) as http:
        return await create(http, key="hr_a")


@scenario("no `Content-Type`")
async def _(world: World) -> httpx.Response:
    async with world.start() as http:
        return await http.post("/rpc", content=b"{}")


@scenario("`Content-Type` of a form")
async def _(world: World) -> httpx.Response:
    async with world.start() as http:
        return await http.post("/rpc", data={"a": "b"})


@scenario("a compressed body")
async def _(world: World) -> httpx.Response:
    async with world.start() as http:
        return await http.post("/rpc", content=gzip.compress(b"{}"), headers=JSON | {"Content-Encoding": "gzip"})


@scenario("a body of 10 MB")
async def _(world: World) -> httpx.Response:
    async with world.start() as http:
        return await http.post("/rpc", content=b" " * 10_000_000, headers=JSON)


@scenario("a body of 10 MB of unknown length")
async def _(world: World) -> httpx.Response:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield b" " * 100_000

    async with world.start() as http:
        return await http.post("/rpc", content=chunks(), headers=JSON)


@scenario("a body that does not arrive")
async def _(world: World) -> httpx.Response:
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: Any) -> None:
        sent.append(message)

    async with world.start(body_timeout=0.05) as http:
        transport = http._transport
        assert isinstance(transport, httpx.ASGITransport)
        scope = {"type": "http", "http_version": "1.1", "method": "POST", "path": "/rpc", "raw_path": b"/rpc",
                 "query_string": b"", "root_path": "", "scheme": "http", "server": ("api", 80), "client": ("test", 1),
                 "headers": [(b"content-type", b"application/json")]}  # fmt: skip
        await transport.app(scope, receive, send)
    return httpx.Response(sent[0]["status"], headers=sent[0]["headers"], content=sent[1]["body"])


@scenario("an empty body")
async def _(world: World) -> httpx.Response:
    async with world.start() as http:
        return await http.post("/rpc", content=b"", headers=JSON)


@scenario("a body of invalid UTF-8")
async def _(world: World) -> httpx.Response:
    async with world.start() as http:
        return await http.post("/rpc", content=b'{"jsonrpc": "2.0", "id": "\xff"}', headers=JSON)


@scenario("a million empty lists")
async def _(world: World) -> httpx.Response:
    async with world.start() as http:
        return await http.post("/rpc", content=b"[" + b"[]," * 1_000_000 + b"[]]", headers=JSON)


@scenario("100,000 nested lists")
async def _(world: World) -> httpx.Response:
    async with world.start() as http:
        return await http.post("/rpc", content=b"[" * 100_000 + b"]" * 100_000, headers=JSON)


@scenario("a batch of 101 members")
async def _(world: World) -> httpx.Response:
    async with world.start() as http:
        return await http.post("/rpc", json=[{"jsonrpc": "2.0", "id": 1, "method": "tool_list"}] * 101)


@scenario("27 positional parameters")
async def _(world: World) -> httpx.Response:
    async with world.start() as http:
        return await call(http, "create_message", [None] * 27)


@scenario("90,000 unknown fields")
async def _(world: World) -> httpx.Response:
    async with world.start() as http:
        return await call(http, "create_message", {"message": "x"} | {f"f{number}": 1 for number in range(90_000)})


@scenario("`get_message` of another tenant's task")
async def _(world: World) -> httpx.Response:
    async with world.start(api_keys=KEYS) as http:
        task_id = await task_id_of(await create(http, key="key-of-a"))
        return await call(http, "get_message", {"taskId": task_id}, key="key-of-b")


@scenario("`cancel_message` of another tenant's task")
async def _(world: World) -> httpx.Response:
    async with world.start(api_keys=KEYS) as http:
        task_id = await task_id_of(await create(http, key="key-of-a"))
        return await call(http, "cancel_message", {"taskId": task_id}, key="key-of-b")


@scenario("an `idempotencyKey` with other parameters")
async def _(world: World) -> httpx.Response:
    async with world.start() as http:
        await create(http, idempotencyKey="k")
        return await create(http, idempotencyKey="k", temperature=1)


@scenario("`maxTokens` beyond the model's context")
async def _(world: World) -> httpx.Response:
    await world.registry.announce("w1", world.card)
    async with world.start() as http:
        return await create(http, maxTokens=101)


@scenario("a prompt beyond the model's context")
async def _(world: World) -> httpx.Response:
    await world.registry.announce("w1", world.card)
    async with world.start() as http:
        return await create(http, message="x" * 1000)


def looping_conversation() -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = [{"role": "user", "content": "What time is it?"}]
    for number in range(4):
        tool_call = {"id": f"c{number}", "type": "function", "function": {"name": "time", "arguments": "{}"}}
        messages += [
            {"role": "assistant", "tool_calls": [tool_call]},
            {"role": "tool", "tool_call_id": f"c{number}", "content": "12:00"},
        ]
    return messages


@scenario("a demanded tool call after a tool loop")
async def _(world: World) -> httpx.Response:
    async with world.start() as http:
        tools = [{"type": "function", "function": {"name": "time"}}]
        params = {"messages": looping_conversation(), "tools": tools, "toolChoice": "required"}
        return await call(http, "create_message", params)


@scenario("a second message to a conversation before the first is answered")
async def _(world: World) -> httpx.Response:
    async with world.start() as http:
        await create(http, history=[], conversationId="c1")
        return await create(http, conversationId="c1")


@scenario("a full queue")
async def _(world: World) -> httpx.Response:
    async with world.start(max_waiting=2) as http:
        for _ in range(2):
            await create(http)
        return await create(http)


@scenario("too many unfinished tasks of a tenant")
async def _(world: World) -> httpx.Response:
    async with world.start(max_tenant_tasks=2) as http:
        for _ in range(2):
            await create(http)
        return await create(http)


@scenario("too many calls of a tenant")
async def _(world: World) -> httpx.Response:
    async with world.start(tenant_rate="2/minute") as http:
        for _ in range(2):
            await create(http)
        return await create(http)


@scenario("too many requests of a key")
async def _(world: World) -> httpx.Response:
    return await refused_by_limit(world, requestsPerMinute=2)


@scenario("too many tokens of a key in a minute")
async def _(world: World) -> httpx.Response:
    return await refused_by_limit(world, tokensPerMinute=1000)


@scenario("too many tokens of a key in a day")
async def _(world: World) -> httpx.Response:
    return await refused_by_limit(world, tokensPerDay=1000)


@scenario("too many unfinished tasks of a key")
async def _(world: World) -> httpx.Response:
    return await refused_by_limit(world, unfinishedTasks=2)


@scenario("too many waiting tasks of a key")
async def _(world: World) -> httpx.Response:
    return await refused_by_limit(world, waitingTasks=2)


@scenario("a `stop` of 1025 characters")
async def _(world: World) -> httpx.Response:
    async with world.start() as http:
        return await create(http, stop="x" * 1025)


@scenario("`metadata` of 513 characters")
async def _(world: World) -> httpx.Response:
    async with world.start() as http:
        return await create(http, metadata={"a": "x" * 513})


@scenario("one stored conversation too many of a tenant")
async def _(world: World) -> httpx.Response:
    async with world.start(max_tenant_conversations=2) as http:
        for number in range(2):
            assert "result" in (await create(http, history=[], conversationId=f"c{number}")).json()
        return await create(http, history=[], conversationId="c2")


@scenario("one open stream too many of a key")
async def _(world: World) -> httpx.Response:
    async with world.start(api_keys=one_key(policy={"limits": {"openStreams": 1}})) as http:
        task_id = await task_id_of(await create(http, key="hr_a"))
        headers = {"Authorization": "Bearer hr_a"}
        first = asyncio.create_task(http.get(f"/stream/{task_id}", headers=headers))
        second = asyncio.create_task(http.get(f"/stream/{task_id}", headers=headers))
        # One of them stays until the task ends; whichever comes second is refused at once.
        done, [stays] = await asyncio.wait({first, second}, timeout=10, return_when=asyncio.FIRST_COMPLETED)
        await call(http, "cancel_message", {"taskId": task_id}, key="hr_a")
        await stays
        return done.pop().result()


@scenario("more tokens than a key ever has")
async def _(world: World) -> httpx.Response:
    async with world.start(api_keys=one_key(policy={"limits": {"tokensPerMinute": 1000}})) as http:
        return await create(http, key="hr_a", maxTokens=5000)


@scenario("a call that is not in the key's scopes")
async def _(world: World) -> httpx.Response:
    async with world.start(api_keys=one_key(policy={"scopes": ["read"]})) as http:
        return await create(http, key="hr_a")


@scenario("a model that the key may not use")
async def _(world: World) -> httpx.Response:
    async with world.start(api_keys=one_key(policy={"models": ["another"]})) as http:
        return await create(http, key="hr_a")


async def refused_by_limit(world: World, **limits: int) -> httpx.Response:
    """The third of three tasks of 400 tokens each."""
    async with world.start(api_keys=one_key(policy={"limits": limits})) as http:
        for _ in range(2):
            assert "result" in (await create(http, key="hr_a", maxTokens=400)).json()
        return await create(http, key="hr_a", maxTokens=400)


def one_key(**fields: Any) -> dict[str, Any]:
    """A file of keys with the key `hr_a`."""
    return {"keys": [{"id": "a", "tenant": "a", "sha256": sha256_of("hr_a"), **fields}]}


@scenario("a stream with a token of another task")
async def _(world: World) -> httpx.Response:
    return await stream_with_token(world, another=True)


@scenario("a stream with an edited token")
async def _(world: World) -> httpx.Response:
    return await stream_with_token(world, edit=True)


async def stream_with_token(world: World, *, another: bool = False, edit: bool = False) -> httpx.Response:
    async with world.start(api_keys=one_key()) as http:
        task_id = await task_id_of(await create(http, key="hr_a"))
        token = (await call(http, "stream_token", {"taskId": task_id}, key="hr_a")).json()["result"]["streamToken"]
        if another:
            task_id = await task_id_of(await create(http, key="hr_a"))
        return await http.get(f"/stream/{task_id}", params={"stream_token": token[:-9] if edit else token})


@contextmanager
def maxmemory(world: World, limit: int) -> Iterator[None]:
    with world.valkey.client() as client:
        client.config_set("maxmemory", limit)
        try:
            yield
        finally:
            client.config_set("maxmemory", 0)


@scenario("Redis above the memory threshold")
async def _(world: World) -> httpx.Response:
    used = (await world.redis.info("memory"))["used_memory"]
    with maxmemory(world, int(used * 1.1)):
        async with world.start() as http:
            return await create(http)


@scenario("Redis out of memory")
async def _(world: World) -> httpx.Response:
    async with world.start(memory_threshold=1.0) as http:
        await create(http)  # what the application knows of the memory is from before
        with maxmemory(world, 1_000_000):
            return await create(http)


@scenario("Redis down at start")
async def _(world: World) -> httpx.Response:
    world.valkey.stop()
    async with world.start() as http:
        return await create(http)


@scenario("Redis down while running")
async def _(world: World) -> httpx.Response:
    async with world.start() as http:
        await create(http)
        world.valkey.stop()
        return await create(http)


@scenario("Redis silent")
async def _(world: World) -> httpx.Response:
    async with world.start(redis_timeout=0.3) as http:
        await create(http)
        os.kill(world.valkey.pid, signal.SIGSTOP)
        try:
            return await create(http)
        finally:
            os.kill(world.valkey.pid, signal.SIGCONT)


@scenario("a server that is not Redis at its address")
async def _(world: World) -> httpx.Response:
    async with (
        http_server() as port,
        world.start(redis_url=SecretStr(f"redis://127.0.0.1:{port}/0")) as http,
    ):
        return await create(http)


@scenario("Redis with another password")
async def _(world: World) -> httpx.Response:
    await world.redis.config_set("requirepass", "right")
    try:
        async with world.start(redis_url=SecretStr(world.valkey.url.replace("//", "//:wrong@"))) as http:
            return await create(http)
    finally:
        await world.redis.config_set("requirepass", "")


@scenario("a Redis that is read-only")
async def _(world: World) -> httpx.Response:
    async with world.start() as http:
        await create(http)
        await world.redis.replicaof("127.0.0.1", str(free_port()))
        try:
            return await create(http)
        finally:
            await world.redis.replicaof("NO", "ONE")


@scenario("a fault of the server")
async def _(world: World) -> httpx.Response:
    def crash(*_: object, **__: object) -> None:
        raise RuntimeError("secret")

    world.monkeypatch.setattr(NewTasks, "start", crash)
    async with world.start() as http:
        return await create(http)


@scenario("a path that nobody serves")
async def _(world: World) -> httpx.Response:
    async with world.start() as http:
        return await http.get("/nothing")


@scenario("a path asked by another verb")
async def _(world: World) -> httpx.Response:
    async with world.start() as http:
        reply = await http.get("/rpc")
    assert reply.headers["Allow"] == "POST"
    return reply


@scenario("the stream of an unknown task")
async def _(world: World) -> httpx.Response:
    async with world.start() as http:
        return await http.get("/stream/nobody")


@scenario("the stream of another tenant's task")
async def _(world: World) -> httpx.Response:
    async with world.start(api_keys=KEYS) as http:
        task_id = await task_id_of(await create(http, key="key-of-a"))
        return await http.get(f"/stream/{task_id}", headers={"Authorization": "Bearer key-of-b"})


@scenario("the stream of an expired task")
async def _(world: World) -> httpx.Response:
    async with world.start() as http:
        two_hours_ago = int((time.time() - 7200) * 1000)
        return await http.get(f"/stream/{two_hours_ago >> 16:08x}-{two_hours_ago & 0xFFFF:04x}-7000-8000-000000000000")


@scenario("a stream without an API key")
async def _(world: World) -> httpx.Response:
    async with world.start(api_keys=KEYS) as http:
        return await http.get("/stream/nobody")


async def stream_from(world: World, last_event_id: str, *, ended: bool = False) -> httpx.Response:
    async with world.start() as http:
        task_id = await task_id_of(await create(http))
        if ended:
            await call(http, "cancel_message", {"taskId": task_id})
            *_, last = await EventStream(world.redis, world.keys).read(task_id)
            last_event_id = str(last.id)
        return await http.get(f"/stream/{task_id}", headers={"Last-Event-ID": last_event_id})


@scenario("a `Last-Event-ID` that is none")
async def _(world: World) -> httpx.Response:
    return await stream_from(world, "yesterday")


@scenario("a `Last-Event-ID` ahead of the stream")
async def _(world: World) -> httpx.Response:
    return await stream_from(world, "7-7")


@scenario("a `Last-Event-ID` of the stream's `end`")
async def _(world: World) -> httpx.Response:
    return await stream_from(world, "", ended=True)


@scenario("a stream while Redis is down")
async def _(world: World) -> httpx.Response:
    async with world.start() as http:
        task_id = await task_id_of(await create(http))
        world.valkey.stop()
        return await http.get(f"/stream/{task_id}")


@pytest.fixture
def world(
    start_app: StartApp,
    valkey: Valkey,
    redis: Redis,
    keys: Keys,
    ledger: TaskLedger,
    registry: WorkerRegistry,
    card: ModelCard,
    monkeypatch: pytest.MonkeyPatch,
) -> World:
    return World(start_app, valkey, redis, keys, ledger, registry, card, monkeypatch)


@pytest.mark.parametrize("row", ROWS, ids=[row.request[:90] for row in ROWS])
async def test_a_row_says_what_the_server_does(row: Row, world: World) -> None:
    reply = await _provoked(row.request, world)
    assert reply.status_code == row.status
    if row.code is None:
        assert reply.content == b""
        return
    answered = reply.json()
    assert "Traceback" not in reply.text
    assert len(reply.text) < 5000
    error = answered["error"]
    assert error["code"] == row.code
    pattern = re.escape(row.message).replace("…", ".*")
    assert re.fullmatch(pattern, error["message"], re.DOTALL), error["message"]
    assert error["data"]["retryable"] is row.retryable
    # A slow body may be sent again at once; everything else that may, says when.
    assert ("retryAfterSeconds" in error["data"]) == (row.retryable and row.status != 408)
    if row.code == errors.INVALID_PARAMS and "parameters" not in row.request and row.status == 200:
        assert all(set(problem) == {"path", "message"} for problem in error["data"].get("errors", []))
    if row.status == 401:
        assert reply.headers["WWW-Authenticate"].startswith("Bearer")


async def _provoked(request: str, world: World) -> httpx.Response:
    if not request.startswith("`") or not request.endswith("`"):
        return await SCENARIOS[request](world)
    text = request.strip("`")
    method, space, params = text.partition(" ")
    async with world.start() as http:
        if space and method.isidentifier():
            return await call(http, method, json.loads(params))
        return await http.post("/rpc", content=text.encode(), headers=JSON)


LENIENT = PAGE[PAGE.index("## Accepted, though") : PAGE.index("## The state of things")]


@pytest.mark.parametrize(("sent", "read_as"), re.findall(r"^\| `({.*})` \| `({.*})` \|$", LENIENT, re.MULTILINE))
async def test_both_forms_of_an_accepted_request_make_the_same_task(world: World, sent: str, read_as: str) -> None:
    async with world.start() as http:
        requests = []
        for params in (sent, read_as):
            record = await world.ledger.get(await task_id_of(await call(http, "create_message", json.loads(params))))
            assert record is not None
            requests.append(json.loads(record.request))
    assert requests[0] == requests[1]


TRANSPORT = re.findall(r"^- (.+)$", LENIENT, re.MULTILINE)


@pytest.mark.parametrize("form", TRANSPORT)
async def test_the_transport_reads_the_same_request_from(world: World, form: str) -> None:
    request = b'{"jsonrpc": "2.0", "id": 1, "method": "tool_list"}'
    header = re.match("`([A-Za-z-]+): ?(.*?)`", form)
    async with world.start() as http:
        if header is None:
            reply = await http.post("/rpc", content=b"\xef\xbb\xbf" + request, headers=JSON)
        else:
            reply = await http.post("/rpc", content=request, headers=JSON | {header[1]: header[2]})
    assert reply.json() == {"jsonrpc": "2.0", "result": [], "id": 1}


def test_the_page_has_rows_and_each_scenario_is_one_of_them() -> None:
    assert len(ROWS) > 80
    assert len(TRANSPORT) == 6
    assert not SCENARIOS.keys() - {row.request for row in ROWS}


def test_the_page_lists_all_codes() -> None:
    listed = {name: int(code) for code, name in re.findall(r"^\| (-32\d\d\d) \| ([A-Z_]+) \|", PAGE, re.MULTILINE)}
    assert listed == {name: value for name, value in vars(errors).items() if isinstance(value, int) and value < -32000}


def test_each_code_can_be_provoked() -> None:
    assert {row.code for row in ROWS} >= {
        value for value in vars(errors).values() if isinstance(value, int) and value < -32000
    }


def test_the_page_lists_the_codes_of_error_events() -> None:
    table = PAGE[PAGE.index("## `error` events") :]
    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == list(get_args(ErrorCode))
