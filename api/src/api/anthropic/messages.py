"""`POST /v1/messages`: one call is one task, whole or streamed."""

from functools import partial
from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic_core import to_json

from api.anthropic.conversation import messages_of, parallel_calls_of, tool_choice_of, tools_of
from api.anthropic.error_body import ERROR, error_body
from api.anthropic.message_answer import Json, MessageEvents, message
from api.anthropic.requests import Conversation, MessageRequest
from api.errors import NoTokenizer, UnknownModel
from api.http.answer_replies import Translation, answer_reply
from api.http.dependencies import backend_of, caller_of, trace_context_of
from api.http.lenient_body import checked, within_bounds
from api.http.loop_prevention import loop_prevention_of
from api.http.openapi import ENDING, READING, body_of, replies
from api.http.request_body import read_body
from api.http.resent import resent
from api.json_body import LARGE_BYTES
from shared.wire.schemas import CreateMessageParams

router = APIRouter(prefix="/v1")

MESSAGE: dict[str, Any] = {
    "title": "AnthropicMessage",
    "description": "Anthropic's `message`.",
    "type": "object",
    "required": ["id", "type", "role", "model", "content", "stop_reason", "stop_sequence", "usage"],
    "properties": {
        "id": {"type": "string"},
        "type": {"const": "message"},
        "role": {"const": "assistant"},
        "model": {"type": "string"},
        "content": {"type": "array", "items": {"type": "object", "required": ["type"]}},
        "stop_reason": {"type": "string"},
        "stop_sequence": {"type": ["string", "null"]},
        "usage": {"type": "object", "required": ["input_tokens", "output_tokens"]},
    },
}
COUNT: dict[str, Any] = {
    "title": "CountedTokens",
    "type": "object",
    "required": ["input_tokens"],
    "properties": {"input_tokens": {"type": "integer"}},
}


@router.post(
    "/messages",
    response_class=Response,
    openapi_extra=body_of(MessageRequest),
    responses=replies(MESSAGE, ERROR, ENDING, events="`stream: true`: Anthropic's events, each under its name."),
)
async def create(request: Request) -> Response:
    """A message, as Anthropic's API makes it; docs/openai.md says what is supported."""
    backend, caller = backend_of(request), caller_of(request)
    body = await read_body(request)
    backend.readers.check(caller)
    wanted: MessageRequest

    async def read() -> CreateMessageParams:
        nonlocal wanted
        wanted = await checked(MessageRequest, body)
        return within_bounds(_params, wanted, request.headers.get("idempotency-key"))

    started = await backend.new_tasks.start(
        caller,
        read,
        context=trace_context_of(request),
        large=len(body) > LARGE_BYTES,
        resent=resent(request, body),
        lenient=True,
    )
    events = MessageEvents(started.task_id, wanted.model)
    stream = Translation(events, named, error_body) if wanted.stream else None
    return await answer_reply(
        request, caller, started, stream=stream, whole=partial(message, started.task_id, wanted.model)
    )


@router.post(
    "/messages/count_tokens",
    openapi_extra=body_of(Conversation),
    responses=replies(COUNT, ERROR, (*READING, UnknownModel, NoTokenizer)),
)
async def count_tokens(request: Request) -> Json:
    """How many tokens the prompt of such a message would have."""
    backend, caller = backend_of(request), caller_of(request)
    wanted = await checked(Conversation, await read_body(request))
    model = backend.models.chosen(caller, wanted.model)
    ids = await backend.tokens.of_prompt(caller, model, within_bounds(_spoken, wanted, None))
    return {"input_tokens": len(ids)}


def _spoken(wanted: Conversation, _: str | None) -> CreateMessageParams:
    return CreateMessageParams(
        messages=messages_of(wanted), tools=tools_of(wanted) or None, tool_choice=tool_choice_of(wanted)
    )


def _params(wanted: MessageRequest, idempotency_key: str | None) -> CreateMessageParams:
    """Raises InvalidParams for what this server cannot do."""
    return CreateMessageParams(
        messages=messages_of(wanted),
        tools=tools_of(wanted) or None,
        tool_choice=tool_choice_of(wanted),
        model=wanted.model,
        max_tokens=wanted.max_tokens,
        temperature=wanted.temperature,
        top_p=wanted.top_p or None,
        top_k=wanted.top_k or None,
        stop=wanted.stop_sequences or None,
        idempotency_key=idempotency_key or None,
        cancel_on_disconnect=True,
        parallel_tool_calls=parallel_calls_of(wanted),
        loop_prevention=loop_prevention_of(wanted.loop_prevention),
    )


def named(event: dict[str, Any]) -> bytes:
    """One event of a stream as Anthropic's clients read it: under its type's name."""
    return b"event: %b\ndata: %b\n\n" % (str(event["type"]).encode(), to_json(event))
