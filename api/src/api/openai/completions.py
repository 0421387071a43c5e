"""`POST /v1/completions`: the model goes on with prompts as they are; each prompt is one task and one choice."""

from collections.abc import Sequence
from functools import partial

from fastapi import APIRouter, Request, Response

from api.backend import Backend
from api.errors import ApiError
from api.http.answer_replies import Translation, answers_reply
from api.http.dependencies import backend_of, caller_of, trace_context_of
from api.http.lenient_body import checked, within_bounds
from api.http.openai_errors import ERROR, error_body
from api.http.openapi import ENDING, body_of, replies
from api.http.request_body import read_body
from api.http.resent import resent
from api.json_body import LARGE_BYTES
from api.openai.answer import Identity
from api.openai.completion_answer import CompletionChunks, EndedChoices, text_completion
from api.openai.conversation import refuse, unsupported_of
from api.openai.described import TEXT_COMPLETION
from api.openai.framing import data
from api.openai.requests import CompletionRequest
from api.tasks.new_task import Started
from api.tenants.caller import Caller
from shared.wire.schemas import CreateMessageParams

router = APIRouter(prefix="/v1")

MAX_PROMPTS = 64
DEFAULT_MAX_TOKENS = 16
"""OpenAI's own."""


@router.post(
    "/completions",
    response_class=Response,
    openapi_extra=body_of(CompletionRequest),
    responses=replies(
        TEXT_COMPLETION, ERROR, ENDING, events="`stream: true`: `text_completion` objects, and `[DONE]` at the end."
    ),
)
async def completions(request: Request) -> Response:
    """A text completion, as OpenAI's API makes it; docs/openai.md says what is supported."""
    backend, caller = backend_of(request), caller_of(request)
    body = await read_body(request)
    backend.readers.check(caller)
    wanted: CompletionRequest

    async def read(at: int) -> CreateMessageParams:
        nonlocal wanted
        if at == 0:
            wanted = await checked(CompletionRequest, body)
        return within_bounds(partial(_params, at), wanted, request.headers.get("idempotency-key"))

    async def start(at: int) -> Started:
        return await backend.new_tasks.start(
            caller,
            partial(read, at),
            context=trace_context_of(request),
            large=len(body) > LARGE_BYTES,
            resent=resent(request, body, at),
            lenient=True,
        )

    started = [await start(0)]
    try:
        for at in range(1, len(wanted.prompts)):
            started.append(await start(at))
    except ApiError:
        await _cancel(backend, caller, started)
        raise
    identity = Identity(started[0].task_id, wanted.model, started[0].revision)
    streams = None
    if wanted.stream:
        usage = wanted.stream_options is not None and bool(wanted.stream_options.include_usage)
        ended = EndedChoices(len(started), tells=usage)
        chunks = [CompletionChunks(identity, at, ended) for at in range(len(started))]
        streams = [Translation(choice, data, error_body, end=b"data: [DONE]\n\n") for choice in chunks]
    return await answers_reply(request, caller, started, streams=streams, whole=partial(text_completion, identity))


async def _cancel(backend: Backend, caller: Caller, started: Sequence[Started]) -> None:
    """Nobody will read what was accepted before a prompt of the same request was refused.

    What an earlier try had begun, that one may still read.
    """
    for task in started:
        if task.new:
            await backend.own_tasks.cancel(caller, task.task_id)


def _params(at: int, wanted: CompletionRequest, idempotency_key: str | None) -> CreateMessageParams:
    """Of one prompt. Raises InvalidParams for what this server cannot do."""
    refuse(
        [
            *unsupported_of(wanted),
            ("prompt", len(wanted.prompts) > MAX_PROMPTS, f"has more than {MAX_PROMPTS} prompts: each is one task"),
            ("suffix", bool(wanted.suffix), "is not supported: this model only goes on with a text"),
            ("best_of", (wanted.best_of or 1) > 1, "is not supported: only 1 is"),
        ]
    )
    key = f"{idempotency_key} {at}" if idempotency_key and at else idempotency_key
    return CreateMessageParams(
        prompt=wanted.prompts[at],
        echo=bool(wanted.echo),
        model=wanted.model,
        max_tokens=DEFAULT_MAX_TOKENS if wanted.max_tokens is None else wanted.max_tokens,
        temperature=wanted.temperature,
        # 0 is the most likely token alone, as it is with these clients' other servers.
        top_p=None if wanted.top_p is None else max(wanted.top_p, 1e-6),
        top_k=wanted.top_k if wanted.top_k and wanted.top_k > 0 else None,
        stop=wanted.stop or None,
        seed=wanted.seed,
        logprobs=wanted.logprobs is not None,
        top_logprobs=wanted.logprobs,
        idempotency_key=key or None,
        metadata={name: str(value) for name, value in (wanted.metadata or {}).items()} or None,
        cancel_on_disconnect=True,
        store=wanted.store is not False,
    )
