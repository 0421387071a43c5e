"""`/v1/responses`: made, read again from any number on, cancelled, deleted."""

import asyncio
import json
from contextlib import suppress

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse

from api.backend import Backend
from api.errors import (
    ApiError,
    EventsLost,
    InvalidParams,
    ReplicaStops,
    TaskCancelled,
    TaskNotEnded,
    TaskNotFound,
)
from api.http.allowance_headers import allowance_headers
from api.http.dependencies import backend_of, caller_of, trace_context_of
from api.http.openai_errors import ERROR
from api.http.openapi import body_of, query, replies
from api.http.request_body import read_body
from api.http.resent import resent
from api.json_body import LARGE_BYTES
from api.responses.described import (
    COUNT,
    COUNTING,
    DELETED,
    EVENTS,
    FINDING,
    FOLLOWING,
    FORGETTING,
    ITEMS,
    RESPONDING,
    RESPONSE,
)
from api.responses.ids import task_of
from api.responses.items import items_of
from api.responses.numbered_stream import Followed, NumberedStream
from api.responses.open_item import Json
from api.responses.pages import PAGING, page
from api.responses.progress import Progress
from api.responses.reading import Reading
from api.responses.requests import ResponseRequest
from api.tenants.caller import Caller
from shared.store.event_stream import Entry
from shared.store.task_record import TaskRecord
from shared.telemetry.logs import bind
from shared.wire.chat import ChatMessage
from shared.wire.schemas import InferenceRequest

router = APIRouter(prefix="/v1", dependencies=[Depends(caller_of)])

CLIENT_CLOSED_REQUEST = 499
"""Of a reply that nobody reads: for logs, as nginx's."""
CANCEL_SECONDS = 5.0
"""How long the reply to a cancellation waits for the worker to stop."""


@router.post(
    "/responses",
    response_class=Response,
    openapi_extra=body_of(ResponseRequest),
    responses=replies(RESPONSE, ERROR, RESPONDING, events=EVENTS),
)
async def create(request: Request) -> Response:
    """A response, as OpenAI's API makes it; docs/responses.md says what is supported."""
    backend, caller = backend_of(request), caller_of(request)
    body = await read_body(request)
    backend.readers.check(caller)
    reading = Reading(backend, caller, body, request.headers.get("idempotency-key"))
    try:
        started = await backend.new_tasks.start(
            caller,
            reading.params,
            context=trace_context_of(request),
            large=len(body) > LARGE_BYTES,
            resent=resent(request, body),
            lenient=True,
        )
    except ApiError as error:
        raise reading.told(error) from None
    asked = reading.asked if started.new else _asked(await backend.own_tasks.asked_for(caller, started.task_id))
    progress = Progress(started.task_id, asked)
    required, stream = not reading.wanted.background, bool(reading.wanted.stream)
    followed = Followed(
        backend.readers,
        progress,
        model=started.model,
        required=required,
        caller=caller,
        resumable=stream and reading.wanted.stored,
    )
    headers = {"X-Headrace-Task-Id": started.task_id} | allowance_headers(started.allowance)
    if stream:
        return NumberedStream(followed, headers)
    if not required:
        entries = await backend.own_tasks.said(started.task_id)
        return JSONResponse(progress.read(entries).response(), headers=headers)
    reader = await followed.to_end(request.receive)
    if progress.failure is not None:
        raise progress.failure
    if reader.gone:
        return Response(status_code=CLIENT_CLOSED_REQUEST)
    if not reader.ended:
        raise reader.dismissed or ReplicaStops()
    if progress.status == "cancelled":
        raise TaskCancelled
    return JSONResponse(progress.response(), headers=headers)


@router.post(
    "/responses/input_tokens", openapi_extra=body_of(ResponseRequest), responses=replies(COUNT, ERROR, COUNTING)
)
async def input_tokens(request: Request) -> Json:
    """The tokens of the prompt that such a response would have."""
    backend, caller = backend_of(request), caller_of(request)
    reading = Reading(backend, caller, await read_body(request), None)
    try:
        params = await reading.params()
        stored: list[ChatMessage] | None = None
        if params.goes_on_from is not None:
            stored = (await backend.own_conversations.get(caller, params.goes_on_from, scope="ask")).messages
        ids = await backend.tokens.of_prompt(caller, backend.models.chosen(caller, params.model), params, stored)
    except ApiError as error:
        raise reading.told(error) from None
    return {"object": "response.input_tokens", "input_tokens": len(ids)}


