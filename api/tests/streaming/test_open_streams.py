"""How many streams a key has open, how old they become, and what ends them early: at every door, over connections."""

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from api.tenants import key_ring
from testbed.answering_doors import ANSWERING_DOORS, key_file
from testbed.api_replica import Replica, StartReplica
from testbed.fake_worker import DEFAULT_MODEL, FakeWorker
from testbed.waiting import until

HEADERS = {"Authorization": "Bearer hr_k"}


@pytest.fixture
async def connect() -> AsyncIterator[Callable[[Replica], httpx.AsyncClient]]:
    async with AsyncExitStack() as stack:
        made = [httpx.AsyncClient(headers=HEADERS, timeout=20) for _ in range(2)]
        for client in made:
            await stack.enter_async_context(client)

        def connect(replica: Replica) -> httpx.AsyncClient:
            client = made.pop()
            client.base_url = httpx.URL(replica.url)
            return client

        yield connect


Connect = Callable[[Replica], httpx.AsyncClient]


async def test_one_stream_too_many_is_refused_at_every_door_and_starts_no_task(
    start_replica: StartReplica, worker: FakeWorker, connect: Connect
) -> None:
    replica = await start_replica(api_keys=key_file("k", limits={"openStreams": 1}), redis_timeout=30)
    http, task_id = connect(replica), await worker.begin(tenant="t")
    async with http.stream("GET", f"/stream/{task_id}") as first:
        assert first.status_code == 200
        lines = first.aiter_lines()  # dropped, it would close the connection
        await anext(lines)
        refused = await http.get(f"/stream/{task_id}")
        error = refused.json()["error"]
        assert (refused.status_code, error["code"], error["data"]["limit"]) == (429, -32004, "openStreams")
        assert int(refused.headers["Retry-After"]) >= 1
        before = await replica.backend.lists.load(DEFAULT_MODEL)
        for path, body in ANSWERING_DOORS:
            for stream in (True, False):
                reply = await http.post(path, json=body | {"stream": stream})
                assert reply.status_code == 429, path
                assert "1 streams of this API key are open" in reply.text
                assert path == "/v1/messages" or reply.json()["error"]["code"] == "rate_limit_exceeded"
        assert await replica.backend.lists.load(DEFAULT_MODEL) == before
    await until(lambda: not replica.backend.metrics.open_streams._value.get(), 10, "the stream is closed")
    async with http.stream("GET", f"/stream/{task_id}") as again:
        assert again.status_code == 200


async def test_an_old_stream_is_closed_and_goes_on_behind_its_last_event(
    start_replica: StartReplica, worker: FakeWorker, connect: Connect
) -> None:
    replica = await start_replica(max_stream_seconds=0.3, redis_timeout=30)
    http, task_id = connect(replica), await worker.begin()
    await worker.say(task_id, "a")
    first = (await http.get(f"/stream/{task_id}")).text
    assert first.rstrip().splitlines()[-1].startswith("retry: ")
    assert "event: end" not in first
    last = [line for line in first.splitlines() if line.startswith("id: ")][-1].removeprefix("id: ")
    await worker.say(task_id, "b")
    await worker.end(task_id)
    rest = (await http.get(f"/stream/{task_id}", headers={"Last-Event-ID": last})).text
    assert '"text":"b"' in rest
    assert '"text":"a"' not in rest
    assert "event: end" in rest


async def test_an_old_stream_of_a_stored_response_says_so_and_another_one_goes_on(
    start_replica: StartReplica, worker: FakeWorker, connect: Connect
) -> None:
    replica = await start_replica(max_stream_seconds=0.3, redis_timeout=30)
    http = connect(replica)
    told = (await http.post("/v1/responses", json={"model": DEFAULT_MODEL, "input": "hi", "stream": True})).text
    events = [json.loads(line.removeprefix("data: ")) for line in told.splitlines() if line.startswith("data: {")]
    assert events[-1]["type"] == "error"
    assert "Go on behind the last event" in events[-1]["message"]
    response_id = events[0]["response"]["id"]
    number = events[-2]["sequence_number"]
    task_id = str(uuid.UUID(response_id.removeprefix("resp_")))
    await worker.claim(task_id)
    await worker.say(task_id, "b")
    await worker.complete(task_id, "b")
    rest = await http.get(f"/v1/responses/{response_id}", params={"stream": "true", "starting_after": number})
    assert "response.completed" in rest.text
    assert "response.created" not in rest.text


@pytest.mark.parametrize(("path", "body"), ANSWERING_DOORS)
@pytest.mark.parametrize("stream", [True, False])
async def test_the_streams_of_a_revoked_key_end_at_every_door(
    start_replica: StartReplica,
    connect: Connect,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    path: str,
    body: dict[str, Any],
    stream: bool,
) -> None:
    monkeypatch.setattr(key_ring, "LOOK_SECONDS", 0.05)
    file = tmp_path / "keys.json"
    file.write_text(json.dumps(key_file("k", "other")))
    replica = await start_replica(api_keys=file, redis_timeout=30)
    http = connect(replica)

    async def answered() -> httpx.Response:
        return await http.post(path, json=body | {"stream": stream})

    asked = asyncio.create_task(answered())
    await until(lambda: replica.backend.metrics.open_streams._value.get() == 1, 10, "the stream is open")
    file.write_text(json.dumps(key_file("other")))
    reply = await asyncio.wait_for(asked, 10)
    assert "This API key was revoked, or has expired." in reply.text
    assert reply.status_code == (200 if stream else 401)


async def test_a_revoked_key_ends_streams_by_cursor_and_what_its_tokens_open(
    start_replica: StartReplica, worker: FakeWorker, connect: Connect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(key_ring, "LOOK_SECONDS", 0.05)
    file = tmp_path / "keys.json"
    file.write_text(json.dumps(key_file("k", "other")))
    replica = await start_replica(api_keys=file, redis_timeout=30)
    http, task_id = connect(replica), await worker.begin(tenant="t")
    call = {"jsonrpc": "2.0", "id": 1, "method": "stream_token", "params": {"taskId": task_id}}
    token = (await http.post("/rpc", json=call)).json()["result"]["streamToken"]
    bare = {"Authorization": "Bearer hr_other"}
    async with (
        http.stream("GET", f"/stream/{task_id}") as by_key,
        httpx.AsyncClient(base_url=replica.url, timeout=20) as without_key,
        without_key.stream("GET", f"/stream/{task_id}", params={"stream_token": token}) as by_token,
        without_key.stream("GET", f"/stream/{task_id}", headers=bare) as of_other,
    ):
        assert (by_key.status_code, by_token.status_code, of_other.status_code) == (200, 200, 200)
        file.write_text(json.dumps(key_file("other")))
        for ended in (by_key, by_token):
            text = await ended.aread()
            assert b"event: end" not in text
        assert (await without_key.get(f"/stream/{task_id}", params={"stream_token": token})).status_code == 401
        await worker.end(task_id)
        assert b"event: end" in await of_other.aread()
