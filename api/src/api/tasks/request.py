"""From validated parameters to the request that a worker reads. Pure, so that a long one may be made in a thread."""

import hashlib
from collections.abc import Sequence

from api.errors import ContextTooLong, ToolLoopRefused
from api.invalid_params import invalid_param
from api.tasks.thread_params import ThreadParams
from shared.conversation.loop_prevention import LoopPolicy, ToolLoop
from shared.conversation.prompts import Assembled, assemble
from shared.conversation.rules import InvalidConversation
from shared.store.limits import ExpectedTokens
from shared.wire.chat import AssistantMessage, ChatMessage
from shared.wire.schemas import DEFAULT_MAX_TOKENS, CreateMessageParams, InferenceRequest, ModelCard, Sampling

BYTES_PER_TOKEN = 4
TOKENS_PER_MESSAGE = 4
"""What chat templates put around each."""


def inference_request(
    params: CreateMessageParams,
    model: str,
    policy: LoopPolicy,
    *,
    stored: Sequence[ChatMessage] | None,
    card: ModelCard | None,
    saved_as: str | None = None,
    most_kept: int | None = None,
    lenient: bool = False,
) -> InferenceRequest:
    """The request. `stored`: the conversation that it goes on with; `card`: what the model's workers said of it.
    `saved_as`: the stored conversation that its answer becomes a part of, where the parameters do not say; `most_kept`:
    bytes of text in it.
    `lenient`: as `assemble` has it.

    Raises InvalidParams, ToolLoopRefused or ContextTooLong.
    """
    assembled = _assembled(params, policy, stored, lenient)
    saved_as = saved_as or params.conversation_id
    if saved_as is not None:
        check_kept(assembled.conversation, most_kept)
    sampling = {name: getattr(params, name) for name in Sampling.model_fields}
    request = InferenceRequest(
        **sampling,
        model=model,
        messages=assembled.messages,
        tools=assembled.tools,
        tool_choice=assembled.tool_choice,
        response_format=params.response_format,
        priority=params.priority,
        metadata=params.metadata or {},
        cancel_on_disconnect=params.cancel_on_disconnect,
        conversation_id=saved_as,
        conversation=assembled.conversation if saved_as else [],
        truncate=(isinstance(params, ThreadParams) and params.truncate) or None,
        guard=assembled.guard,
        parallel_tool_calls=params.parallel_tool_calls,
        logprobs=(params.top_logprobs or 0) if params.logprobs else None,
        prompt=params.prompt,
        echo=params.echo or None,
        store=None if params.store else False,
    )
    if card is not None:
        _check_context(request, card)
    return request


def check_kept(conversation: Sequence[ChatMessage], most_bytes: int | None) -> None:
    """Raises InvalidParams for a conversation that is too long to be kept."""
    size = sum(len((message.content or "").encode()) for message in conversation)
    if most_bytes is not None and size > most_bytes:
        raise invalid_param(
            ("conversation_id",), f"the conversation has {size} bytes of text; at most {most_bytes} are kept"
        )


def expected_tokens(request: InferenceRequest, card: ModelCard | None) -> ExpectedTokens:
    """What the task may need at most, and what its prompt is likely to have.

    Four bytes are about one token of English text; the worker's own count replaces that when the task ends.
    """
    size = sum(len(tool.model_dump_json()) for tool in request.tools)
    for message in request.messages:
        size += len((message.content or "").encode())
        if isinstance(message, AssistantMessage):
            size += sum(len(call.function.name) + len(call.function.arguments) for call in message.tool_calls or ())
    prompt = size // BYTES_PER_TOKEN + TOKENS_PER_MESSAGE * len(request.messages)
    answer = request.max_tokens or (card.default_max_tokens if card else DEFAULT_MAX_TOKENS)
    if card is not None:
        answer = max(1, min(answer, card.context_length - prompt))
    return ExpectedTokens(prompt, answer)


def fingerprint_of(params: CreateMessageParams) -> str:
    """Tells two requests with one idempotency key apart."""
    # Without defaults: a parameter that a newer version adds makes no other request of one that does not name it.
    said = params.model_dump_json(exclude={"idempotency_key"}, exclude_defaults=True)
    return hashlib.sha256(said.encode()).hexdigest()


def _assembled(
    params: CreateMessageParams, policy: LoopPolicy, stored: Sequence[ChatMessage] | None, lenient: bool
) -> Assembled:
    try:
        instructions = params.instructions if isinstance(params, ThreadParams) else None
        return assemble(params, policy, stored, lenient=lenient, instructions=instructions)
    except InvalidConversation as error:
        raise invalid_param(error.place, error.reason) from None
    except ToolLoop as error:
        raise ToolLoopRefused(
            f'demands a tool call, but {error.guard.reason}; send "auto" or a new user message',
            place=("tool_choice",),
            guard=error.guard.model_dump(mode="json"),
        ) from None


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
    if request.truncate:
        return
    if isinstance(request.prompt, list):
        fewest_tokens = len(request.prompt)
    else:
        kept = [message.content for message in request.messages if not isinstance(message, AssistantMessage)]
        sizes = (len(content.strip().encode()) for content in [*kept, request.prompt or ""])
        fewest_tokens = sum(sizes) // card.max_token_bytes
    if fewest_tokens >= card.context_length:
        raise ContextTooLong(
            f"the prompt has at least {fewest_tokens} tokens; the model's context has {card.context_length}",
            promptTokensAtLeast=fewest_tokens,
            contextLength=card.context_length,
        )