@router.get(
    "/responses/{response_id}",
    response_class=Response,
    openapi_extra=query(
        stream=({"type": "boolean"}, "The events instead of the response."),
        starting_after=({"type": "integer", "minimum": 0}, "Only the events behind this number."),
    ),
    responses=replies(RESPONSE, ERROR, FOLLOWING, events=EVENTS),
)
async def retrieve(response_id: str, request: Request) -> Response:
    """The response as it stands; with `stream=true` its events, those behind `starting_after` if that is there."""
    backend, caller = backend_of(request), caller_of(request)
    after = _number(request.query_params.get("starting_after"))
    record, entries = await _stored(backend, caller, response_id)
    if request.query_params.get("stream", "").lower() not in ("true", "1"):
        return JSONResponse(Progress(record.task_id, _asked(record)).read(entries).response())
    if after is not None:
        backend.metrics.stream_resumes.inc()
        numbered = Progress(record.task_id, _asked(record)).read(entries).numbered
        if after >= numbered:
            raise EventsLost(f"The event {after} is not in this response, which has {numbered} so far.")
    followed = Followed(
        backend.readers,
        Progress(record.task_id, _asked(record)),
        model=record.model,
        required=record.state != "ended" and record.cancel_on_disconnect,
        caller=caller,
        resumable=True,
    )
    return NumberedStream(followed, {"X-Headrace-Task-Id": record.task_id}, after=after)


@router.post("/responses/{response_id}/cancel", responses=replies(RESPONSE, ERROR, (*FINDING, InvalidParams)))
async def cancel(response_id: str, request: Request) -> Json:
    """Cancels a background response; one that has ended stays as it is."""
    backend, caller = backend_of(request), caller_of(request)
    record, _ = await _stored(backend, caller, response_id)
    if not _asked(record)["background"]:
        raise InvalidParams("only a response with background: true can be cancelled; close the connection of others")
    await backend.own_tasks.cancel(caller, record.task_id)
    progress = Progress(record.task_id, _asked(record))
    followed = Followed(backend.readers, progress, model=record.model, required=False, caller=caller)
    with suppress(TimeoutError):  # its worker is frozen, or lost: whoever takes over ends it
        async with asyncio.timeout(CANCEL_SECONDS):
            await followed.to_end(request.receive)
    return progress.response()


@router.delete("/responses/{response_id}", responses=replies(DELETED, ERROR, FORGETTING))
async def delete(response_id: str, request: Request) -> Json:
    """Forgets the response. One that has not ended is cancelled; ask again when it has."""
    backend, caller = backend_of(request), caller_of(request)
    task_id = task_of(response_id)
    try:
        await backend.own_tasks.delete(caller, task_id, conversation_id=response_id)
    except TaskNotEnded:
        await backend.own_tasks.cancel(caller, task_id)
        await backend.own_tasks.delete(caller, task_id, conversation_id=response_id)
    return {"id": response_id, "object": "response", "deleted": True}


@router.get(
    "/responses/{response_id}/input_items",
    openapi_extra=PAGING,
    responses=replies(ITEMS, ERROR, (*FINDING, InvalidParams)),
)
async def input_items(response_id: str, request: Request) -> Json:
    """What the response answers: the items of its conversation."""
    record, _ = await _stored(backend_of(request), caller_of(request), response_id)

    def listed() -> Json:
        conversation = InferenceRequest.model_validate_json(record.request, extra="ignore").conversation
        return page([entry.item for entry in items_of(conversation)], request.query_params)

    return await asyncio.to_thread(listed) if len(record.request) > LARGE_BYTES else listed()


async def _stored(backend: Backend, caller: Caller, response_id: str) -> tuple[TaskRecord, list[Entry]]:
    """The task of the caller's response. Raises TaskNotFound or TaskExpired."""
    record, entries = await backend.own_tasks.log(caller, task_of(response_id))
    bind(task_id=record.task_id, model=record.model, tenant=caller.tenant)
    if not record.note or not _asked(record)["store"]:
        raise TaskNotFound(f"There is no response {response_id!r}.")
    return record, entries


def _asked(record: TaskRecord) -> Json:
    asked: Json = json.loads(record.note)
    return asked


def _number(text: str | None) -> int | None:
    if text is None:
        return None
    if not (text.isascii() and text.isdigit()):
        raise InvalidParams("must be the number of an event", place=("starting_after",))
    return int(text[:18])
