"""The answer of one task as a door's clients read it: whole, or as a stream in the door's own form.

Unlike `/stream`, these connections cannot be resumed: an answer that cannot go on must end in something that the client
takes for a failure. A clean end would be half an answer that looks whole.
"""

import asyncio
import json
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from fastapi import Request
from fastapi.responses import JSONResponse, Response
from pydantic import JsonValue
from pydantic_core import from_json
from starlette.types import Receive, Scope, Send

from api.errors import AnswerRestarted, ApiError, ReplicaStops, TaskCancelled, TooManyStreams, failure_of
from api.http.allowance_headers import allowance_headers
from api.http.dependencies import backend_of, disconnected
from api.hub.frame import Frame
from api.streaming.reader import Reader
from api.streaming.readers import Readers
from api.tasks.new_task import Started
from api.tenants.caller import Caller

Json = dict[str, JsonValue]
Event = Mapping[str, Any]
"""An event of a task's stream, as docs/events.md has it."""

CLIENT_CLOSED_REQUEST = 499
"""Of a reply that nobody reads: for logs, as nginx's."""

OUTCOMES = (b"final_text", b"tool_calls", b"error")


class Chunks(Protocol):
    """A task's events as a door's clients know the parts of an answer."""

    begun: bool
    """True when the client has seen something of the answer."""

    def of_event(self, event: Event) -> Iterator[Json]:
        """What a `status` or `token` event adds, or the event that ends the task well."""


@dataclass(frozen=True, slots=True)
class Translation:
    """A task's events in the form of one door."""

    chunks: Chunks
    framed: Callable[[Json], bytes]
    """One chunk, or a failure, as it goes over the wire."""
    error_body: Callable[[ApiError], Json]
    """What the door's clients take for a failure."""
    end: bytes = b""
    """What stands behind a whole answer."""

    def of_event(self, event: Event) -> Iterator[bytes]:
        return (self.framed(chunk) for chunk in self.chunks.of_event(event))

    def failure(self, error: ApiError) -> bytes:
        return self.framed(self.error_body(error))


async def answer_reply(
    request: Request, caller: Caller, started: Started, *, stream: Translation | None, whole: Callable[[Event], Json]
) -> Response:
    """The reply to a request whose answer is its task's: `stream` sends it as it grows, without one it is made `whole`:
    of the event that ended the task well, and with it what stands in the stream alone: `logprobs` and `guard`.

    Raises ApiError where a whole answer does not come about.
    """
    streams = None if stream is None else [stream]
    return await answers_reply(request, caller, [started], streams=streams, whole=lambda outcomes: whole(outcomes[0]))


async def answers_reply(
    request: Request,
    caller: Caller,
    started: Sequence[Started],
    *,
    streams: Sequence[Translation] | None,
    whole: Callable[[Sequence[Event]], Json],
) -> Response:
    """As `answer_reply`, of a request that became several tasks; one that fails is a failure of them all."""
    readers = backend_of(request).readers
    headers = {"X-Headrace-Task-Id": ", ".join(task.task_id for task in started)}
    headers |= allowance_headers(started[-1].allowance)
    if streams is not None:
        return StreamedAnswers(readers, caller, list(zip(started, streams, strict=True)), headers)
    outcomes = await _each(_outcome(readers, request.receive, caller, task) for task in started)
    there = [outcome for outcome in outcomes if outcome is not None]
    if len(there) < len(started):
        return Response(status_code=CLIENT_CLOSED_REQUEST)
    return JSONResponse(whole(there), headers=headers)


Result = TypeVar("Result")


async def _each(works: Iterable[Coroutine[Any, Any, Result]]) -> list[Result]:
    """The results of all; the first failure ends them and is raised. One alone is not worth an asyncio task."""
    first, *others = works
    if not others:
        return [await first]
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(work) for work in (first, *others)]
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return [task.result() for task in tasks]


