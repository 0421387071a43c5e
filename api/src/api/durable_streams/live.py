"""A task's log while it grows: a reader of it, and its events as Server-Sent Events of the protocol."""

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager

from fastapi.responses import Response
from pydantic_core import to_json
from starlette.types import Receive, Scope, Send

from api.durable_streams.offsets import cursor_behind, offset_of
from api.http.dependencies import disconnected
from api.hub.frame import Frame
from api.streaming.reader import Reader
from api.streaming.readers import Readers
from api.tenants.caller import Caller
from shared.store.event_stream import EntryId
from shared.store.task_record import TaskRecord


def following(
    readers: Readers, caller: Caller, record: TaskRecord, after: EntryId, receive: Receive
) -> AbstractAsyncContextManager[Reader]:
    """A reader of every entry behind `after`, each an event of its own."""
    return readers.following(
        lambda: disconnected(receive),
        task_id=record.task_id,
        model=record.model,
        required=record.state != "ended" and record.cancel_on_disconnect,
        caller=caller,
        resumable=True,
        after=after,
        whole=True,
    )


def as_array(events: Sequence[bytes]) -> bytes:
    """A JSON list of these, each of them JSON."""
    return b"[%b]" % b",".join(events)


class LiveStream(Response):
    """`data` and `control` events, until the task has ended, until the client or this process goes away.

    What this process alone says (places in the queue) stands in no log and has no offset: here it is not told. Nor is a
    loss of the log: whoever comes back with an offset that is gone hears of it.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        readers: Readers,
        caller: Caller,
        record: TaskRecord,
        after: EntryId,
        *,
        cursor: str | None,
        up_to_date: bool,
    ) -> None:
        """`cursor`: the one that the client sent. `up_to_date`: nothing stands behind `after` (yet)."""
        self.status_code = 200
        self.background = None
        self.init_headers({"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        self._readers = readers
        self._caller = caller
        self._record = record
        self._after = after
        self._cursor = cursor
        self._up_to_date = up_to_date

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends what there is and what comes. Raises TooManyStreams."""
        closed = self._up_to_date and self._record.state == "ended"
        if closed:
            await self._begin(send, closed=True)
        else:
            async with following(self._readers, self._caller, self._record, self._after, receive) as reader:
                await self._begin(send, closed=False)
                async for frames in reader.subscription:
                    reader.note(frames)
                    if body := self._wire(reader, frames):
                        reader.sending()
                        await send({"type": "http.response.body", "body": body, "more_body": True})
                        reader.sent()
        await send({"type": "http.response.body", "body": b""})

    async def _begin(self, send: Send, *, closed: bool) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        if self._up_to_date:
            first = self._control(str(self._after).encode(), up_to_date=True, closed=closed)
            await send({"type": "http.response.body", "body": first, "more_body": True})

    def _wire(self, reader: Reader, frames: Sequence[Frame]) -> bytes:
        asides = b"".join([frame.wire for frame in frames if not frame.type])  # comments, and when to come back
        events = [frame for frame in frames if frame.stored]
        if not events:
            return asides
        data = b"event: data\ndata: %b\n\n" % as_array([frame.data for frame in events])
        closed = events[-1].type == b"end"
        return asides + data + self._control(events[-1].id, reader.subscription.up_to_date, closed)

    def _control(self, last: bytes, up_to_date: bool, closed: bool) -> bytes:
        control: dict[str, str | bool] = {"streamNextOffset": offset_of(EntryId.parse(last.decode()))}
        if closed:
            control["streamClosed"] = True
        else:
            self._cursor = control["streamCursor"] = cursor_behind(self._cursor)
        if up_to_date or closed:
            control["upToDate"] = True
        return b"event: control\ndata: %b\n\n" % to_json(control)
