"""The way to the broker: late, down, or frozen, it never holds up its callers."""

import asyncio
import threading
from collections.abc import AsyncIterator

import pytest
from prometheus_client import CollectorRegistry, Counter

from api.publisher import THREADS, Publisher
from shared.celery_app import make_celery
from shared.settings import SharedSettings
from testbed.instruments import value_of
from testbed.valkey import Valkey


@pytest.fixture
def failures() -> Counter:
    return Counter("failures", "", registry=CollectorRegistry())


@pytest.fixture
async def publisher(shared_settings: SharedSettings, failures: Counter) -> AsyncIterator[Publisher]:
    publisher = Publisher(make_celery(shared_settings), timeout=10, failures=failures)
    yield publisher
    publisher.close()


async def test_a_message_that_the_broker_took_is_sent(publisher: Publisher, failures: Counter) -> None:
    await publisher.warm_up()
    assert await publisher.send("t1", "m", "normal", {})
    assert value_of(failures) == 0


async def test_without_a_broker_the_message_is_not_sent(
    publisher: Publisher, failures: Counter, valkey: Valkey
) -> None:
    valkey.stop()
    await publisher.warm_up()
    assert not await publisher.send("t1", "m", "normal", {})
    assert value_of(failures) == 1


async def test_more_messages_than_threads_on_a_silent_broker_all_give_up_in_time(
    shared_settings: SharedSettings, failures: Counter, monkeypatch: pytest.MonkeyPatch
) -> None:
    publisher = Publisher(make_celery(shared_settings), timeout=0.2, failures=failures)
    thaw = threading.Event()
    monkeypatch.setattr("api.publisher.send_task", lambda *_: thaw.wait(30))
    async with asyncio.timeout(10):
        sent = await asyncio.gather(*(publisher.send(f"t{number}", "m", "normal", {}) for number in range(3 * THREADS)))
    thaw.set()
    publisher.close()
    assert not any(sent)
    assert value_of(failures) == 3 * THREADS
