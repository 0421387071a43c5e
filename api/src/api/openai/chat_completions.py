"""`POST /v1/chat/completions`: one call is one task, whole or streamed."""

from functools import partial

from fastapi import APIRouter, Request, Response

from api.http.answer_replies import Translation, answer_reply
from api.http.dependencies import backend_of, caller_of, trace_context_of
from api.http.lenient_body import checked, within_bounds
from api.http.loop_prevention import loop_prevention_of
from api.http.openai_errors import ERROR, error_body
from api.http.openapi import ENDING, body_of, replies
from api.http.request_body import read_body
from api.http.resent import resent
from api.json_body import LARGE_BYTES
from api.openai.answer import Identity
from api.openai.chat_answer import ChatChunks, chat_completion
from api.openai.conversation import format_of, messages_of, refuse_unsupported, tool_choice_of, tools_of
from api.openai.described import COMPLETION
from api.openai.framing import data
from api.openai.requests import ChatRequest
from shared.wire.schemas import CreateMessageParams

router = APIRouter(prefix="/v1")


@router.post(
    "/chat/completions",
    response_class=Response,
    openapi_extra=body_of(ChatRequest),
    responses=replies(
        COMPLETION, ERROR, ENDING, events="`stream: true`: `chat.completion.chunk` objects, and `[DONE]` at the end."
    ),
)
async def chat_completions(request: Request) -> Response:
    """A chat completion, as OpenAI's API makes it; docs/openai.md says what is supported."""
    backend, caller = backend_of(request), caller_of(request)
    body = await read_body(request)
    backend.readers.check(caller)
    wanted: ChatRequest

    async def read() -> CreateMessageParams:
        nonlocal wanted
        wanted = await checked(ChatRequest, body)
        return within_bounds(_params, wanted, request.headers.get("idempotency-key"))

    started = await backend.new_tasks.start(
        caller,
        read,
        context=trace_context_of(request),
        large=len(body) > LARGE_BYTES,
        resent=resent(request, body),
        lenient=True,
    )
    identity = Identity(started.task_id, wanted.model, started.revision)
    usage = wanted.stream_options is not None and bool(wanted.stream_options.include_usage)
    chunks = ChatChunks(identity, include_usage=usage)
    whole = partial(chat_completion, identity)
    stream = Translation(chunks, data, error_body, end=b"data: [DONE]\n\n") if wanted.stream else None
    return await answer_reply(request, caller, started, stream=stream, whole=whole)


def _params(wanted: ChatRequest, idempotency_key: str | None) -> CreateMessageParams:
    """Raises InvalidParams for what this server cannot do."""
    refuse_unsupported(wanted)
    return CreateMessageParams(
        messages=messages_of(wanted.messages),
        tools=tools_of(wanted) or None,
        tool_choice=tool_choice_of(wanted),
        response_format=format_of(wanted.response_format),
        model=wanted.model,
        max_tokens=wanted.max_completion_tokens or wanted.max_tokens or None,
        temperature=wanted.temperature,
        # 0 is the most likely token alone, as it is with these clients' other servers.
        top_p=None if wanted.top_p is None else max(wanted.top_p, 1e-6),
        top_k=wanted.top_k if wanted.top_k and wanted.top_k > 0 else None,
        stop=wanted.stop or None,
        seed=wanted.seed,
        idempotency_key=idempotency_key or None,
        parallel_tool_calls=wanted.parallel_tool_calls,
        logprobs=bool(wanted.logprobs),
        top_logprobs=wanted.top_logprobs,
        loop_prevention=loop_prevention_of(wanted.loop_prevention),
        metadata={name: str(value) for name, value in (wanted.metadata or {}).items()} or None,
        cancel_on_disconnect=True,
        store=wanted.store is not False,
    )
