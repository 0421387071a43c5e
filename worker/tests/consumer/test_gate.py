"""What gate.py takes from Celery and kombu; a failure here after an upgrade means: read it again."""

import contextlib
import inspect
import sys
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import celery
import kombu
import psutil
import pytest
from celery import Celery
from celery.worker import state
from celery.worker.consumer import Consumer
from kombu.transport import redis as kombu_redis
from kombu.transport import virtual

from shared.celery_app import send_task
from shared.store.outage import Outage
from testbed.valkey import Valkey
from worker.consumer.gate import ConsumerGate, let_requests_end_while_they_are_counted
from worker.consumer.reconnecting import reconnecting_consumer


def test_the_versions_are_the_ones_whose_faults_are_known() -> None:
    assert (celery.__version__, kombu.__version__) == ("5.6.3", "5.7.0")


def test_the_hooks_find_what_they_wrap() -> None:
    channel = inspect.getsource(kombu_redis.Channel)
    assert "self.handlers = {'BRPOP': self._brpop_read, 'LISTEN': self._receive}" in channel
    assert "_in_poll = False" in channel
    poller = inspect.getsource(kombu_redis.MultiChannelPoller)
    assert "chan.handlers[type]()" in poller
    assert "channel.qos.can_consume()" in poller
    of_channels = inspect.getsource(virtual.Channel)
    assert "self.qos.append(message, message.delivery_tag)" in of_channels
    assert "self.qos.ack(delivery_tag)" in of_channels
    assert "self.ensure_connected(" in inspect.getsource(Consumer.connection_for_read)
    assert issubclass(reconnecting_consumer(Outage()), Consumer)
    assert isinstance(state.reserved_requests, type(state.active_requests))


def _attached(may_take: list[bool]) -> tuple[ConsumerGate, Any]:
    gate = ConsumerGate(lambda: may_take[0])
    qos = virtual.QoS(SimpleNamespace(), prefetch_count=4)  # type: ignore[no-untyped-call]  # kombu types in parts
    qos._on_collect.cancel()
    channel = SimpleNamespace(qos=qos, handlers={"BRPOP": lambda: True}, _in_poll=None)
    gate.attach(_consumer(channel))
    return gate, channel


def test_nothing_is_taken_while_the_worker_is_not_ready_but_an_answer_on_its_way_is_let_in() -> None:
    may_take = [True]
    _, channel = _attached(may_take)
    assert channel.qos.can_consume()

    may_take[0] = False
    assert not channel.qos.can_consume()

    channel._in_poll = object()
    assert channel.qos.can_consume()


def test_a_consumer_that_gets_no_answers_is_stalled_and_a_paused_one_is_not() -> None:
    may_take = [True]
    gate, channel = _attached(may_take)
    gate.replied_at -= 100
    gate.tick()
    assert gate.stalled_seconds() > 90

    may_take[0] = False
    assert gate.stalled_seconds() < 90

    may_take[0] = True
    channel.handlers["BRPOP"]()
    assert gate.stalled_seconds() < 90


class Request:
    """Compared by identity, as Celery's are."""


@pytest.fixture
def eager_switches() -> Iterator[None]:
    """Threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def test_requests_begin_and_end_in_other_threads_while_they_are_counted(eager_switches: None) -> None:
    gate, channel = _attached([True])
    let_requests_end_while_they_are_counted()
    over = threading.Event()

    def pool() -> None:
        while not over.is_set():
            requests = [Request() for _ in range(50)]
            for request in requests:
                state.active_requests.add(request)
            for request in requests:
                state.active_requests.discard(request)

    threads = [threading.Thread(target=pool) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        counted = [gate.full for _ in range(3000)]
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert any(counted)
    assert not gate.full
    assert channel.qos.can_consume()


def _sockets(valkey: Valkey) -> int:
    """Open sockets of this process to the server, those included that only one side has closed."""
    connections = psutil.Process().net_connections("tcp")
    return sum(bool(one.raddr) and one.raddr.port == valkey.port for one in connections)


def test_what_is_at_work_is_recorded_by_nobody_but_the_ledger(app: Celery, valkey: Valkey) -> None:
    send_task(app, "t1", "m", "normal", {})
    with app.connection_for_read() as connection, valkey.client() as redis:
        channel = connection.default_channel
        _gate_of(channel)
        keys = set(redis.keys())
        message = channel.basic_get("m.normal")
        assert message is not None
        assert set(redis.keys()) == keys - {b"headrace:m.normal"}
        calls = redis.info("stats")["total_commands_processed"]
        message.ack()
        assert redis.info("stats")["total_commands_processed"] == calls + 1  # this question


def test_tasks_that_outlive_their_connections_are_put_back_by_nobody_and_leave_none_open(
    app: Celery, valkey: Valkey
) -> None:
    counts = []
    with contextlib.ExitStack() as stack:
        newest = stack.enter_context(app.connection_for_read())
        _gate_of(newest.default_channel)
        for number in range(3):
            send_task(app, f"t{number}", "m", "normal", {})
            message = newest.default_channel.basic_get("m.normal")
            valkey.stop()
            newest.collect()  # what Celery's consumer does when it loses the broker
            valkey.start()
            newest = stack.enter_context(app.connection_for_read())
            _gate_of(newest.default_channel)
            message.ack()
            with valkey.client() as redis:
                assert redis.llen("headrace:m.normal") == 0
            counts.append(_sockets(valkey))
    assert counts[1] == counts[2]


def _gate_of(channel: Any) -> ConsumerGate:
    gate = ConsumerGate(lambda: True)
    gate.attach(_consumer(channel))
    return gate


def _consumer(channel: Any) -> Any:
    return SimpleNamespace(
        hub=SimpleNamespace(on_tick=set(), call_soon=lambda call: call()),
        task_consumer=SimpleNamespace(channel=channel),
        pool=SimpleNamespace(num_processes=4),
    )
