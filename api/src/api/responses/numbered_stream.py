"""A task's log as its response's readers have it: whole, or as events behind a number."""

import json
from collections.abc import Iterator, Mapping
from contextlib import AbstractAsyncContextManager

from fastapi.responses import Response
from pydantic_core import to_json
from starlette.types import Receive, Scope, Send

from api.errors import ReplicaStops, failure_of
from api.http.dependencies import disconnected
from api.hub.frame import Frame
from api.responses.open_item import Json
from api.responses.progress import Progress
from api.streaming.reader import Reader
from api.streaming.readers import Readers
from api.tenants.caller import Caller

DONE = b"data: [DONE]\n\n"


class Followed:
    """One reader's way through the log of a response."""

    def __init__(
        self,
        readers: Readers,
        progress: Progress,
        *,
        model: str,
        required: bool,
        caller: Caller,
        resumable: bool = False,
    ) -> None:
        """`required`: the task is cancelled when it has no reader. `resumable`: its events can be read again."""
        self.progress = progress
        self._readers = readers
        self._model = model
        self._required = required
        self._caller = caller
        self._resumable = resumable

    def following(self, receive: Receive) -> AbstractAsyncContextManager[Reader]:
        """A reader of every entry, from the first one."""
        return self._readers.following(
            lambda: disconnected(receive),
            task_id=self.progress.task_id,
            model=self._model,
            required=self._required,
            caller=self._caller,
            resumable=self._resumable,
            whole=True,
        )

    async def to_end(self, receive: Receive) -> Reader:
        """Reads until the task has ended, the client is gone or this process stops; the reader knows which."""
        async with self.following(receive) as reader:
            async for frames in reader.subscription:
                reader.note(frames)
                for frame in frames:
                    if frame.stored:
                        self.progress.take(json.loads(frame.data))
                    elif frame.type == b"error":  # Redis has lost what this reader has seen
                        self.progress.failure = failure_of(json.loads(frame.data))
        return reader


class NumberedStream(Response):
    """The events as Server-Sent Events, from the first one or behind a number. They carry no `id:`: OpenAI's clients
    have their cursor in the events themselves, and trip over a field that others use.
    """

    media_type = "text/event-stream"

    def __init__(self, followed: Followed, headers: Mapping[str, str], *, after: int | None = None) -> None:
        """`after`: the number of the last event that the client has; None for none."""
        self.status_code = 200
        self.background = None
        self.init_headers({"Cache-Control": "no-store", "X-Accel-Buffering": "no", **headers})
        self._followed = followed
        self._after = -1 if after is None else after

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends events until the response has ended, until the client or this process goes away.

        Raises TooManyStreams.
        """
        async with self._followed.following(receive) as reader:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            async for frames in reader.subscription:
                reader.note(frames)
                if body := b"".join([wire for frame in frames for wire in self._wires(frame)]):
                    reader.sending()
                    await send({"type": "http.response.body", "body": body, "more_body": True})
                    reader.sent()
            rest = DONE
            if not reader.ended:
                rest = (
                    b""
                    if reader.gone
                    else _wire(self._followed.progress.broken_off(reader.dismissed or ReplicaStops()))
                )
            await send({"type": "http.response.body", "body": rest})

    def _wires(self, frame: Frame) -> Iterator[bytes]:
        progress = self._followed.progress
        if frame.stored:
            for event in progress.of_event(json.loads(frame.data)):
                number = event["sequence_number"]
                assert isinstance(number, int)
                if number > self._after:
                    yield _wire(event)
        elif frame.type == b"status":
            yield _wire(progress.waiting(json.loads(frame.data)))
        elif frame.type == b"error":  # Redis has lost what this reader has seen
            yield _wire(progress.broken_off(failure_of(json.loads(frame.data))))
        elif frame.wire.startswith(b":"):  # a comment; `retry:` is not for these clients
            yield frame.wire


def _wire(event: Json) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (str(event["type"]).encode(), to_json(event))
