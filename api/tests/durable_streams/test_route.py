"""`/v1/streams/{task_id}`: what the Durable Streams protocol says of reading, and its own Python client."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Literal

import httpx
import pytest
from durable_streams import RetentionGoneError, StreamNotFoundError, astream
from redis.asyncio import Redis

from api.hub.subscription import PAGE
from shared.store.keys import Keys
from testbed.api_app import rpc
from testbed.api_replica import Replica, StartReplica
from testbed.fake_worker import FakeWorker
from testbed.waiting import until

Live = Literal["long-poll", "sse"]


@asynccontextmanager
async def client_of(replica: Replica) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=f"{replica.url}/v1/streams/", timeout=10) as http:
        yield http


def types(events: list[dict[str, Any]]) -> list[str]:
    return [event["type"] for event in events]


async def test_a_log_is_caught_up_with_until_it_is_closed(start_replica: StartReplica, worker: FakeWorker) -> None:
    replica = await start_replica()
    task_id = await worker.begin()
    await worker.say(task_id, "a", "b")
    async with client_of(replica) as http:
        first = await http.get(task_id)
        assert (first.status_code, first.headers["content-type"]) == (200, "application/json")
        assert types(first.json()) == ["status", "status", "token", "token"]
        assert first.headers["stream-up-to-date"] == "true"
        assert "stream-closed" not in first.headers
        assert first.headers["cache-control"] == "private, no-cache"
        tail = first.headers["stream-next-offset"]
        assert (await http.get(task_id, params={"offset": "-1"})).content == first.content
        nothing = await http.get(task_id, params={"offset": tail})
        assert (nothing.json(), nothing.headers["stream-next-offset"]) == ([], tail)
        now = await http.get(task_id, params={"offset": "now"})
        assert (now.json(), now.headers["stream-next-offset"]) == ([], tail)
        assert (now.headers["cache-control"], "etag" in now.headers) == ("no-store", False)
        await worker.end(task_id)
        rest = await http.get(task_id, params={"offset": tail})
        assert types(rest.json()) == ["final_text", "status", "end"]
        assert rest.headers["stream-closed"] == "true"
        end = rest.headers["stream-next-offset"]
        assert end > tail
        for offset in (end, "now"):
            closed = await http.get(task_id, params={"offset": offset})
            assert (closed.json(), closed.headers["stream-next-offset"]) == ([], end)
            assert closed.headers["stream-closed"] == closed.headers["stream-up-to-date"] == "true"


async def test_a_head_says_where_the_log_ends(start_replica: StartReplica, worker: FakeWorker) -> None:
    replica = await start_replica()
    task_id = await worker.begin()
    async with client_of(replica) as http:
        running = await http.head(task_id)
        assert running.headers["content-type"] == "application/json"
        assert running.headers["cache-control"] == "no-store"
        assert "stream-closed" not in running.headers
        await worker.end(task_id)
        ended = await http.head(task_id)
        assert ended.headers["stream-closed"] == "true"
        assert ended.headers["stream-next-offset"] > running.headers["stream-next-offset"]
        assert not ended.content
        for verb in ("PUT", "POST", "DELETE"):
            assert (await http.request(verb, task_id)).status_code == 405


async def test_a_long_log_comes_page_by_page(start_replica: StartReplica, worker: FakeWorker) -> None:
    replica = await start_replica()
    task_id = await worker.begin()
    await worker.say(task_id, *(f"{number} " for number in range(PAGE)))
    await worker.end(task_id)
    async with client_of(replica) as http:
        first = await http.get(task_id)
        assert len(first.json()) == PAGE
        assert not {"stream-up-to-date", "stream-closed"} & set(first.headers)
        rest = await http.get(task_id, params={"offset": first.headers["stream-next-offset"]})
        assert rest.headers["stream-closed"] == "true"
        assert types(first.json() + rest.json()) == ["status"] * 2 + ["token"] * PAGE + ["final_text", "status", "end"]


async def test_what_a_client_has_is_not_sent_again(start_replica: StartReplica, worker: FakeWorker) -> None:
    replica = await start_replica()
    task_id = await worker.begin()
    async with client_of(replica) as http:
        first = await http.get(task_id)
        again = {"If-None-Match": f'"other", {first.headers["etag"]}'}
        same = await http.get(task_id, headers=again)
        assert (same.status_code, same.content) == (304, b"")
        tail = {"offset": first.headers["stream-next-offset"]}
        open_tail = (await http.get(task_id, params=tail)).headers["etag"]
        await worker.end(task_id)
        assert (await http.get(task_id, headers=again)).status_code == 200
        assert (await http.get(task_id, params=tail, headers={"If-None-Match": open_tail})).status_code == 200
        end = (await http.head(task_id)).headers["stream-next-offset"]
        assert ":c" in (await http.get(task_id, params={"offset": end})).headers["etag"]


async def test_a_long_poll_waits_for_the_next_event(
    start_replica: StartReplica, worker: FakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    replica = await start_replica()
    task_id = await worker.begin()
    async with client_of(replica) as http:
        there = await http.get(task_id, params={"offset": "-1", "live": "long-poll"})
        assert types(there.json()) == ["status", "status"]
        assert there.headers["stream-up-to-date"] == "true"
        tail = {"offset": there.headers["stream-next-offset"], "live": "long-poll"}
        for wanted in (tail, {"offset": "now", "live": "long-poll"}):
            waiting = asyncio.create_task(http.get(task_id, params=wanted))
            await until(lambda: replica.backend.metrics.open_streams._value.get() == 1, 5, "it waits")
            await worker.say(task_id, "a")
            came = await waiting
            assert types(came.json()) == ["token"]
        tail["offset"] = came.headers["stream-next-offset"]
        monkeypatch.setattr("api.durable_streams.route.LONG_POLL_SECONDS", 0.1)
        nothing = await http.get(task_id, params=tail)
        assert (nothing.status_code, nothing.content) == (204, b"")
        assert nothing.headers["stream-next-offset"] == tail["offset"]
        assert nothing.headers["stream-up-to-date"] == "true"
        assert "stream-closed" not in nothing.headers
        tail["cursor"] = nothing.headers["stream-cursor"]
        assert int((await http.get(task_id, params=tail)).headers["stream-cursor"]) > int(tail["cursor"])
        await worker.end(task_id)
        last = await http.get(task_id, params=tail)
        assert (types(last.json()), last.headers["stream-closed"]) == (["final_text", "status", "end"], "true")
        for offset in (last.headers["stream-next-offset"], "now"):
            closed = await http.get(task_id, params={"offset": offset, "live": "long-poll"})
            assert (closed.status_code, closed.headers["stream-closed"]) == (204, "true")


async def events_of(response: httpx.Response) -> list[tuple[str, Any]]:
    """Type and data of every event up to the end of the reply."""
    blocks = [block for block in (await response.aread()).decode().split("\n\n") if "data: " in block]
    return [
        (kind.removeprefix("event: "), json.loads(data.removeprefix("data: ")))
        for kind, data in (block.split("\n") for block in blocks)
    ]


@pytest.mark.parametrize("offset", ["-1", "now"])
async def test_a_tail_follows_with_the_offset_behind_each_batch(
    start_replica: StartReplica, worker: FakeWorker, offset: str
) -> None:
    replica = await start_replica()
    task_id = await worker.begin()
    async with client_of(replica) as http:
        async with http.stream("GET", task_id, params={"offset": offset, "live": "sse"}) as response:
            assert response.headers["content-type"].startswith("text/event-stream")
            await until(lambda: replica.backend.metrics.open_streams._value.get() == 1, 5, "it reads")
            await worker.say(task_id, "a")
            await worker.end(task_id)
            told = await events_of(response)
        if offset == "now":
            kind, first = told.pop(0)
            assert (kind, set(first)) == ("control", {"streamNextOffset", "streamCursor", "upToDate"})
        assert [kind for kind, _ in told] == ["data", "control"] * (len(told) // 2)
        said = [event for kind, data in told if kind == "data" for event in data]
        before = ["status"] * 2 if offset == "-1" else []
        assert types(said) == [*before, "token", "final_text", "status", "end"]
        assert all({"streamNextOffset", "streamCursor"} <= set(data) for _, data in told[1:-1:2])
        end = (await http.head(task_id)).headers["stream-next-offset"]
        closed = ("control", {"streamNextOffset": end, "streamClosed": True, "upToDate": True})
        assert told[-1] == closed
        for tail in (end, "now"):
            async with http.stream("GET", task_id, params={"offset": tail, "live": "sse"}) as response:
                assert await events_of(response) == [closed]


@pytest.mark.parametrize("live", ["long-poll", "sse"])
async def test_its_own_client_goes_on_at_another_replica(
    start_replica: StartReplica, worker: FakeWorker, live: Live
) -> None:
    first, second = await start_replica(), await start_replica()
    task_id = await worker.begin()
    await worker.say(task_id, "a", "b")
    read: list[dict[str, Any]] = []
    offset = "-1"

    async def read_on(replica: Replica, until_text: str) -> None:
        nonlocal offset
        async with astream(f"{replica.url}/v1/streams/{task_id}", live=live, offset=offset) as response:
            async for batch in response.iter_events(mode="json_batches"):
                read.extend(batch.data)
                offset = batch.next_offset
                if until_text in (read[-1].get("text"), read[-1]["type"]):
                    return

    await read_on(first, "b")
    await worker.say(task_id, "c")
    await read_on(second, "c")
    await worker.end(task_id)
    await read_on(first, "end")
    assert types(read) == ["status", "status", "token", "token", "token", "final_text", "status", "end"]


@pytest.mark.parametrize(
    ("params", "fault"),
    [
        ({"offset": "1-2"}, "offset"),
        ({"offset": ""}, "offset"),
        ({"live": "sse"}, "offset"),
        ({"offset": "-1", "live": "yes"}, "live"),
    ],
)
async def test_what_is_wrong_is_named(
    start_replica: StartReplica, worker: FakeWorker, params: dict[str, str], fault: str
) -> None:
    replica = await start_replica()
    task_id = await worker.begin()
    async with client_of(replica) as http:
        reply = await http.get(task_id, params=params)
        assert (reply.status_code, reply.json()["error"]["param"]) == (400, fault)


async def test_an_offset_ahead_of_the_log_is_told(
    start_replica: StartReplica, worker: FakeWorker, redis: Redis, keys: Keys
) -> None:
    replica = await start_replica()
    task_id = await worker.begin()
    url = f"{replica.url}/v1/streams/{task_id}"
    ahead = "0000000001_0000000009"
    modes: list[Any] = [False, "long-poll", "sse"]
    for live in modes:
        with pytest.raises(RetentionGoneError):
            async with astream(url, offset=ahead, live=live):
                pass
    await redis.delete(keys.events(task_id))
    with pytest.raises(RetentionGoneError):
        async with astream(url, live=False):
            pass


async def test_a_task_is_read_by_its_own_tenant_and_with_a_stream_token(
    start_replica: StartReplica, worker: FakeWorker
) -> None:
    replica = await start_replica(api_keys={"a": "ann", "b": "bob"})
    async with httpx.AsyncClient(base_url=replica.url, timeout=10) as http:
        task_id = (await rpc(http, "create_message", {"message": "hi"}, key="a"))["result"]["taskId"]
        token = (await rpc(http, "stream_token", {"taskId": task_id}, key="a"))["result"]["streamToken"]
    url = f"{replica.url}/v1/streams/{task_id}"
    asks: list[dict[str, Any]] = [{"headers": {"Authorization": "Bearer a"}}, {"params": {"stream_token": token}}]
    for ask in asks:
        async with astream(url, live=False, **ask) as response:
            assert types(await response.read_json()) == ["status"]
    with pytest.raises(StreamNotFoundError):
        async with astream(url, live=False, headers={"Authorization": "Bearer b"}):
            pass
    for nobody in ({}, {"access_token": "a"}):
        async with client_of(replica) as http:
            assert (await http.get(task_id, params=nobody)).status_code == 401


async def test_a_task_that_must_have_a_reader_has_one_while_it_is_polled(
    start_replica: StartReplica, worker: FakeWorker, redis: Redis, keys: Keys
) -> None:
    replica = await start_replica()
    task_id = await worker.begin(cancel_on_disconnect=True)
    async with client_of(replica) as http:
        await redis.delete(keys.readers)
        await http.get(task_id, params={"offset": "-1", "live": "long-poll"})
        assert await redis.zscore(keys.readers, task_id) is not None
