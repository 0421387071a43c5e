"""The pub/sub connection, on a real Valkey."""

import asyncio
import logging
import os
import signal
from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis
from redis.exceptions import RedisError

from api.hub import doorbell
from api.hub.doorbell import Doorbell
from shared.cancellation import cancel_and_wait
from testbed.valkey import Valkey
from testbed.waiting import until


class Listener:
    """What the doorbell rings for."""

    def __init__(self, redis: Redis) -> None:
        self.heard: list[tuple[bytes, bytes]] = []
        self.joined: list[bytes] = []
        self.connections = 0
        self.bell = Doorbell(redis, on_message=self._ring, on_joined=self.joined.append, on_connected=self._connect)

    def _ring(self, channel: bytes, payload: bytes) -> None:
        self.heard.append((channel, payload))
        if payload == b"raise":
            raise KeyError("a fault of whoever listens")

    def _connect(self) -> None:
        self.connections += 1

    async def joins(self, channel: bytes) -> None:
        """Returns when nothing of the channel is missed any more."""
        before = len(self.joined)
        if not self.bell.join(channel):
            await until(lambda: channel in self.joined[before:])


@pytest.fixture
async def listener(redis: Redis) -> AsyncIterator[Listener]:
    listener = Listener(redis)
    running = asyncio.create_task(listener.bell.run())
    yield listener
    await cancel_and_wait(running)
    assert running.cancelled(), running.exception()


async def test_each_message_of_a_channel_rings_in_order(listener: Listener, redis: Redis) -> None:
    await listener.joins(b"a")
    sent = [b"%d" % number for number in range(500)]
    for payload in sent:
        await redis.publish("a", payload)
        await redis.publish("another", payload)
    await until(lambda: len(listener.heard) == len(sent))
    assert listener.heard == [(b"a", payload) for payload in sent]


async def test_a_channel_is_joined_once_and_left_for_good(listener: Listener, redis: Redis) -> None:
    await listener.joins(b"a")
    assert listener.bell.join(b"a")
    assert listener.joined == [b"a"]
    listener.bell.leave(b"a")

    async def left() -> bool:
        return dict(await redis.pubsub_numsub("a"))[b"a"] == 0

    await until(left)
    await listener.joins(b"b")
    assert not listener.bell.join(b"a"), "it is to be joined anew"
    await until(lambda: listener.joined == [b"a", b"b", b"a"])


async def test_payloads_of_any_bytes_and_sizes_arrive_whole(listener: Listener, redis: Redis) -> None:
    await listener.joins(b"a")
    payloads = [b"", b"\r\n$5\r\n", b"\x00\xff", b"x" * (3 * doorbell.READ_BYTES)]
    for payload in payloads:
        await redis.publish("a", payload)
    await until(lambda: [heard for _, heard in listener.heard] == payloads)


async def test_after_an_outage_every_channel_is_joined_again(
    listener: Listener, redis: Redis, valkey: Valkey, caplog: pytest.LogCaptureFixture
) -> None:
    await listener.joins(b"a")
    await listener.joins(b"b")
    caplog.set_level(logging.DEBUG, "api.hub.doorbell")
    await asyncio.to_thread(valkey.stop)
    await until(lambda: "no pub/sub connection" in caplog.text)
    assert not listener.bell.join(b"c"), "while nobody is there"
    await asyncio.to_thread(valkey.start)
    await until(lambda: sorted(listener.joined[2:]) == [b"a", b"b", b"c"])
    assert listener.connections == 2
    said = [record.levelno for record in caplog.records if record.name == "api.hub.doorbell"]
    assert set(said) == {logging.DEBUG}, "the outage is told elsewhere"

    async def published() -> bool:
        try:
            return await redis.publish("c", b"here again") == 1
        except RedisError:
            return False

    await until(published)
    await until(lambda: (b"c", b"here again") in listener.heard)


async def test_a_connection_that_redis_cuts_is_replaced(listener: Listener, redis: Redis, valkey: Valkey) -> None:
    await listener.joins(b"a")
    with valkey.client() as client:
        (ours,) = [each for each in client.client_list() if int(each["sub"]) == 1]
        client.client_kill_filter(_id=ours["id"])
    await until(lambda: listener.joined == [b"a", b"a"])


async def test_one_that_does_not_answer_is_given_up(
    redis: Redis, valkey: Valkey, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(doorbell, "PING_SECONDS", 0.1)
    impatient = Redis.from_url(valkey.url, socket_timeout=0.5)
    listener = Listener(impatient)
    running = asyncio.create_task(listener.bell.run())
    await listener.joins(b"a")
    caplog.set_level(logging.DEBUG, "api.hub.doorbell")
    os.kill(valkey.pid, signal.SIGSTOP)
    try:
        await until(lambda: "silent for" in caplog.text)
    finally:
        os.kill(valkey.pid, signal.SIGCONT)
    await until(lambda: listener.joined == [b"a", b"a"])
    await cancel_and_wait(running)
    await impatient.aclose()


async def test_a_fault_of_a_listener_is_logged_and_ends_nothing(
    listener: Listener, redis: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    await listener.joins(b"a")
    await redis.publish("a", b"raise")
    await until(lambda: listener.connections == 2)
    await until(lambda: listener.joined == [b"a", b"a"])
    assert "reading the pub/sub connection failed" in caplog.text
    await redis.publish("a", b"fine")
    await until(lambda: listener.heard[-1] == (b"a", b"fine"))
