"""From validated parameters to a task that the ledger holds and a worker will find."""

import asyncio
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from api.auth import Caller
from api.backend import Backend
from api.errors import ContextTooLong, ConversationNotFound, KeyReused, ToolLoopRefused
from api.invalid_params import invalid_param
from api.task_spans import sending
from shared.conversation.loop_prevention import LoopPolicy, ToolLoop
from shared.conversation.prompts import Assembled, assemble
from shared.conversation.rules import InvalidConversation
from shared.store.redis_client import answered_within
from shared.store.task_id import new_task_id
from shared.store.task_ledger import IdempotencyConflict, QueueFull, TenantFull
from shared.store.task_record import Resent
from shared.telemetry.logs import bind
from shared.telemetry.tracing import message_headers
from shared.wire.chat import AssistantMessage, ChatMessage, ToolMessage
from shared.wire.schemas import CreateMessageParams, InferenceRequest, ModelCard, Sampling

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Started:
    """An accepted task."""

    task_id: str
    model: str
    revision: str | None
    """Of the model, as its workers last said; None before the first one was ready."""


async def start_task(
    backend: Backend,
    caller: Caller,
    params: CreateMessageParams,
    *,
    context: str = "",
    large: bool = False,
    resent: Resent | None = None,
    lenient: bool = False,
) -> Started:
    """Accepts the task and sends its message. From then on it ends in exactly one `end` event.

    `context`: place in its trace from which the task comes (`tracing.context_text`).
    `large`: the request is so long that checking it must not hold up the event loop.
    `resent`: as `TaskLedger.accept` has it. `lenient`: as `assemble` has it.
    Raises ApiError or redis.exceptions.RedisError.
    """
    settings = backend.settings
    model = backend.models.chosen(params.model)
    timeout_seconds = _timeout_seconds(backend, params.timeout_seconds)
    async with answered_within(settings.redis_timeout):
        await backend.admission.admit(caller)
        stored = await _stored_conversation(backend, caller, params)
        card = await backend.registry.card(model)

    def prepare() -> tuple[InferenceRequest, str]:
        request = _request(params, model, _assembled(params, backend.loop_policy, stored, lenient))
        if card is not None:
            _check_context(request, card)
        return request, _fingerprint(params) if params.idempotency_key else ""

    request, fingerprint = await _maybe_in_thread(large, prepare)
    task_id = new_task_id()
    with sending(task_id, model=model, priority=params.priority, tenant=caller.tenant, parent=context) as sent_context:
        async with answered_within(settings.redis_timeout):
            try:
                accepted = await backend.ledger.accept(
                    task_id,
                    request,
                    tenant=caller.tenant,
                    timeout_seconds=timeout_seconds,
                    max_waiting=settings.max_waiting,
                    max_tenant_tasks=settings.max_tenant_tasks,
                    idempotency_key=params.idempotency_key,
                    fingerprint=fingerprint,
                    resent=resent,
                    context=sent_context,
                )
            except QueueFull as refusal:
                raise await backend.admission.queue_full(model, refusal) from None
            except TenantFull as refusal:
                raise await backend.admission.tenant_full(model, refusal) from None
            except IdempotencyConflict:
                raise KeyReused("was used before with other parameters", place=("idempotency_key",)) from None
        bind(task_id=accepted.task_id, model=model)
        if accepted.new:
            backend.metrics.accepted.labels(model).inc()
            backend.metrics.accepted_of_tenant.labels(backend.metrics.tenant_label(caller.tenant)).inc()
            await backend.publisher.send(accepted.task_id, model, params.priority, message_headers(sent_context))
    return Started(accepted.task_id, model, card.revision if card else None)


def _timeout_seconds(backend: Backend, wanted: float | None) -> float:
    if wanted is None:
        return min(backend.settings.default_timeout_seconds, backend.settings.max_timeout_seconds)
    if wanted > backend.settings.max_timeout_seconds:
        raise invalid_param(("timeout_seconds",), f"must be at most {backend.settings.max_timeout_seconds:g}")
    return wanted


async def _stored_conversation(
    backend: Backend, caller: Caller, params: CreateMessageParams
) -> list[ChatMessage] | None:
    """The conversation that the request goes on with; None when it brings its own or starts one.

    `messages` that begin with a tool's result can only go on: a conversation never starts so.
    """
    if params.conversation_id is None or params.history is not None:
        return None
    if params.messages is not None and not isinstance(params.messages[0], ToolMessage):
        return None
    stored = await backend.conversations.load(caller.tenant, params.conversation_id)
    if stored is None:
        raise ConversationNotFound(
            f"there is no conversation {params.conversation_id!r}; it may have expired. "
            "Start it with `messages`, or with `history` (an empty one will do) and `message`"
        )
    return stored.messages


def _assembled(
    params: CreateMessageParams, policy: LoopPolicy, stored: list[ChatMessage] | None, lenient: bool
) -> Assembled:
    try:
        return assemble(params, policy, stored, lenient=lenient)
    except InvalidConversation as error:
        raise invalid_param(error.place, error.reason) from None
    except ToolLoop as error:
        raise ToolLoopRefused(
            f'demands a tool call, but {error.guard.reason}; send "auto" or a new user message',
            place=("tool_choice",),
            guard=error.guard.model_dump(mode="json"),
        ) from None


def _request(params: CreateMessageParams, model: str, assembled: Assembled) -> InferenceRequest:
    sampling = {name: getattr(params, name) for name in Sampling.model_fields}
    return InferenceRequest(
        **sampling,
        model=model,
        messages=assembled.messages,
        tools=assembled.tools,
        tool_choice=assembled.tool_choice,
        response_format=params.response_format,
        priority=params.priority,
        metadata=params.metadata or {},
        cancel_on_disconnect=params.cancel_on_disconnect,
        conversation_id=params.conversation_id,
        conversation=assembled.conversation if params.conversation_id else [],
        guard=assembled.guard,
    )


def _check_context(request: InferenceRequest, card: ModelCard) -> None:
    """Refuses what cannot fit however it is tokenized; the worker knows the rest.

    Counts the bytes that every chat template keeps: some drop an assistant's earlier thoughts, many strip messages.
    """
    if request.max_tokens is not None and request.max_tokens > card.context_length:
        raise ContextTooLong(
            f"is {request.max_tokens}; the model's context has {card.context_length} tokens",
            place=("max_tokens",),
            maxTokens=request.max_tokens,
            contextLength=card.context_length,
        )
    kept = (message.content for message in request.messages if not isinstance(message, AssistantMessage))
    fewest_tokens = sum(len(content.strip().encode()) for content in kept) // card.max_token_bytes
    if fewest_tokens >= card.context_length:
        raise ContextTooLong(
            f"the prompt has at least {fewest_tokens} tokens; the model's context has {card.context_length}",
            promptTokensAtLeast=fewest_tokens,
            contextLength=card.context_length,
        )


def _fingerprint(params: CreateMessageParams) -> str:
    return hashlib.sha256(params.model_dump_json(exclude={"idempotency_key"}).encode()).hexdigest()


async def _maybe_in_thread(large: bool, function: Callable[[], Result]) -> Result:
    return await asyncio.to_thread(function) if large else function()
