"""API replicas that die or stop, readers that are slow, gone, or come back with odd cursors."""

import asyncio
import functools
import signal
import socket
import time
from urllib.parse import urlsplit

import httpx
from redis.asyncio import Redis

from testbed.history import History, follow
from testbed.stack import Stack
from testbed.waiting import until


async def test_a_client_of_a_killed_replica_resumes_at_another(headrace: Stack) -> None:
    await headrace.start_api()
    await headrace.start_worker("scripted:?token_ms=20")
    undisturbed = await headrace.run(words=150)
    histories = [await headrace.submit(words=150) for _ in range(8)]
    followings = [await headrace.until_tokens(history, 5) for history in histories]
    headrace.apis[0].kill()
    await asyncio.gather(*followings)
    for history in histories:
        history.expected = undisturbed.text
        assert history.connections > 1
        assert {one.replica for one in history.seen} == set(headrace.urls)


async def test_a_replica_that_is_told_to_stop_says_farewell_and_closes_cleanly(headrace: Stack) -> None:
    await headrace.start_api()
    await headrace.start_worker("scripted:?token_ms=20")
    undisturbed = await headrace.run(words=150)
    history = await headrace.submit(words=150)
    history.expected = undisturbed.text
    url = f"{headrace.urls[0]}/stream/{history.task_id}"
    received = b""
    async with headrace.client.stream("GET", url) as response:
        async for chunk in response.aiter_raw():
            if not received.count(b"event: token"):
                headrace.apis[0].send(signal.SIGTERM)
            received += chunk
    # The loop above ended without httpx.RemoteProtocolError: the body was closed with its last chunk.
    last = received.decode().rstrip().splitlines()[-1]
    name, _, milliseconds = last.partition(":")
    assert name == "retry"
    assert 0 < int(milliseconds) <= 5000
    assert await headrace.apis[0].wait(10) == 0
    await follow(headrace.client, headrace.urls[1:], history, time.monotonic() + 30)
    assert history.state == "SUCCESS"


async def test_a_lost_doorbell_is_made_up_from_the_stream(headrace: Stack, redis: Redis) -> None:
    await headrace.start_worker("scripted:?token_ms=20")
    undisturbed = await headrace.run(words=150)
    history = await headrace.submit(words=150)
    history.expected = undisturbed.text
    following = await headrace.until_tokens(history, 5)
    for _ in range(3):
        await redis.client_kill_filter(_type="pubsub")
        goal = len(history.seen) + 1
        await until(functools.partial(_has_seen, history, goal), 3, "the stream goes on")
    await following
    assert history.state == "SUCCESS"


async def test_a_reader_that_reads_nothing_is_cut_and_the_others_do_not_notice(headrace: Stack) -> None:
    api = await headrace.start_api(HEADRACE_SEND_TIMEOUT_SECONDS="2")
    headrace.urls.pop(0)
    await headrace.start_worker("scripted:?token_ms=1&context=100000")
    history = await headrace.submit(words=4000)
    target = urlsplit(headrace.urls[0])
    dead = [socket.create_connection((target.hostname, target.port)) for _ in range(5)]
    for one in dead:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        one.sendall(f"GET /stream/{history.task_id} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    memory = _memory(api.pid)
    await headrace.follow(history)
    assert history.state == "SUCCESS"
    assert _memory(api.pid) - memory < 30_000_000
    for one in dead:
        one.close()


async def test_every_cursor_gets_its_documented_answer(headrace: Stack) -> None:
    await headrace.start_worker()
    history = await headrace.run()
    url = f"{headrace.urls[0]}/stream/{history.task_id}"

    async def answer(cursor: str) -> tuple[int, str]:
        reply = await headrace.client.get(url, headers={"Last-Event-ID": cursor})
        return reply.status_code, reply.text

    whole = await headrace.client.get(url)
    middle = history.of("token")[3].id
    status, rest = await answer(str(middle))
    assert status == 200
    assert whole.text.endswith(rest)
    assert f"id: {middle}\n" not in rest
    assert (await answer(str(history.seen[-1].id)))[0] == 204
    assert (await answer("garbage"))[0] == 400
    assert (await answer("99-1"))[0] == 410
    assert (await headrace.client.get(f"{headrace.urls[0]}/stream/nonsense")).status_code == 404


async def test_a_network_that_is_gone_without_a_word_frees_what_it_held(headrace: Stack, redis: Redis) -> None:
    await headrace.start_worker("scripted:?token_ms=20")
    histories: list[History] = [await headrace.submit(words=100) for _ in range(10)]
    async with httpx.AsyncClient() as client:
        for history in histories:
            request = client.build_request("GET", f"{headrace.urls[0]}/stream/{history.task_id}")
            response = await client.send(request, stream=True)
            await response.aclose()
    for history in histories:
        await headrace.follow(history)

    async def no_subscription() -> bool:
        return not await redis.pubsub_channels("*events*")

    await until(no_subscription, 10, "all subscriptions are gone")


def _has_seen(history: History, count: int) -> bool:
    return len(history.seen) >= count


def _memory(pid: int) -> int:
    """Resident bytes."""
    with open(f"/proc/{pid}/statm") as statm:
        return int(statm.read().split()[1]) * 4096
