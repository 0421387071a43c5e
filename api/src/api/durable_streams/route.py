"""`GET /v1/streams/{task_id}`: what stands behind an offset: at once, as soon as there is something, or as it comes."""

import asyncio
from contextlib import aclosing, suppress

from fastapi import APIRouter, Request
from fastapi.responses import Response

from api.backend import Backend
from api.durable_streams.live import LiveStream, as_array, following
from api.durable_streams.offsets import BEGINNING, TAIL, cursor_behind, entry_at, offset_of
from api.errors import EventsLost, InvalidParams, TaskExpired, TaskNotFound, TooManyStreams
from api.http.dependencies import backend_of, caller_of_reader
from api.http.openai_errors import ERROR
from api.http.openapi import CALLING, events_of, query, refused
from api.hub.subscription import PAGE
from api.task_spans import link_stream
from api.tenants.caller import Caller
from shared.store.event_stream import START, Entry, EntryId, EntryLost
from shared.store.task_record import TaskRecord
from shared.telemetry.logs import bind

router = APIRouter(prefix="/v1")

LONG_POLL_SECONDS = 20.0
"""How long a reply waits for the next event: shorter than proxies let a connection be silent."""

EVENTS = {"type": "array", "items": {"type": "object", "required": ["type", "taskId"]}}


@router.get(
    "/streams/{task_id}",
    response_class=Response,
    openapi_extra=query(
        offset=({"type": "string"}, "Where to read on: a `Stream-Next-Offset`, `-1` (the beginning) or `now`."),
        live=({"enum": ["long-poll", "sse"]}, "Wait for the next events, or follow all of them; needs `offset`."),
        cursor=({"type": "string"}, "The `Stream-Cursor` of the last live reply."),
        stream_token=({"type": "string"}, "A token of `stream_token`, for who sets no headers."),
    ),
    responses={
        200: {
            "description": "Events of the task (docs/events.md), and the offset behind them.",
            "content": {"application/json": {"schema": EVENTS}}
            | events_of("`live=sse`: `data`, a list of events, and `control`, the offset behind them."),
        },
        204: {"description": "`live=long-poll`: no event came, or (`Stream-Closed`) none will."},
        304: {"description": "The client has these events, by `If-None-Match`."},
        **refused(ERROR, (*CALLING, InvalidParams, TaskNotFound, TaskExpired, EventsLost, TooManyStreams)),
    },
)
async def read(task_id: str, request: Request) -> Response:
    """The task's log, read as a Durable Stream; see docs/durable-streams.md."""
    backend = backend_of(request)
    offset, live, cursor = [request.query_params.get(name) for name in ("offset", "live", "cursor")]
    if live not in (None, "long-poll", "sse"):
        raise InvalidParams("must be long-poll or sse", place=("live",))
    if live and offset is None:
        raise InvalidParams("is required with live", place=("offset",))
    wanted = None if offset == TAIL else entry_at(BEGINNING if offset is None else offset)
    caller = await caller_of_reader(request, task_id)
    record, tail = await _log(request, caller, task_id, seen=wanted not in (None, START))
    after = tail if wanted is None else wanted
    entries = [] if wanted is None else await _page(backend, task_id, after)
    if live == "sse":
        return LiveStream(backend.readers, caller, record, after, cursor=cursor, up_to_date=not entries)
    if live == "long-poll" and record.state != "ended":
        return await _awaited(request, caller, record, after, cursor)
    closed = record.state == "ended" and (not entries or entries[-1].type == "end")
    if live == "long-poll" and not entries:
        return Response(status_code=204, headers={"Cache-Control": "no-store"} | _place(after, closed=closed))
    last = entries[-1].id if entries else after
    headers = _place(last, closed=closed, up_to_date=len(entries) < PAGE)
    if live:
        headers["Stream-Cursor"] = cursor_behind(cursor)
    if wanted is None:
        return Response(b"[]", headers={"Cache-Control": "no-store"} | headers, media_type="application/json")
    # Whoever has them may keep them, and asks each time: with its key.
    tag = f'"{task_id}:{offset_of(after)}:{offset_of(last)}{":c" if closed else ""}"'
    headers |= {"Cache-Control": "private, no-cache", "ETag": tag}
    if tag in [known.strip() for known in request.headers.get("if-none-match", "").split(",")]:
        return Response(status_code=304, headers=headers)
    body = as_array([entry.data for entry in entries if entry.data])
    return Response(body, headers=headers, media_type="application/json")


@router.head("/streams/{task_id}", response_class=Response, include_in_schema=False)
async def head(task_id: str, request: Request) -> Response:
    """How far the log goes, and whether that is its end."""
    record, tail = await _log(request, await caller_of_reader(request, task_id), task_id)
    headers = {"Cache-Control": "no-store"} | _place(tail, closed=record.state == "ended")
    return Response(headers=headers, media_type="application/json")


async def _log(request: Request, caller: Caller, task_id: str, *, seen: bool = False) -> tuple[TaskRecord, EntryId]:
    """The caller's task and its log's last entry, which is the last for good where the task has ended.

    `seen`: as `OwnTasks.record` has it, which says what this raises.
    """
    backend = backend_of(request)
    [tail] = await backend.stream.tops([task_id])
    record = await backend.own_tasks.record(caller, task_id, seen=seen)
    if record.state == "ended":  # perhaps just now, with entries behind that one
        [tail] = await backend.stream.tops([task_id])
    link_stream(record)
    bind(task_id=task_id, model=record.model, tenant=caller.tenant)
    return record, tail


async def _page(backend: Backend, task_id: str, after: EntryId) -> list[Entry]:
    """What stands behind `after`, up to a page. Raises EventsLost."""
    with suppress(EntryLost):
        entries = await backend.stream.read_on(task_id, after, PAGE)
        if entries or after != START:  # a task's log is never empty
            return entries
    raise EventsLost(f"what stood at the offset {offset_of(after)} is not in the stream (any more)")


async def _awaited(
    request: Request, caller: Caller, record: TaskRecord, after: EntryId, cursor: str | None
) -> Response:
    """The next events behind `after`, as soon as there are some; 204 where none comes in time."""
    headers = {"Cache-Control": "no-store", "Stream-Cursor": cursor_behind(cursor)}
    async with following(backend_of(request).readers, caller, record, after, request.receive) as reader:
        with suppress(TimeoutError):
            async with asyncio.timeout(LONG_POLL_SECONDS), aclosing(aiter(reader.subscription)) as batches:
                async for frames in batches:
                    reader.note(frames)
                    if events := [frame for frame in frames if frame.stored]:
                        last = EntryId.parse(events[-1].id.decode())
                        up_to_date = reader.subscription.up_to_date
                        headers |= _place(last, closed=events[-1].type == b"end", up_to_date=up_to_date)
                        body = as_array([frame.data for frame in events])
                        return Response(body, headers=headers, media_type="application/json")
    return Response(status_code=204, headers=headers | _place(after, closed=False))


PLACE_HEADERS = ("Stream-Next-Offset", "Stream-Up-To-Date", "Stream-Closed", "Stream-Cursor", "ETag")
"""What pages of other origins must be let read."""


def _place(last: EntryId, *, closed: bool, up_to_date: bool = True) -> dict[str, str]:
    """The headers that say where a reader of everything up to this entry is."""
    headers = {"Stream-Next-Offset": offset_of(last)}
    if up_to_date or closed:
        headers["Stream-Up-To-Date"] = "true"
    if closed:
        headers["Stream-Closed"] = "true"
    return headers
