"""Streams over real sockets."""

import asyncio
import json
import socket
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from redis.asyncio import Redis

from shared.store.event_stream import CLOSED
from shared.store.task_id import new_task_id
from shared.store.task_ledger import TaskLedger
from shared.store.worker_registry import WorkerRegistry
from shared.wire.schemas import ModelCard
from testbed.api_replica import Replica, StartReplica
from testbed.fake_worker import FakeWorker
from testbed.valkey import Valkey
from testbed.waiting import until


class Stream:
    """An open stream, read event by event."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self.last_id = ""
        self.blocks: list[dict[str, str]] = []
        self._lines = response.aiter_lines()

    async def block(self, seconds: float = 5) -> dict[str, str]:
        """Fields of the next block, comments under the name `""`; empty when the stream has ended."""
        fields: dict[str, str] = {}
        async with asyncio.timeout(seconds):
            async for line in self._lines:
                if not line:
                    break
                name, _, value = line.partition(":")
                fields[name] = value.removeprefix(" ")
        self.last_id = fields.get("id", self.last_id)
        self.blocks.append(fields)
        return fields

    async def event(self, seconds: float = 5) -> dict[str, Any]:
        """Data of the next event."""
        async with asyncio.timeout(seconds):
            while True:
                block = await self.block(seconds)
                assert block, f"the stream has ended after {self.blocks}"
                if "data" in block:
                    event: dict[str, Any] = json.loads(block["data"])
                    assert event["type"] == block["event"]
                    return event

    async def rest(self, seconds: float = 5) -> list[dict[str, Any]]:
        """Data of all events up to the end of the response."""
        events = []
        async with asyncio.timeout(seconds):
            while block := await self.block(seconds):
                if "data" in block:
                    events.append(json.loads(block["data"]))
        return events


@asynccontextmanager
async def reading(replica: Replica, task_id: str, after: str = "", **params: str) -> AsyncIterator[Stream]:
    headers = {"Last-Event-ID": after} if after else {}
    async with httpx.AsyncClient(timeout=10) as http:
        url = f"{replica.url}/stream/{task_id}"
        async with http.stream("GET", url, headers=headers, params=params) as response:
            yield Stream(response)


async def get(replica: Replica, task_id: str, after: str = "", **params: str) -> httpx.Response:
    """For replies that end."""
    async with reading(replica, task_id, after, **params) as stream:
        await stream.response.aread()
        return stream.response


async def test_a_stream_begins_at_its_start_and_closes_behind_end(
    start_replica: StartReplica, worker: FakeWorker
) -> None:
    replica = await start_replica()
    task_id = await worker.accept()
    async with reading(replica, task_id) as stream:
        assert stream.response.status_code == 200
        assert stream.response.headers["content-type"].startswith("text/event-stream")
        assert stream.response.headers["cache-control"] == "no-store"
        assert stream.response.headers["x-accel-buffering"] == "no"
        assert await stream.event() == {"type": "status", "taskId": task_id, "state": "PENDING", "position": 1}
        await worker.claim(task_id)
        await worker.say(task_id, "Hel", "lo")
        await worker.end(task_id)
        events = await stream.rest()
    assert [event["type"] for event in events] == ["status", "token", "token", "final_text", "status", "end"]
    assert [event["text"] for event in events[1:3]] == ["Hel", "lo"]
    assert events[-1] == {"type": "end", "taskId": task_id, "state": "SUCCESS"}


async def test_a_resume_at_another_replica_gives_exactly_the_rest(
    start_replica: StartReplica, worker: FakeWorker
) -> None:
    first, second = await start_replica(), await start_replica()
    task_id = await worker.begin()
    async with reading(first, task_id) as stream:
        await worker.say(task_id, "a", "b", "c")
        while stream.last_id != "1-2":
            await stream.event()
    async with reading(second, task_id, after=stream.last_id) as stream:
        assert (await stream.event())["text"] == "c"
        await worker.say(task_id, "d")
        await worker.end(task_id)
        assert [event["type"] for event in await stream.rest()] == ["token", "final_text", "status", "end"]
    by_query = await get(second, task_id, lastEventId="1-3")
    assert by_query.text.startswith("id: 1-4\n")


async def test_every_kind_of_last_event_id_has_its_answer(
    start_replica: StartReplica, worker: FakeWorker, ledger: TaskLedger, redis: Redis
) -> None:
    replica = await start_replica()
    task_id = await worker.begin()
    await worker.say(task_id, "a")
    await ledger.requeue(task_id, 1, "handover")
    await worker.claim(task_id)
    await worker.say(task_id, "b")
    for wrong in ("garbage", "1", "1-x", "-1-1", "99999999999999999999-1"):
        reply = await get(replica, task_id, after=wrong)
        assert (reply.status_code, reply.json()["error"]["code"]) == (400, -32602), wrong
    for lost in ("2-3", "7-0", "0-9"):  # ahead of the stream, or in a hole that a failover left in it
        reply = await get(replica, task_id, after=lost)
        assert (reply.status_code, reply.json()["error"]["code"]) == (410, -32002), lost
    await worker.end(task_id)
    whole = (await get(replica, task_id)).text
    other_attempt = (await get(replica, task_id, after="1-1")).text
    assert whole.endswith(other_attempt)
    assert "RETRY" in other_attempt
    seen_all = await get(replica, task_id, after=f"2-{CLOSED + 3}")
    assert (seen_all.status_code, seen_all.content) == (204, b"")
    await redis.flushall()
    assert (await get(replica, task_id, after="1-1")).status_code == 410


async def test_unknown_expired_and_foreign_tasks_are_told_apart(
    start_replica: StartReplica, worker: FakeWorker
) -> None:
    replica = await start_replica()
    for unknown in (new_task_id(), "not-a-task", str(uuid.uuid4())):
        reply = await get(replica, unknown)
        assert reply.status_code == 404
        assert reply.json()["error"]["code"] == -32002
        assert reply.json()["error"]["data"]["retryable"] is False
    hour_ago = int((time.time() - 4000) * 1000)
    old = str(uuid.UUID(int=hour_ago << 80 | 7 << 76 | 2 << 62 | 1))
    assert (await get(replica, old)).status_code == 410
    foreign = await worker.accept(tenant="somebody else")
    assert (await get(replica, foreign)).status_code == 404


async def test_head_answers_with_headers_alone(start_replica: StartReplica, worker: FakeWorker) -> None:
    replica = await start_replica()
    task_id = await worker.begin()
    async with httpx.AsyncClient() as http:
        reply = await http.head(f"{replica.url}/stream/{task_id}")
        assert reply.status_code == 200
        assert reply.headers["content-type"].startswith("text/event-stream")
        assert (await http.head(f"{replica.url}/stream/{new_task_id()}")).status_code == 404


async def test_a_client_of_http_1_0_gets_everything_and_a_close(
    start_replica: StartReplica, worker: FakeWorker
) -> None:
    replica = await start_replica()
    task_id = await worker.begin()
    await worker.end(task_id, "REVOKED")
    incoming, outgoing = await asyncio.open_connection("127.0.0.1", replica.port)
    outgoing.write(f"GET /stream/{task_id} HTTP/1.0\r\n\r\n".encode())
    head, _, body = (await asyncio.wait_for(incoming.read(), 5)).partition(b"\r\n\r\n")
    outgoing.close()
    assert b"connection: close" in head
    assert b"id: 0-1\n" in body
    assert b'"type":"end"' in body


async def test_a_page_of_an_allowed_origin_may_read_streams(start_replica: StartReplica, worker: FakeWorker) -> None:
    replica = await start_replica(cors_origins=("https://chat.example",))
    url = f"{replica.url}/stream/{await worker.begin()}"
    # What the event-source polyfills, tracing and the SDKs of other APIs add.
    headers = "last-event-id,authorization,cache-control,x-requested-with,pragma,traceparent,x-stainless-lang"
    asks = {"Access-Control-Request-Method": "GET", "Access-Control-Request-Headers": headers}
    async with httpx.AsyncClient() as http:
        preflight = await http.options(url, headers={"Origin": "https://chat.example", **asks})
        assert preflight.status_code == 200
        assert preflight.headers["access-control-allow-origin"] == "https://chat.example"
        assert set(headers.split(",")) <= set(preflight.headers["access-control-allow-headers"].lower().split(","))
        assert "access-control-allow-credentials" not in preflight.headers
        head = await http.options(
            url, headers={"Origin": "https://chat.example", **asks, "Access-Control-Request-Method": "HEAD"}
        )
        assert head.status_code == 200
        refused = await http.options(url, headers={"Origin": "https://other.example", **asks})
        assert "access-control-allow-origin" not in refused.headers
        async with http.stream("GET", url, headers={"Origin": "https://chat.example"}) as response:
            assert response.headers["access-control-allow-origin"] == "https://chat.example"


async def test_spaces_around_a_last_event_id_are_not_part_of_it(
    start_replica: StartReplica, worker: FakeWorker
) -> None:
    replica = await start_replica()
    task_id = await worker.begin()
    await worker.say(task_id, "a", "b")
    await worker.end(task_id)
    rest = (await get(replica, task_id, after="1-1")).text
    for spaced in (b"1-1 ", b" 1-1", b"\t1-1 \t"):
        incoming, outgoing = await asyncio.open_connection("127.0.0.1", replica.port)
        outgoing.write(b"GET /stream/%s HTTP/1.0\r\nLast-Event-ID:%s\r\n\r\n" % (task_id.encode(), spaced))
        reply = (await asyncio.wait_for(incoming.read(), 5)).decode()
        outgoing.close()
        assert b" 200 " in reply.encode()[:20], spaced
        assert "id: 1-2" in reply
        assert "id: 1-1" not in reply
    assert (await get(replica, task_id, lastEventId=" 1-1 ")).text == rest
    blank = await get(replica, task_id, lastEventId="  ")
    assert blank.text == (await get(replica, task_id)).text


async def test_a_silent_stream_carries_comments(start_replica: StartReplica, worker: FakeWorker) -> None:
    replica = await start_replica(comment_seconds=0.1)
    task_id = await worker.begin()
    async with reading(replica, task_id) as stream:
        await stream.event()
        await stream.event()
        assert list(await stream.block()) == [""]
        await worker.say(task_id, "a")
        assert (await stream.event())["text"] == "a"


async def test_who_waits_is_told_its_position_and_why_nothing_happens(
    start_replica: StartReplica, worker: FakeWorker, registry: WorkerRegistry, card: ModelCard
) -> None:
    replica = await start_replica()
    first, second = await worker.accept(), await worker.accept()
    async with reading(replica, second) as stream:
        assert await stream.event() == {"type": "status", "taskId": second, "state": "PENDING"}
        told = await stream.event()
        assert (told["state"], told["position"], told["detail"]) == ("PENDING", 2, "no worker is ready")
        assert stream.last_id == "0-1"
        await registry.announce_starting("w1", card.name, "loading weights, 40 %")
        assert (await stream.event())["detail"] == "loading weights, 40 %"
        await registry.announce("w1", card)
        await worker.claim(first)
        told = await stream.event()
        assert told == {"type": "status", "taskId": second, "state": "PENDING", "position": 1}
        await worker.claim(second)
        assert (await stream.event())["state"] == "STARTED"
    async with reading(replica, second, after="0-1") as stream:
        assert (await stream.event())["state"] == "STARTED"


async def test_a_replica_that_stops_says_farewell_and_the_client_goes_on_elsewhere(
    start_replica: StartReplica, worker: FakeWorker
) -> None:
    first, second = await start_replica(), await start_replica()
    task_id = await worker.begin()
    async with reading(first, task_id) as stream:
        await worker.say(task_id, "a")
        while stream.last_id != "1-1":
            await stream.event()
        stopping = asyncio.create_task(first.stop())
        farewell = await stream.block()
        assert 100 <= int(farewell["retry"]) <= 1000
        assert await stream.rest() == []  # httpx raises when a chunked reply is cut off
        await stopping
    async with reading(second, task_id, after=stream.last_id) as stream:
        await worker.say(task_id, "b")
        assert (await stream.event())["text"] == "b"


async def test_a_client_that_reads_nothing_is_cut_and_others_are_not(
    start_replica: StartReplica, worker: FakeWorker
) -> None:
    replica = await start_replica(send_timeout=1)
    task_id = await worker.begin()
    with socket.socket() as dead:
        dead.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        dead.setblocking(False)
        await asyncio.get_running_loop().sock_connect(dead, ("127.0.0.1", replica.port))
        dead.send(f"GET /stream/{task_id} HTTP/1.1\r\nHost: h\r\n\r\n".encode())
        async with reading(replica, task_id) as stream:
            await stream.event()
            await until(lambda: readers(replica) == 2)
            others = asyncio.create_task(stream.rest(15))
            for _ in range(60):
                await worker.say(task_id, "x" * 100_000)
            await until(lambda: readers(replica) == 1, seconds=8)
            await worker.end(task_id)
            assert (await others)[-1]["type"] == "end"


async def test_a_client_that_goes_away_leaves_nothing_behind(
    start_replica: StartReplica, worker: FakeWorker, redis: Redis
) -> None:
    replica = await start_replica()
    task_id = await worker.begin()
    before = asyncio.all_tasks()
    for _ in range(20):
        async with reading(replica, task_id) as stream:
            await stream.event()
    await until(lambda: readers(replica) == 0)
    await until(lambda: asyncio.all_tasks() <= before)

    async def nothing_is_listened_to() -> bool:
        return not await redis.pubsub_channels()

    await until(nothing_is_listened_to)


async def test_a_stream_outlives_a_restart_of_redis(
    start_replica: StartReplica, worker: FakeWorker, valkey: Valkey
) -> None:
    replica = await start_replica(comment_seconds=0.2)
    task_id = await worker.begin()
    async with reading(replica, task_id) as stream:
        await worker.say(task_id, "a")
        while stream.last_id != "1-1":
            await stream.event()
        await asyncio.to_thread(valkey.stop)
        assert list(await stream.block()) == [""]
        assert (await get(replica, task_id)).status_code == 503
        await asyncio.to_thread(valkey.start)
        await worker.say(task_id, "b")
        await worker.end(task_id)
        assert [event["type"] for event in await stream.rest()] == ["token", "final_text", "status", "end"]


async def test_lost_data_is_told_as_an_error(start_replica: StartReplica, worker: FakeWorker, redis: Redis) -> None:
    replica = await start_replica()
    task_id = await worker.begin()
    async with reading(replica, task_id) as stream:
        await stream.event()
        await redis.flushall()
        events = await stream.rest()
    assert [event["type"] for event in events[-2:]] == ["error", "end"]
    assert events[-2]["code"] == "data_lost"


@pytest.mark.parametrize("state", ["waiting", "running"])
async def test_a_task_that_asked_for_it_is_cancelled_when_its_last_reader_is_gone(
    start_replica: StartReplica, worker: FakeWorker, ledger: TaskLedger, redis: Redis, state: str
) -> None:
    options = {"resume_window_seconds": 0.6, "lease_seconds": 0.5}
    first, second = await start_replica(**options), await start_replica(**options)
    task_id = await worker.accept(cancel_on_disconnect=True)
    bystander = await worker.accept()
    if state == "running":
        await worker.claim(task_id)
    async with reading(second, bystander) as stream:
        await stream.event()
    async with reading(first, task_id) as stream:
        await stream.event()
        async with reading(second, task_id) as other:
            await other.event()
        await asyncio.sleep(2.5)  # the other reader's mark would have run out, and this one's was renewed
        assert not await cancelled(ledger, task_id)
    await until(lambda: cancelled(ledger, task_id), 6)
    assert not await cancelled(ledger, bystander)


async def cancelled(ledger: TaskLedger, task_id: str) -> bool:
    record = await ledger.get(task_id)
    assert record is not None
    if record.state == "ended":
        return record.wire_state == "REVOKED"
    # A running task is asked: its worker learns it from its next heartbeat.
    return (
        await ledger.heartbeat([(task_id, record.attempt)], lease_seconds=60) == ["cancel"]
        and record.state == "running"
    )


def readers(replica: Replica) -> int:
    return int(replica.backend.metrics.registry.get_sample_value("headrace_open_streams") or 0)
