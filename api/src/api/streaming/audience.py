"""All clients that read streams of this process: what they need beside their events."""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable

from redis.exceptions import RedisError
from sse_starlette import ServerSentEvent

from api.backend import Backend
from api.hub.readership import Readership
from api.hub.subscription import Subscription
from api.streaming.positions import tell_positions
from shared.wire.schemas import State

log = logging.getLogger(__name__)

TICK_SECONDS = 1.0
POSITIONS_SECONDS = 2.0
COMMENT = ServerSentEvent(comment="", sep="\n").encode()
RETRY_MILLISECONDS = 100, 1000
"""A client whose replica stops comes back after a random time between these, so that not all come at once."""


class Reader:
    """One open connection that reads a task's stream."""

    __slots__ = ("add", "cut", "ended", "gone", "model", "quiet_since", "required", "state", "stuck_since",
                 "subscription", "task", "task_id", "told")  # fmt: skip

    def __init__(self, subscription: Subscription, *, task_id: str, model: str, required: bool) -> None:
        """`required`: the task is cancelled when it has no reader."""
        self.subscription = subscription
        self.task_id = task_id
        self.model = model
        self.required = required
        self.add = subscription.add
        self.state: State | None = None
        self.told: tuple[int | None, str | None] = (None, None)
        self.quiet_since = asyncio.get_running_loop().time()
        """When something was last sent to it."""
        self.stuck_since: float | None = None
        """Since when it has not taken what is being sent to it."""
        self.task: asyncio.Task[None] | None = None
        self.cut = False
        """It took nothing for too long."""
        self.gone = False
        """The client has closed its connection."""
        self.ended = False
        """The client was given the end of the answer."""


class Audience:
    """Keeps quiet connections alive, cuts dead ones, tells who waits, marks who is needed, says farewell."""

    def __init__(self, backend: Backend, readership: Readership) -> None:
        self._backend = backend
        self._readership = readership
        self._readers: set[Reader] = set()
        self._leaving: set[asyncio.Task[None]] = set()

    async def join(self, reader: Reader) -> None:
        """A client begins to read."""
        self._readers.add(reader)
        self._backend.metrics.open_streams.inc()
        if self._backend.shutdown.is_set():
            self._farewell(reader)
        elif reader.required:
            await _unless_redis_is_away("mark a reader", self._readership.renew([reader.task_id]))

    def leave(self, reader: Reader, *, ended: bool) -> None:
        """A client has gone; `ended`: it saw the end."""
        self._readers.discard(reader)
        self._backend.metrics.open_streams.dec()
        if reader.required:
            mark = self._readership.forget([reader.task_id]) if ended else self._readership.left(reader.task_id)
            leaving = asyncio.create_task(_unless_redis_is_away("unmark a reader", mark))
            self._leaving.add(leaving)
            leaving.add_done_callback(self._leaving.discard)

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(_every(TICK_SECONDS, self._tick))
            group.create_task(_every(POSITIONS_SECONDS, self._tell_positions))
            group.create_task(_every(self._readership.renew_seconds, self._renew))
            await self._backend.shutdown.wait()
            for reader in list(self._readers):
                self._farewell(reader)

    async def _tick(self) -> None:
        now = asyncio.get_running_loop().time()
        settings = self._backend.settings
        for reader in self._readers:
            if reader.stuck_since is not None:
                if now - reader.stuck_since > settings.send_timeout and reader.task and not reader.cut:
                    log.info("cut a reader of task %s: it took nothing for %s s", reader.task_id, settings.send_timeout)
                    reader.cut = True
                    self._backend.metrics.slow_readers.labels("cut").inc()
                    reader.task.cancel()
            elif now - reader.quiet_since >= settings.comment_seconds:
                reader.quiet_since = now
                reader.subscription.add_wire(COMMENT)

    async def _tell_positions(self) -> None:
        if waiting := [reader for reader in self._readers if reader.state]:
            await tell_positions(self._backend, waiting)

    async def _renew(self) -> None:
        if required := {reader.task_id for reader in self._readers if reader.required}:
            await self._readership.renew(required)

    def _farewell(self, reader: Reader) -> None:
        pause = random.randint(*RETRY_MILLISECONDS)
        reader.subscription.add_wire(ServerSentEvent(retry=pause, sep="\n").encode())
        reader.subscription.close()


async def _every(seconds: float, act: Callable[[], Awaitable[None]]) -> None:
    """Acts again and again; a Redis that is away does not end it, and is logged once."""
    away = False
    while True:
        await asyncio.sleep(seconds)
        try:
            await act()
            away = False
        except (RedisError, OSError) as error:
            if not away:
                log.warning("readers get no news: %s", error)
            away = True
        except Exception:
            log.exception("looking after the readers failed")


async def _unless_redis_is_away(what: str, act: Awaitable[None]) -> None:
    try:
        await act
    except (RedisError, OSError) as error:
        log.warning("could not %s: %s", what, error)
