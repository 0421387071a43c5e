"""GET /stream/{task_id}: the task's events as Server-Sent Events, from the start or behind `Last-Event-ID`."""

import functools
import logging

from fastapi import APIRouter, Request
from fastapi.responses import Response
from starlette.types import Receive, Scope, Send

from api.backend import Backend
from api.error_object import ERROR
from api.errors import EventsLost, InvalidParams, TaskExpired, TaskNotFound, TooManyStreams
from api.http.dependencies import KEY_IN_QUERY, backend_of, caller_of_stream, disconnected
from api.http.openapi import CALLING, events_of, refused
from api.streaming.reader import Reader
from api.streaming.readers import Readers
from api.task_spans import link_stream
from api.tenants.caller import Caller
from shared.store.event_stream import START, EntryId, EntryLost
from shared.store.task_record import TaskRecord
from shared.telemetry.logs import bind

log = logging.getLogger(__name__)

router = APIRouter()


@router.head("/stream/{task_id}", response_class=Response, include_in_schema=False)
@router.get(
    "/stream/{task_id}",
    response_class=Response,
    openapi_extra={
        "parameters": [
            {"in": place, "name": name, "schema": {"type": "string"}, "description": meaning}
            for place, name, meaning in (
                ("header", "Last-Event-ID", "The last event that was seen: what is behind it comes."),
                ("query", "lastEventId", "The same, for who sets no headers."),
                ("query", "stream_token", "A token of `stream_token`, for who sets no headers."),
                ("query", KEY_IN_QUERY, "Deprecated: the API key."),
            )
        ]
    },
    responses={
        200: {"description": "The task's events.", "content": events_of("An event of the task (docs/events.md).")},
        204: {"description": "The last event has been seen: nothing comes behind it."},
        **refused(ERROR, (*CALLING, InvalidParams, TaskNotFound, TaskExpired, EventsLost, TooManyStreams)),
    },
)
async def stream(task_id: str, request: Request) -> Response:
    """The task's events from now on, or from behind the given event; see docs/events.md."""
    backend = backend_of(request)
    caller = await caller_of_stream(request, task_id)
    last_seen = _last_seen(request)
    after = _parse(last_seen)
    record = await backend.own_tasks.record(caller, task_id, seen=bool(last_seen))
    link_stream(record)
    bind(task_id=task_id, model=record.model, tenant=caller.tenant)
    if last_seen:
        backend.metrics.stream_resumes.inc()
        top = (await backend.stream.tops([task_id]))[0]
        if after == top and record.state == "ended":
            return Response(status_code=204)
        await _check(backend, task_id, after)
    reply = StreamResponse(backend.readers, caller, record, after)
    if KEY_IN_QUERY in request.query_params:
        reply.headers["Deprecation"] = "true"
        warn_of_keys_in_queries()
    return reply


@functools.cache
def warn_of_keys_in_queries() -> None:
    """Once."""
    log.warning(
        "A client sends its API key in the query of /stream, where logs of proxies keep it. The next version takes no "
        "key there: `stream_token` makes a token for one stream, which goes there as ?stream_token=."
    )


def _last_seen(request: Request) -> str:
    """Without the spaces around it: they are not part of a header's value, but the HTTP parser leaves some there."""
    header = request.headers.get("last-event-id", "").strip()
    return header or request.query_params.get("lastEventId", "").strip()


def _parse(last_seen: str) -> EntryId:
    if not last_seen:
        return START
    try:
        return EntryId.parse(last_seen)
    except ValueError:
        raise InvalidParams("Last-Event-ID must be the id of an event of this stream") from None


async def _check(backend: Backend, task_id: str, after: EntryId) -> None:
    """A client that has seen more than the stream holds is not given the rest of another answer."""
    try:
        await backend.stream.read_on(task_id, after, 1)
    except EntryLost:
        raise EventsLost(f"The event {after} is not in the stream (any more).") from None


class StreamResponse(Response):
    """The open stream. What is ready at one moment goes out in one piece; see docs/decisions/0005-sse.md."""

    media_type = "text/event-stream"

    def __init__(self, readers: Readers, caller: Caller, record: TaskRecord, after: EntryId) -> None:
        self.status_code = 200
        self.background = None
        self.init_headers({"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        self._readers = readers
        self._caller = caller
        self._task_id, self._model = record.task_id, record.model
        self._required = record.state != "ended" and record.cancel_on_disconnect
        self._after = after

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends events until `end`, until the client or this process goes away. Raises TooManyStreams."""
        start = {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
        if scope["method"] == "HEAD":
            await send(start)
            await send({"type": "http.response.body", "body": b""})
            return
        async with self._readers.following(
            lambda: disconnected(receive),
            task_id=self._task_id,
            model=self._model,
            required=self._required,
            caller=self._caller,
            resumable=True,
            after=self._after,
        ) as reader:
            await send(start)
            await _send_all(reader, send)
            await send({"type": "http.response.body", "body": b""})


async def _send_all(reader: Reader, send: Send) -> None:
    async for frames in reader.subscription:
        reader.note(frames)
        body = frames[0].wire if len(frames) == 1 else b"".join([frame.wire for frame in frames])
        reader.sending()
        await send({"type": "http.response.body", "body": body, "more_body": True})
        reader.sent()
