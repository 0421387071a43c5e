"""One reader's way through one stream: what is ready for it, and how it finds what it missed."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from itertools import groupby

from redis.exceptions import RedisError

from shared.store.event_stream import Entry, EntryId, EntryLost
from shared.wire.schemas import EndEvent, ErrorEvent

log = logging.getLogger(__name__)

PAGE = 256
"""Entries that one read of a stream returns."""
BUFFER_BYTES = 64 * 1024
"""What waits in memory for one reader; a slower one is served from the stream."""
RETRY_SECONDS = 0.5
"""Between two tries to read while Redis does not answer."""


@dataclass(slots=True)
class Frame:
    """One event, framed once for all its readers."""

    id: bytes
    type: bytes
    data: bytes
    """The event's JSON."""
    wire: bytes
    """The event as Server-Sent Events spell it."""


def framed(entry_id: bytes, kind: bytes, data: bytes) -> Frame:
    """The frame of one event; `data` is one line."""
    return Frame(entry_id, kind, data, b"id: %b\nevent: %b\ndata: %b\n\n" % (entry_id, kind, data))


class Subscription:
    """One reader's way through one stream: `async for frames in subscription` yields what is ready, up to `end`.

    It is up to date (the doorbell's messages follow each other without a gap) or behind (it reads the stream, page by
    page, as fast as its reader takes them). What waits for a slow reader is dropped: it is in the stream.
    """

    __slots__ = ("_behind", "_closed", "_frames", "_last", "_late", "_leave", "_merge", "_on_slow", "_read",
                 "_ready", "_size", "_taken", "_waker", "task_id")  # fmt: skip

    def __init__(
        self,
        task_id: str,
        after: EntryId,
        *,
        ready: Callable[[], Awaitable[None]],
        read: Callable[[str, EntryId, int], Awaitable[list[Entry]]],
        leave: Callable[["Subscription"], None],
        on_slow: Callable[[], None],
    ) -> None:
        """`ready` returns when announcements are heard, `read` reads a page, `leave` is called once, at the end.

        `on_slow` is called whenever what waits for the reader is dropped.
        """
        self.task_id = task_id
        self._ready = ready
        self._read = read
        self._leave = leave
        self._on_slow = on_slow
        self._last = self._taken = str(after).encode()
        """Newest entry that stands in the queue, or stood there; the newest one that the reader took."""
        self._frames: list[Frame] = []
        self._size = 0
        self._behind = True
        self._merge = False
        self._late: list[tuple[bytes, Frame]] | None = None
        """While the stream is read: announcements that arrive meanwhile."""
        self._closed = False
        self._waker: asyncio.Future[None] | None = None

    async def __aiter__(self) -> AsyncIterator[list[Frame]]:
        try:
            await self._ready()
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
            self._leave(self)
            self._wake()

    def add(self, kind: bytes, data: bytes) -> bool:
        """An event of this process alone, under the id of the last entry: a resume behind it misses nothing.

        False when the subscription is behind, or over: nothing is said between entries that are still to come.
        """
        if self._behind or self._closed:
            return False
        self._frames.append(framed(self._last, kind, data))
        self._wake()
        return True

    def add_wire(self, wire: bytes) -> None:
        """Bytes for the connection that are no event, such as a comment."""
        if not self._closed:
            self._frames.append(Frame(self._last, b"", b"", wire))
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
            self._behind = self._merge = True
            self._on_slow()
            return
        self._last = frame.id
        self._frames.append(frame)
        self._wake()

    @property
    def behind(self) -> bool:
        """True while it reads the stream itself."""
        return self._behind

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
            entries = await self._read(self.task_id, _parse(self._last), PAGE)
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
        frames = _frames(entries, merge=self._merge)
        if entries:
            self._last = self._taken = str(entries[-1].id).encode()
        if len(entries) < PAGE:
            self._behind = self._merge = False
            for previous, frame in late:
                self.offer(previous, frame)
        return frames


def _parse(entry_id: bytes) -> EntryId:
    return EntryId.parse(entry_id.decode())


def _frames(entries: Sequence[Entry], *, merge: bool) -> list[Frame]:
    """Frames of the entries that show something; with `merge`, tokens in a row become one event."""
    frames: list[Frame] = []
    shown = [entry for entry in entries if entry.data]
    for kind, run in groupby(shown, key=lambda entry: entry.type):
        same = list(run)
        if merge and kind == "token" and len(same) > 1:
            texts = [json.loads(entry.data) for entry in same]
            merged = texts[-1] | {"text": "".join(text["text"] for text in texts)}
            data = json.dumps(merged, ensure_ascii=False, separators=(",", ":")).encode()
            same = [Entry(same[-1].id, kind, data)]
        frames += [framed(str(entry.id).encode(), kind.encode(), entry.data) for entry in same]
    return frames