async def _outcome(readers: Readers, receive: Receive, caller: Caller, started: Started) -> Event | None:
    """The event that ended the task well; None when the client has gone. Raises ApiError for every other ending."""
    async with _following(readers, receive, caller, started) as reader:
        outcome: dict[str, Any] | None = None
        logprobs: list[Json] = []
        guard: JsonValue = None
        async for frames in reader.subscription:
            reader.note(frames)
            for frame in frames:
                if frame.type in OUTCOMES:
                    outcome = json.loads(frame.data)
                elif frame.type == b"token" and b'"logprobs":' in frame.data:
                    logprobs += json.loads(frame.data).get("logprobs", ())
                elif frame.type == b"status":
                    status = json.loads(frame.data)
                    guard = status.get("guard", guard)
                    if status.get("restart"):
                        logprobs.clear()
        if reader.ended:
            if outcome is None:
                raise TaskCancelled
            if outcome["type"] == "error":
                raise failure_of(outcome)
            return outcome | {"logprobs": logprobs or None, "guard": guard}
        if reader.gone:
            return None
        raise reader.dismissed or ReplicaStops()


def _following(
    readers: Readers, receive: Receive, caller: Caller, started: Started
) -> AbstractAsyncContextManager[Reader]:
    return readers.following(
        lambda: disconnected(receive), task_id=started.task_id, model=started.model, required=True, caller=caller
    )


class StreamedAnswers(Response):
    """Answers as Server-Sent Events without ids: clients of these doors know no cursor."""

    media_type = "text/event-stream"

    def __init__(
        self,
        readers: Readers,
        caller: Caller,
        answers: Sequence[tuple[Started, Translation]],
        headers: Mapping[str, str],
    ) -> None:
        self.status_code = 200
        self.background = None
        self.init_headers({"Cache-Control": "no-store", "X-Accel-Buffering": "no", **headers})
        self._readers = readers
        self._caller = caller
        self._answers = answers
        self._open = len(answers)
        """Answers that have not ended well."""
        self._failed = False
        self._reading: list[Reader] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends the answers until their end, or until one cannot go on, or the client is gone."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        try:
            await _each(self._send(started, translation, receive, send) for started, translation in self._answers)
        except TooManyStreams as error:  # others came first, since the door has looked
            failure = self._answers[0][1].failure(error)
            await send({"type": "http.response.body", "body": failure, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async def _send(self, started: Started, translation: Translation, receive: Receive, send: Send) -> None:
        async with _following(self._readers, receive, self._caller, started) as reader:
            self._reading.append(reader)
            async for frames in reader.subscription:
                reader.note([frame for frame in frames if frame.type == b"status"])
                if body := b"".join([wire for frame in frames for wire in self._wires(reader, translation, frame)]):
                    reader.sending()
                    await send({"type": "http.response.body", "body": body, "more_body": True})
                    reader.sent()
            if not (reader.ended or reader.gone or self._failed):
                failure = self._fail(reader, translation, reader.dismissed or ReplicaStops(), over=False)
                await send({"type": "http.response.body", "body": failure, "more_body": True})

    def _wires(self, reader: Reader, translation: Translation, frame: Frame) -> Iterator[bytes]:
        if reader.ended or self._failed:
            return
        match frame.type:
            case b"" if frame.wire.startswith(b":"):
                yield frame.wire
            case b"status":
                event = json.loads(frame.data)
                if translation.chunks.begun and event.get("restart"):
                    # What the client has read is void, and this form has no way to say so.
                    yield self._fail(reader, translation, AnswerRestarted())
                else:
                    yield from translation.of_event(event)
            case b"token":
                yield from translation.of_event(from_json(frame.data))
            case b"final_text" | b"tool_calls":
                yield from translation.of_event(json.loads(frame.data))
                reader.ended = True
                self._open -= 1
                if not self._open:
                    yield translation.end
            case b"error":
                yield self._fail(reader, translation, failure_of(json.loads(frame.data)))
            case b"end":
                yield self._fail(reader, translation, TaskCancelled())

    def _fail(self, reader: Reader, translation: Translation, error: ApiError, *, over: bool = True) -> bytes:
        """`over`: the task has ended, or nobody can use the rest of its answer."""
        reader.ended = over
        self._failed = True
        for one in self._reading:
            one.subscription.close()
        return translation.failure(error)
