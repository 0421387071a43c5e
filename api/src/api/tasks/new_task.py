"""Starting a task: what the ledger then holds, a worker will find."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from api.admission import Admission, key_reused
from api.errors import ConversationNotFound, as_api_error
from api.invalid_params import invalid_param
from api.metrics import Metrics
from api.models import Models
from api.settings import Settings
from api.task_spans import sending
from api.tasks.messages import Messages
from api.tasks.request import expected_tokens, fingerprint_of, inference_request
from api.tasks.thread_params import ThreadParams, kept_as
from api.tenants import audit
from api.tenants.caller import Caller
from shared.conversation.loop_prevention import LoopPolicy
from shared.store.beginnings import Beginnings, beginnings_of
from shared.store.conversations import Conversations, StoredConversation
from shared.store.limits import Allowance, ExpectedTokens
from shared.store.redis_client import answered_within
from shared.store.refusals import ConversationBusy, IdempotencyConflict, Refusal
from shared.store.task_id import new_task_id
from shared.store.task_ledger import TaskLedger
from shared.store.task_record import Resent
from shared.store.worker_registry import WorkerRegistry
from shared.telemetry.logs import bind, scope
from shared.telemetry.tracing import message_headers
from shared.wire.chat import ToolMessage
from shared.wire.schemas import CreateMessageParams, InferenceRequest

Read = Callable[[], Awaitable[CreateMessageParams]]
"""Makes the parameters of what a client sent, or raises ApiError."""


@dataclass(frozen=True, slots=True)
class Started:
    """An accepted task."""

    task_id: str
    model: str
    revision: str | None
    """Of the model, as its workers last said; None before the first one was ready."""
    new: bool = field(default=True, compare=False)
    """False for the task of a request that was sent before."""
    allowance: Allowance | None = None
    """What the caller has left of its limits; None where it has none, or the task was accepted before."""


class NewTasks:
    """What every door starts tasks with."""

    def __init__(
        self,
        settings: Settings,
        *,
        models: Models,
        admission: Admission,
        conversations: Conversations,
        ledger: TaskLedger,
        registry: WorkerRegistry,
        messages: Messages,
        metrics: Metrics,
    ) -> None:
        self._settings = settings
        self._models = models
        self._admission = admission
        self._conversations = conversations
        self._ledger = ledger
        self._registry = registry
        self._messages = messages
        self._metrics = metrics
        self._loop_policy = LoopPolicy(
            settings.loop_prevention, settings.loop_max_repeats, settings.loop_max_tool_rounds
        )

    async def start(
        self,
        caller: Caller,
        read: Read,
        *,
        context: str = "",
        large: bool = False,
        resent: Resent | None = None,
        lenient: bool = False,
    ) -> Started:
        """Accepts the task and sends its message. From then on it ends in exactly one `end` event.

        `read` makes the parameters: what it refuses is counted with all other refusals.
        `context`: place in its trace from which the task comes (`tracing.context_text`).
        `large`: the request is so long that checking it must not hold up the event loop.
        `resent`: as `TaskLedger.accept` has it. `lenient`: as `assemble` has it.
        Raises ApiError.
        """
        with scope(tenant=caller.tenant):
            try:
                caller.need("ask")
                return await self._start(
                    caller, await read(), context=context, large=large, resent=resent, lenient=lenient
                )
            except Exception as error:
                refusal = as_api_error(error)
                audit.refused("create", caller, refusal)
                self._metrics.refused.labels(type(refusal).__name__).inc()
                self._metrics.refused_of_tenant.labels(self._metrics.tenant_label(caller.tenant)).inc()
                raise refusal from None

    async def admit(self, caller: Caller) -> None:
        """For what is kept for a caller and is no task: it is bound by the same rate and memory. Raises ApiError."""
        async with answered_within(self._settings.redis_timeout):
            await self._admission.admit()
            try:
                await self._ledger.spend(caller.tenant, account=caller.account, tenant_rate=self._settings.rate)
            except Refusal as refusal:
                raise await self._admission.refused(self._models.names[0], refusal) from None

    async def _start(
        self,
        caller: Caller,
        params: CreateMessageParams,
        *,
        context: str,
        large: bool,
        resent: Resent | None,
        lenient: bool,
    ) -> Started:
        settings = self._settings
        fingerprint = ""
        if params.idempotency_key is not None:
            fingerprint = await asyncio.to_thread(fingerprint_of, params) if large else fingerprint_of(params)
        store = caller.stores(params.store)
        params = params.model_copy(update={"priority": caller.priority(params.priority), "store": store})
        if not store and params.conversation_id is not None:
            raise invalid_param(
                ("conversation_id",), "names a conversation to be stored, but this request, or its key, stores nothing"
            )
        task_id = new_task_id()
        origin, saved_as = _origin(params), _saved_as(params, task_id)
        async with answered_within(settings.redis_timeout):
            stored = await self._conversations.load(caller.tenant, origin) if origin else None
            # What was accepted once is not judged again: since then the conversation has grown, the queue filled, a
            # setting changed. It is looked up behind the conversation: if it is not known, its answer is not in there.
            if known := await self._sent_before(caller, params.idempotency_key, fingerprint, resent):
                return known
            model = self._models.chosen(caller, params.model)
            timeout_seconds = self._timeout_seconds(params.timeout_seconds)
            await self._admission.admit()
            if origin:
                await self._check_turn(model, origin, stored)
            card = await self._registry.card(model)

        def prepare() -> tuple[InferenceRequest, ExpectedTokens, Beginnings]:
            messages = stored.messages if stored else None
            request = inference_request(
                params,
                model,
                self._loop_policy,
                stored=messages,
                saved_as=saved_as,
                most_kept=settings.max_conversation_bytes,
                card=card,
                lenient=lenient,
            )
            return request, expected_tokens(request, card), beginnings_of(request, caller.tenant)

        request, expected, beginnings = await asyncio.to_thread(prepare) if large else prepare()
        self._admission.check_size(caller, expected)
        thread = params if isinstance(params, ThreadParams) else ThreadParams()
        with sending(
            task_id, model=model, priority=params.priority, tenant=caller.tenant, parent=context
        ) as sent_context:
            headers = message_headers(sent_context)
            async with answered_within(settings.redis_timeout):
                try:
                    accepted = await self._ledger.accept(
                        task_id,
                        request,
                        tenant=caller.tenant,
                        timeout_seconds=timeout_seconds,
                        max_waiting=settings.max_waiting,
                        max_tenant_tasks=settings.max_tenant_tasks,
                        max_conversations=settings.max_tenant_conversations,
                        idempotency_key=params.idempotency_key,
                        fingerprint=fingerprint,
                        resent=resent,
                        built_on=stored.version if stored and origin == saved_as else None,
                        conversation_seconds=settings.response_seconds if thread.keep else None,
                        note=thread.note,
                        context=sent_context,
                        account=caller.account,
                        expected=expected,
                        weight=caller.policy.weight,
                        beginnings=beginnings,
                        slots=card.slots if card else None,
                        tenant_rate=settings.rate,
                        message=self._messages.write(task_id, model, params.priority, headers),
                    )
                except Refusal as refusal:
                    raise await self._admission.refused(model, refusal) from None
            bind(task_id=accepted.task_id, model=model)
            if accepted.new:
                audit.done("create", caller, accepted.task_id, model=model)
                self._metrics.accepted.labels(model).inc()
                self._metrics.accepted_of_tenant.labels(self._metrics.tenant_label(caller.tenant)).inc()
                self._messages.follow(accepted, params.priority, headers)
        revision = card.revision if card else None
        return Started(accepted.task_id, model, revision, accepted.new, accepted.allowance)

    def _timeout_seconds(self, wanted: float | None) -> float:
        longest = self._settings.max_timeout_seconds
        if wanted is None:
            return min(self._settings.default_timeout_seconds, longest)
        if wanted > longest:
            raise invalid_param(("timeout_seconds",), f"must be at most {longest:g}")
        return wanted

    async def _sent_before(
        self, caller: Caller, idempotency_key: str | None, fingerprint: str, resent: Resent | None
    ) -> Started | None:
        """The task of a request that comes again."""
        if idempotency_key is None and (resent is None or not resent.joins):
            return None
        try:
            known = await self._ledger.find(
                caller.tenant, idempotency_key=idempotency_key, fingerprint=fingerprint, resent=resent
            )
        except IdempotencyConflict:
            raise key_reused() from None
        if known is None:
            return None
        bind(task_id=known.task_id, model=known.model)
        card = await self._registry.card(known.model)
        return Started(known.task_id, known.model, card.revision if card else None, new=False)

    async def _check_turn(self, model: str, conversation_id: str, stored: StoredConversation | None) -> None:
        """Raises ConversationBusy or ConversationNotFound. What changes from here on, the ledger sees."""
        if stored is None:
            raise ConversationNotFound(
                f"there is no conversation {conversation_id!r}; it may have expired. "
                "Start it with `messages`, or with `history` (an empty one will do) and `message`"
            )
        if stored.open_turn is not None:
            raise await self._admission.refused(model, ConversationBusy(stored.open_turn))


def _origin(params: CreateMessageParams) -> str | None:
    """The stored conversation that the request continues; None where it brings its own or starts one.

    `messages` that begin with a tool's result can only go on: a conversation never starts so.
    """
    if isinstance(params, ThreadParams):
        return params.goes_on_from
    if params.conversation_id is None or params.history is not None:
        return None
    goes_on = params.messages is None or isinstance(params.messages[0], ToolMessage)
    return params.conversation_id if goes_on else None


def _saved_as(params: CreateMessageParams, task_id: str) -> str | None:
    """The stored conversation that the answer becomes a part of."""
    if params.conversation_id is None and isinstance(params, ThreadParams) and params.keep:
        return kept_as(task_id)
    return params.conversation_id
