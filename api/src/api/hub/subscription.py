"""One reader's way through one stream: what is ready for it, and how it finds what it missed."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import KW_ONLY, InitVar, dataclass, field

from redis.exceptions import RedisError

from api.hub.frame import Frame, framed, frames_of
from shared.store.event_stream import Entry, EntryId, EntryLost
from shared.wire.schemas import EndEvent, ErrorEvent

log = logging.getLogger(__name__)

PAGE = 256
"""Entries that one read of a stream returns."""
BUFFER_BYTES = 64 * 1024
"""What waits in memory for one reader; a slower one is served from the stream."""
RETRY_SECONDS = 0.5
"""Between two tries to read while Redis does not answer."""


@dataclass(slots=True, eq=False)
class Subscription:
    """One reader's way through one stream: `async for frames in subscription` yields what is ready, up to `end`.

    It is up to date (the doorbell's messages follow each other without a gap) or behind (it reads the stream, page by
    page, as fast as its reader takes them). What waits for a slow reader is dropped: it is in the stream.
    """

    task_id: str
    after: InitVar[EntryId]
    _: KW_ONLY
    ready: Callable[[], Awaitable[None]]
    """Returns when announcements are heard."""
    read: Callable[[str, EntryId, int], Awaitable[list[Entry]]]
    """Reads a page of the task's stream: so many entries behind this one. Raises EntryLost."""
    leave: Callable[["Subscription"], None]
    """Called once, at the end."""
    on_slow: Callable[[], None]
    """Called whenever what waits for the reader is dropped."""
    whole: bool = False
    """Every entry is an event of its own, however slow the reader is: it counts them."""
    _last: bytes = field(init=False)
    """The newest entry that stands in the queue, or stood there."""
    _taken: bytes = field(init=False)
    """The newest entry that the reader took."""
    _frames: list[Frame] = field(default_factory=list, init=False)
    _size: int = field(default=0, init=False)
    _behind: bool = field(default=True, init=False)
    _merge: bool = field(default=False, init=False)
    _late: list[tuple[bytes, Frame]] | None = field(default=None, init=False)
    """While the stream is read: announcements that arrive meanwhile."""
    _closed: bool = field(default=False, init=False)
    _waker: asyncio.Future[None] | None = field(default=None, init=False)

    def __post_init__(self, after: EntryId) -> None:
        self._last = self._taken = str(after).encode()

    async def __aiter__(self) -> AsyncGenerator[list[Frame], None]:
        try:
            await self.ready()
            while True:
                if self._frames:
                    frames, self._frames, self._size = self._frames, [], 0
                    self._taken = self._last
                elif self._closed:
                    return
                elif self._behind:
                    frames = await self._catch_up()
                else:
                    frames = []
                    self._waker = asyncio.get_running_loop().create_future()
                    await self._waker
                if frames:
                    yield frames
                    if any(frame.type == b"end" for frame in frames):
                        return
        finally:
            self.close()

    def close(self) -> None:
        """Ends the iteration after what is ready now; safe to call again."""
        if not self._closed:
            self._closed = True
            self.leave(self)
            self._wake()

    def add(self, kind: bytes, data: bytes) -> bool:
        """An event of this process alone, under the id of the last entry: a resume behind it misses nothing.

        False when the subscription is behind, or over: nothing is said between entries that are still to come.
        """
        if self._behind or self._closed:
            return False
        frame = framed(self._last, kind, data)
        frame.stored = False
        self._frames.append(frame)
        self._wake()
        return True

    def add_wire(self, wire: bytes) -> None:
        """Bytes for the connection that are no event, such as a comment."""
        if not self._closed:
            self._frames.append(Frame(self._last, b"", b"", wire, stored=False))
            self._wake()

    def offer(self, previous: bytes, frame: Frame) -> None:
        """An announcement: taken if it is the next entry, else a reason to read the stream."""
        if self._behind:
            if self._late is not None and len(self._late) < PAGE:
                self._late.append((previous, frame))
            return
        if previous != self._last:
            # It was read from the stream already; or one between was missed, or had no text, or is lost: the stream
            # says which.
            if _parse(frame.id) > _parse(self._last):
                self.fall_behind()
            return
        self._size += len(frame.wire)
        if self._size > BUFFER_BYTES and self._frames:
            self._frames, self._size = [], 0
            self._last = self._taken
            self._behind, self._merge = True, not self.whole
            self.on_slow()
            return
        self._last = frame.id
        self._frames.append(frame)
        self._wake()

    @property
    def behind(self) -> bool:
        """True while it reads the stream itself."""
        return self._behind

    @property
    def up_to_date(self) -> bool:
        """True when nothing is known that its reader has not taken."""
        return not (self._behind or self._frames)

    @property
    def position(self) -> EntryId:
        """The last entry that it has."""
        return _parse(self._last)

    def fall_behind(self) -> None:
        """There is something in the stream that was not announced."""
        self._behind = True
        self._wake()

    def lose(self) -> None:
        """The stream, or the end of it that this reader has seen, is gone."""
        for event in (
            ErrorEvent(task_id=self.task_id, code="data_lost", message="The task's data was lost.", retryable=True),
            EndEvent(task_id=self.task_id, state="FAILURE"),
        ):
            self.add(event.type.encode(), event.model_dump_json(exclude_none=True).encode())

    def _wake(self) -> None:
        if self._waker is not None:
            waker, self._waker = self._waker, None
            if not waker.done():
                waker.set_result(None)

    async def _catch_up(self) -> list[Frame]:
        """The next page of the stream. Behind the last one the announcements go on."""
        self._late = []
        try:
            entries = await self.read(self.task_id, _parse(self._last), PAGE)
        except EntryLost:
            self._behind = False
            self.lose()
            return []
        except (RedisError, OSError) as error:
            log.debug("reading the stream of task %s failed: %s", self.task_id, error)
            await asyncio.sleep(RETRY_SECONDS)
            return []
        finally:
            late, self._late = self._late, None
        frames = frames_of(entries, merge=self._merge)
        if entries:
            self._last = self._taken = str(entries[-1].id).encode()
        if len(entries) < PAGE:
            self._behind = self._merge = False
            for previous, frame in late:
                self.offer(previous, frame)
        return frames


def _parse(entry_id: bytes) -> EntryId:
    return EntryId.parse(entry_id.decode())
