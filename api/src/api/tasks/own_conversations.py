"""What callers do with their own stored conversations: look at, make, change between two turns, delete."""

from collections.abc import Callable, Mapping, Sequence

from api.admission import too_many_conversations
from api.errors import ConversationBusy, ConversationNotFound
from api.tasks.request import check_kept
from api.tenants import audit
from api.tenants.caller import Caller, Scope
from shared.store import refusals
from shared.store.conversations import Conversations, StoredConversation
from shared.store.redis_client import answered_within
from shared.wire.chat import ChatMessage

RETRY_SECONDS = 1


class OwnConversations:
    """The stored conversations of this installation, each for callers of its tenant.

    All raise Forbidden, and redis.exceptions.RedisError where Redis does not answer; what changes one raises
    ConversationBusy while a turn is open, or where somebody else was quicker.
    """

    def __init__(
        self, conversations: Conversations, *, seconds: float, most_bytes: int, most: int, redis_timeout: float
    ) -> None:
        """`seconds`: how long one is kept after its last change. `most_bytes`: of text in one. `most`: of a tenant."""
        self._conversations = conversations
        self._seconds = seconds
        self._most_bytes = most_bytes
        self._most = most
        self._redis_timeout = redis_timeout

    async def get(self, caller: Caller, conversation_id: str, *, scope: Scope = "read") -> StoredConversation:
        """The conversation as it stands. Raises ConversationNotFound.

        `scope`: what the caller must be allowed: `ask` where the caller is told nothing of what was said.
        """
        with audit.noted("read", caller, conversation_id=conversation_id):
            caller.need(scope)
            return await self._load(caller, conversation_id)

    async def create(
        self, caller: Caller, conversation_id: str, messages: Sequence[ChatMessage], metadata: Mapping[str, str]
    ) -> StoredConversation:
        """A new one. Raises InvalidParams for one that is too long, or TooManyConversations."""
        with audit.noted("keep", caller, conversation_id=conversation_id):
            caller.need("ask")
            caller.need_store()
            check_kept(messages, self._most_bytes)
            async with answered_within(self._redis_timeout):
                try:
                    return await self._conversations.save(
                        caller.tenant,
                        conversation_id,
                        messages,
                        seconds=self._seconds,
                        metadata=metadata,
                        most=self._most,
                    )
                except refusals.ConversationsFull as full:
                    raise too_many_conversations(full) from None

    async def change(
        self,
        caller: Caller,
        conversation_id: str,
        change: Callable[[Sequence[ChatMessage]], Sequence[ChatMessage]],
    ) -> StoredConversation:
        """Makes other messages of its messages, and returns what is stored then. Raises ConversationNotFound, or
        InvalidParams for what is too long.
        """
        with audit.noted("change", caller, conversation_id=conversation_id):
            caller.need("ask")
            caller.need_store()
            stored = await self._load(caller, conversation_id)
            if stored.open_turn is not None:
                raise _busy(stored.open_turn)
            messages = change(stored.messages)
            check_kept(messages, self._most_bytes)
            try:
                async with answered_within(self._redis_timeout):
                    return await self._conversations.save(
                        caller.tenant, conversation_id, messages, seconds=self._seconds, built_on=stored.version
                    )
            except refusals.ConversationBusy as busy:
                raise _busy(busy.task_id) from None
            except refusals.ConversationChanged:
                raise ConversationBusy(
                    "the conversation went on meanwhile; ask again", retry_after=RETRY_SECONDS
                ) from None

    async def annotate(self, caller: Caller, conversation_id: str, metadata: Mapping[str, str]) -> int:
        """Replaces its metadata. Returns when it was made, in milliseconds. Raises ConversationNotFound."""
        with audit.noted("change", caller, conversation_id=conversation_id):
            caller.need("ask")
            async with answered_within(self._redis_timeout):
                created = await self._conversations.annotate(
                    caller.tenant, conversation_id, metadata, seconds=self._seconds
                )
            if created is None:
                raise _not_found(conversation_id)
        return created

    async def delete(self, caller: Caller, conversation_id: str) -> bool:
        """False when there is none (any more)."""
        with audit.noted("delete", caller, conversation_id=conversation_id):
            caller.need("ask")
            try:
                async with answered_within(self._redis_timeout):
                    return await self._conversations.delete(caller.tenant, conversation_id)
            except refusals.ConversationBusy as busy:
                raise _busy(busy.task_id) from None

    async def _load(self, caller: Caller, conversation_id: str) -> StoredConversation:
        async with answered_within(self._redis_timeout):
            stored = await self._conversations.load(caller.tenant, conversation_id)
        if stored is None:
            raise _not_found(conversation_id)
        return stored


def _not_found(conversation_id: str) -> ConversationNotFound:
    return ConversationNotFound(f"there is no conversation {conversation_id[:128]!r}; it may have expired")


def _busy(task_id: str) -> ConversationBusy:
    return ConversationBusy(
        f"the conversation waits for the answer of the task {task_id}; ask again when it has ended, or cancel it",
        retry_after=RETRY_SECONDS,
        taskId=task_id,
    )
