"""The Celery application of both services, on a real Valkey."""

import asyncio
import json
from collections.abc import Iterator

import pytest
from celery import Celery
from kombu.exceptions import OperationalError
from pydantic import SecretStr
from redis.asyncio import Redis

from shared.celery_app import (
    QUEUE_CLASSES,
    TASK_NAME,
    MessageWriter,
    make_celery,
    own_queue_for,
    queue_for,
    send_task,
)
from shared.settings import SharedSettings
from testbed.valkey import Valkey


@pytest.fixture
def app(shared_settings: SharedSettings) -> Iterator[Celery]:
    app = make_celery(shared_settings)
    yield app
    app.close()


async def test_a_message_waits_in_the_queue_of_its_model_and_class(app: Celery, redis: Redis) -> None:
    await asyncio.to_thread(send_task, app, "t1", "org/a-1.5", "high", {"traceparent": "00-a-b-01"})
    message = json.loads(await redis.lindex("headrace:org/a-1.5.high", 0) or b"")
    assert (message["headers"]["id"], message["headers"]["task"]) == ("t1", TASK_NAME)
    assert message["headers"]["traceparent"] == "00-a-b-01"
    others = {key.decode() async for key in redis.scan_iter()} - {"headrace:org/a-1.5.high"}
    assert all(key.startswith("headrace:_kombu.") for key in others), "nothing outside of the prefix"


async def test_a_message_is_written_as_kombu_sends_it(app: Celery, redis: Redis) -> None:
    headers = {"traceparent": "00-a-b-01"}
    await asyncio.to_thread(send_task, app, "t1", "m", "low", headers)
    sent = json.loads(await redis.lindex("headrace:m.low", 0) or b"")
    writer = MessageWriter(app)
    first, second = (writer.write(task_id, "m", "low", headers) for task_id in ("t1", "t2"))
    written = json.loads(first.text)
    tags = [each["properties"].pop("delivery_tag") for each in (sent, written, json.loads(second.text))]
    assert len(set(tags)) == 3
    for each in (sent, written):
        del each["properties"]["reply_to"], each["headers"]["origin"]  # the thread's
    assert written == sent
    assert (first.queue, first.own_queues + "w1") == ("m.low", own_queue_for("m", "w1"))
    assert (json.loads(second.text)["headers"]["id"], await redis.llen("headrace:m.low")) == ("t2", 1)


def test_publishing_without_redis_raises_at_once(app: Celery, valkey: Valkey) -> None:
    valkey.stop()
    with pytest.raises(OperationalError):
        send_task(app, "t1", "m", "normal", {})


def test_queues_are_taken_from_in_the_order_of_their_classes() -> None:
    assert [queue_for("m", each) for each in QUEUE_CLASSES] == ["m.handover", "m.high", "m.normal", "m.low"]


def test_a_url_of_sentinels_asks_them_for_the_master() -> None:
    url = SecretStr("sentinel://127.0.0.1:26379;sentinel://127.0.0.1:26380/0")
    app = make_celery(SharedSettings(redis_url=url, redis_sentinel_service="ours"))
    assert app.conf.broker_transport_options["master_name"] == "ours"


def test_a_url_of_one_redis_does_not(app: Celery) -> None:
    assert "master_name" not in app.conf.broker_transport_options
