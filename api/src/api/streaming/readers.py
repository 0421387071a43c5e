"""All readers of this process: what their streams need beside their events."""

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from redis.exceptions import RedisError

from api.errors import ApiError, ReplicaStops, StreamTooOld, TooManyStreams, Unauthorized
from api.hub.event_hub import EventHub
from api.hub.frame import COMMENT, retry_in
from api.hub.reader_marks import ReaderMarks
from api.metrics import Metrics
from api.streaming.open_streams import OpenStreams
from api.streaming.positions import Positions
from api.streaming.reader import Reader
from api.tenants.caller import Caller
from shared.store.event_stream import START, EntryId
from shared.store.outage import level

log = logging.getLogger(__name__)

TICK_SECONDS = 1.0
POSITIONS_SECONDS = 2.0
RETRY_MILLISECONDS = 100, 1000
"""A client whose replica stops comes back after a random time between these, so that not all come at once."""


class Readers:
    """Keeps quiet streams alive, cuts dead readers, tells those who wait, marks their tasks as read, says farewell."""

    def __init__(
        self,
        hub: EventHub,
        marks: ReaderMarks,
        positions: Positions,
        *,
        comment_seconds: float,
        send_timeout: float,
        most_seconds: float,
        shutdown: asyncio.Event,
        streams: OpenStreams,
        holds: Callable[[Caller], bool],
        metrics: Metrics,
    ) -> None:
        """`comment_seconds`: of silence, after which a comment is sent. `send_timeout`: seconds after which a reader
        that takes nothing is cut. `most_seconds`: after which one that can go on elsewhere is told to; 0: never.
        `holds`: whether a caller's key is still one.
        """
        self._hub = hub
        self._marks = marks
        self._positions = positions
        self._comment_seconds = comment_seconds
        self._send_timeout = send_timeout
        self._shutdown = shutdown
        self._most_seconds = most_seconds
        self._streams = streams
        self._holds = holds
        self._metrics = metrics
        self._readers: set[Reader] = set()
        self._leaving: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def following(
        self,
        disconnected: Callable[[], Awaitable[None]],
        *,
        task_id: str,
        model: str,
        required: bool,
        caller: Caller,
        resumable: bool = False,
        after: EntryId = START,
        whole: bool = False,
    ) -> AsyncIterator[Reader]:
        """A reader of the task's events behind `after`, served by the current asyncio task.

        `resumable`: its client can go on elsewhere, behind the last event. `whole`: as `EventHub.follow` has it.

        Its subscription ends when the client goes away (`disconnected` returns then), its key is revoked, it is too
        old or this process stops; of the last three it knows which (`dismissed`). In it, a client that takes nothing
        for too long is cut off: what stands behind `following` runs all the same.
        Raises TooManyStreams; a task that must have a reader then has none.
        """
        try:
            self._streams.enter(caller)
        except TooManyStreams:
            if required:
                self._in_background("unmark a reader", self._marks.left(task_id))
            raise
        reader = Reader(
            self._hub.follow(task_id, after, whole=whole),
            model=model,
            required=required,
            caller=caller,
            resumable=resumable,
        )
        watch = asyncio.create_task(_until_gone(disconnected, reader))
        try:
            await self._join(reader)
            yield reader
        except asyncio.CancelledError:
            if not reader.cut:
                raise
        finally:
            self._streams.leave(caller)
            watch.cancel()
            reader.subscription.close()
            self._leave(reader)

    def check(self, caller: Caller) -> None:
        """For a door whose answer is read by who asks, before a task is started for it. Raises TooManyStreams."""
        self._streams.check(caller)

    async def _join(self, reader: Reader) -> None:
        self._readers.add(reader)
        self._metrics.open_streams.inc()
        if self._shutdown.is_set():
            self._farewell(reader, ReplicaStops())
        elif reader.required:
            await _unless_redis_is_away("mark a reader", self._marks.renew([reader.task_id]))

    def _leave(self, reader: Reader) -> None:
        self._readers.discard(reader)
        self._metrics.open_streams.dec()
        if reader.required:
            mark = self._marks.forget([reader.task_id]) if reader.ended else self._marks.left(reader.task_id)
            self._in_background("unmark a reader", mark)

    def _in_background(self, what: str, act: Awaitable[None]) -> None:
        leaving = asyncio.create_task(_unless_redis_is_away(what, act))
        self._leaving.add(leaving)
        leaving.add_done_callback(self._leaving.discard)

    async def left(self) -> None:
        """Returns when the marks of all readers that have left are as they should be, or Redis is away."""
        await asyncio.gather(*self._leaving)

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(_every(TICK_SECONDS, self._tick))
            group.create_task(_every(POSITIONS_SECONDS, self._tell_positions))
            group.create_task(_every(self._marks.renew_seconds, self._renew))
            await self._shutdown.wait()
            for reader in list(self._readers):
                self._farewell(reader, ReplicaStops())

    async def _tick(self) -> None:
        now = asyncio.get_running_loop().time()
        for reader in self._readers:
            self._dismiss(reader, now)
            if reader.stuck_since is not None:
                if now - reader.stuck_since > self._send_timeout and reader.connection and not reader.cut:
                    log.info("cut a reader of task %s: it took nothing for %s s", reader.task_id, self._send_timeout)
                    reader.cut = True
                    self._metrics.slow_readers.labels("cut").inc()
                    reader.connection.cancel()
            elif now - reader.quiet_since >= self._comment_seconds:
                reader.quiet_since = now
                reader.subscription.add_wire(COMMENT)

    def _dismiss(self, reader: Reader, now: float) -> None:
        """Closes it if its time is over. One whose client takes nothing is cut in the end."""
        if reader.dismissed is not None:
            return
        if not self._holds(reader.caller):
            self._metrics.streams_dismissed.labels("key").inc()
            reader.dismissed = Unauthorized("This API key was revoked, or has expired.")
            reader.subscription.close()
        elif reader.resumable and self._most_seconds and now - reader.opened > self._most_seconds * reader.patience:
            self._metrics.streams_dismissed.labels("age").inc()
            self._farewell(reader, StreamTooOld())

    async def _tell_positions(self) -> None:
        if waiting := [reader for reader in self._readers if reader.state]:
            await self._positions.tell(waiting)

    async def _renew(self) -> None:
        if required := {reader.task_id for reader in self._readers if reader.required}:
            await self._marks.renew(required)

    def _farewell(self, reader: Reader, why: ApiError) -> None:
        reader.dismissed = why
        reader.subscription.add_wire(retry_in(random.randint(*RETRY_MILLISECONDS)))
        reader.subscription.close()


async def _until_gone(disconnected: Callable[[], Awaitable[None]], reader: Reader) -> None:
    await disconnected()
    reader.gone = True
    reader.subscription.close()


async def _every(seconds: float, act: Callable[[], Awaitable[None]]) -> None:
    """Acts again and again; a Redis that is away does not end it."""
    while True:
        await asyncio.sleep(seconds)
        try:
            await act()
        except (RedisError, OSError) as error:
            log.log(level(error), "readers get no news: %s", error)
        except Exception:
            log.exception("looking after the readers failed")


async def _unless_redis_is_away(what: str, act: Awaitable[None]) -> None:
    try:
        await act
    except (RedisError, OSError) as error:
        log.log(level(error), "could not %s: %s", what, error)
