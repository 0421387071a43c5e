"""Hooks into Celery's consumer: when it may take messages, proof that it does, and what it need not write down."""

import time
from collections.abc import Callable, Iterator
from typing import Any
from weakref import WeakSet

from celery import bootsteps
from celery.worker import state


class ConsumerGate:
    """What the consumer's thread may do and what it has done; read and written by other threads."""

    def __init__(self, may_take: Callable[[], bool]) -> None:
        self.may_take = may_take
        self.limit = 1
        """Most messages in hand."""
        now = time.monotonic()
        self.replied_at = now
        """When the broker last answered a request for work."""
        self.ticked_at = now
        """When the consumer's event loop last turned."""
        self._hub: Any = None
        self.connects = 0
        """How often the consumer has connected to the broker."""

    def tick(self) -> None:
        self.ticked_at = time.monotonic()

    @property
    def full(self) -> bool:
        # Celery forgets reserved requests when it reconnects, active ones it keeps.
        return len(set(state.reserved_requests) | set(state.active_requests)) >= self.limit

    def stalled_seconds(self) -> float:
        """How long this worker has not asked for work although it could have."""
        now = time.monotonic()
        turning = now - self.ticked_at
        return turning if self.full or not self.may_take() else max(turning, now - self.replied_at)

    def attach(self, consumer: Any) -> None:
        """Wraps a newly connected consumer."""
        self._hub = consumer.hub
        self.connects += 1
        consumer.hub.on_tick.add(self.tick)
        channel = consumer.task_consumer.channel
        qos = channel.qos
        can_consume, read = qos.can_consume, channel.handlers["BRPOP"]
        self.limit = consumer.pool.num_processes

        def gated() -> bool:
            # A request for work that is already out may be answered with a message: that one is let in.
            return bool(can_consume()) and (bool(channel._in_poll) or (self.may_take() and not self.full))

        def counted() -> Any:
            try:
                return read()
            finally:
                self.replied_at = time.monotonic()

        def unrecorded(*_: Any) -> None:
            """kombu's record of messages at work: two writes for each, only to bring them twice. The ledger has it."""

        qos.can_consume, qos.append, qos.ack = gated, unrecorded, unrecorded
        channel.handlers["BRPOP"] = counted

    def wake(self) -> None:
        """Lets the consumer's loop look again whether it may take messages."""
        if self._hub is not None:
            self._hub.call_soon(self.tick)


class IteratedByCopy(WeakSet[Any]):
    """A set that other threads may change while it is iterated over."""

    def __iter__(self) -> Iterator[Any]:
        # Copying a set is one step for the interpreter, iterating over it is not.
        references = self.data.copy()  # type: ignore[attr-defined]  # its type stub leaves it out
        return (item for reference in references if (item := reference()) is not None)


def let_requests_end_while_they_are_counted() -> None:
    """Celery's consumer, and `ConsumerGate.full`, iterate over its sets of requests while the pool's threads change
    them: now and then that was "Unrecoverable error: Set changed size during iteration", and the end of the worker.
    """
    for requests in (state.reserved_requests, state.active_requests):
        # Its methods are bound all over Celery, so that the sets cannot be replaced.
        requests.__class__ = IteratedByCopy


def gate_step(gate: ConsumerGate) -> type[bootsteps.StartStopStep]:
    """The bootstep that attaches `gate` after each connect."""

    class AttachGate(bootsteps.StartStopStep):  # type: ignore[misc]  # Celery has no types
        requires = ("celery.worker.consumer.tasks:Tasks",)

        def start(self, parent: Any) -> None:
            gate.attach(parent)

    return AttachGate
