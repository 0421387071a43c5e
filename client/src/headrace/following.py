"""Following one task's stream across dropped connections, without any I/O: where to go on, and when to give up."""

import time
from collections.abc import AsyncIterator, Iterator
from urllib.parse import quote

import httpx
from httpx_sse import ServerSentEvent
from pydantic import ValidationError

from headrace.backoff import delays
from headrace.errors import DeadlineExceeded, HeadraceError, NotHeadrace, TaskCancelled, TaskFailed, Unreachable
from headrace.events import EVENT, EVENT_TYPES, End, Event, Failure, FinalText, Outcome, ToolCalls
from headrace.rpc import adapt, refusal

IDLE_SECONDS = 45.0
"""The server sends a comment every 15 s; three of them missing means that the connection is dead."""
PATIENCE_SECONDS = 60.0
"""How long to look for a server that does not answer."""


class Following:
    """The position of one reader in one task's stream."""

    def __init__(self, task_id: str, last_event_id: str | None = None, within: float | None = None) -> None:
        """`within`: seconds until DeadlineExceeded, reconnects and all; None waits as long as the task takes."""
        self.task_id = task_id
        self.last_event_id = last_event_id
        self.path = f"stream/{quote(task_id, safe='')}"
        self.ended = False
        self._deadline = None if within is None else time.monotonic() + within
        self._heard = time.monotonic()
        self._delays = delays()
        self._retry: float | None = None

    @property
    def headers(self) -> dict[str, str]:
        """Request headers that continue behind the last event seen."""
        return {} if self.last_event_id is None else {"Last-Event-ID": self.last_event_id}

    def timeout(self) -> httpx.Timeout:
        """Bounds of the next connection."""
        return httpx.Timeout(10.0, read=min(IDLE_SECONDS, self._left()))

    def opens(self, response: httpx.Response) -> bool:
        """Whether the response carries events; raises the error it reports instead (its body must have been read)."""
        if response.status_code == httpx.codes.NO_CONTENT:
            self.ended = True
            return False
        if response.is_error:
            raise refusal(response)
        if not response.headers.get("content-type", "").startswith("text/event-stream"):
            raise NotHeadrace(f"{response.url} is no event stream", code=response.status_code, task_id=self.task_id)
        response.stream = _Watched(response.stream, self)
        return True

    def receive(self, message: ServerSentEvent) -> Event | None:
        """The event of one message; None for a farewell, and for types that this version does not know."""
        self._delays = delays()
        if message.retry is not None:
            self._retry = message.retry / 1000
        if message.event not in EVENT_TYPES:
            return None
        try:
            event = EVENT.validate_json(message.data)
        except ValidationError as error:
            raise NotHeadrace(f"The stream of {self.task_id} carries a broken event: {error}") from error
        self.last_event_id = message.id
        self.ended = isinstance(event, End)
        return event

    def hear(self) -> None:
        """Something arrived, if only a comment. Raises DeadlineExceeded when the caller's time is over."""
        self._heard = time.monotonic()
        self._check()

    def closed(self, error: httpx.TransportError | HeadraceError | None = None) -> float:
        """Seconds to wait before connecting again: what the server asked for, once, else a growing pause.

        `error` is what ended the connection, None for a clean end. Raises it, or DeadlineExceeded, when it is final.
        """
        self._check()
        failure = Unreachable("The server keeps closing the stream", retryable=True) if error is None else adapt(error)
        if not failure.retryable or time.monotonic() - self._heard > PATIENCE_SECONDS:
            failure.task_id = self.task_id
            raise failure from (None if failure is error else error)
        asked, self._retry = self._retry, None
        if asked is None:
            asked = failure.retry_after
        return min(next(self._delays) if asked is None else asked, self._left())

    def _check(self) -> None:
        if self._deadline is not None and time.monotonic() >= self._deadline:
            raise DeadlineExceeded(f"The task {self.task_id} did not end in time", task_id=self.task_id)

    def _left(self) -> float:
        return float("inf") if self._deadline is None else max(self._deadline - time.monotonic(), 0.001)


class _Watched(httpx.SyncByteStream, httpx.AsyncByteStream):
    """A response's body whose every chunk counts, also the keep-alive comments that the SSE parser drops."""

    def __init__(self, stream: httpx.SyncByteStream | httpx.AsyncByteStream, following: Following) -> None:
        self._stream = stream
        self._following = following

    def __iter__(self) -> Iterator[bytes]:
        assert isinstance(self._stream, httpx.SyncByteStream)
        for chunk in self._stream:
            self._following.hear()
            yield chunk

    async def __aiter__(self) -> AsyncIterator[bytes]:
        assert isinstance(self._stream, httpx.AsyncByteStream)
        async for chunk in self._stream:
            self._following.hear()
            yield chunk

    def close(self) -> None:
        assert isinstance(self._stream, httpx.SyncByteStream)
        self._stream.close()

    async def aclose(self) -> None:
        assert isinstance(self._stream, httpx.AsyncByteStream)
        await self._stream.aclose()


def ending(outcome: Outcome | None, task_id: str) -> FinalText | ToolCalls:
    """What the task ended with; raises TaskFailed, or TaskCancelled where there was no outcome."""
    if outcome is None:
        raise TaskCancelled(f"The task {task_id} was cancelled", code="cancelled", task_id=task_id)
    if isinstance(outcome, Failure):
        raise TaskFailed(outcome.message, code=outcome.code, retryable=outcome.retryable, task_id=task_id)
    return outcome
