"""Writes what an engine step produced for all its tasks in one round trip; keeps it while Redis is away."""

import asyncio
import logging
from collections.abc import Callable, Sequence

from redis.exceptions import RedisError, ResponseError

from shared.store.event_stream import EventStream, TokenWrite, TokenWriter
from shared.store.outage import level
from worker.panics import LEAVING
from worker.tasks.redis_retry import pauses

log = logging.getLogger(__name__)


class BrokenWriter(Exception):
    """A task's tokens cannot be written."""


class Emitter:
    """One writer for all tasks of this worker. What is added while a write is under way goes with the next one."""

    def __init__(
        self, stream: EventStream, on_lost: Callable[[TokenWriter], None], on_broken: Callable[[TokenWriter], None]
    ) -> None:
        """`on_lost` gets the writer whose stream refuses it: somebody else holds the task, or it has ended. `on_broken`
        gets one that cannot write what it was given, while its exception is handled."""
        self._stream = stream
        self._on_lost = on_lost
        self._on_broken = on_broken
        self._dirty: set[TokenWriter] = set()
        self._writing: set[TokenWriter] = set()
        self._broken: set[TokenWriter] = set()
        self._wake = asyncio.Event()
        self._written = asyncio.Condition()

    def mark(self, writer: TokenWriter) -> None:
        """Says that the task's writer has something new."""
        self._dirty.add(writer)
        self._wake.set()

    async def flush(self, writer: TokenWriter) -> None:
        """Returns when everything the writer was given is in its stream, or refused. Raises BrokenWriter."""
        self.mark(writer)
        async with self._written:
            await self._written.wait_for(lambda: writer not in self._dirty and writer not in self._writing)
        if writer in self._broken:
            self._broken.remove(writer)
            raise BrokenWriter(f"The stream of task {writer.task_id} is not complete.")

    async def run(self) -> None:
        """Writes for ever."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            self._writing, self._dirty = self._dirty, set()
            writes = {writer: write for writer in self._writing if (write := self._taken(writer)) is not None}
            for writer, taken in zip(writes, await self._write(list(writes.values())), strict=True):
                if isinstance(taken, ResponseError):
                    self._refused(writer, taken)
                elif not taken:
                    self._on_lost(writer)
            async with self._written:
                self._writing = set()
                self._written.notify_all()

    def _taken(self, writer: TokenWriter) -> TokenWrite | None:
        try:
            return writer.take()
        except LEAVING:
            raise
        except BaseException:
            self._broken.add(writer)
            self._on_broken(writer)
            return None

    def _refused(self, writer: TokenWriter, error: ResponseError) -> None:
        """Redis takes no entry of this task's; the others have nothing to do with it."""
        try:
            raise error
        except ResponseError:
            self._broken.add(writer)
            self._on_broken(writer)

    async def _write(self, writes: Sequence[TokenWrite]) -> list[bool | ResponseError]:
        """Tries until Redis takes the batch. What gathers meanwhile is bounded by the tasks' token limits."""
        pause = pauses()
        while True:
            try:
                return await self._stream.write(writes)
            except RedisError as error:
                log.log(level(error), "Redis does not take %d entries, they are kept: %s", len(writes), error)
                await asyncio.sleep(next(pause))
