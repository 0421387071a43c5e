"""Conversations that the server keeps: each one hash, with its messages, their version and the newest turn.

Fields: `messages`, a JSON list; `version`, the id of the task whose answer is the last of them, or of the last change
that was no turn; `turn`, the id of the newest task that was accepted for the conversation; `created`, in milliseconds;
`metadata`, a JSON object. A turn is begun by `accept` and saved by `end`, each in one step with its task
(lua/accept.lua, lua/end.lua); between turns a client may change the messages (lua/edit_conversation.lua).

A turn is open exactly as long as its task has not ended, so nothing can leave a conversation locked.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

from pydantic import TypeAdapter
from redis.asyncio import Redis

from shared.store.keys import Keys
from shared.store.refusals import ConversationBusy, ConversationChanged, ConversationsFull
from shared.store.scripts import Scripts
from shared.store.task_id import new_task_id
from shared.wire.chat import ChatMessage

Metadata = Mapping[str, str]
"""A client's own notes on a conversation."""

_MESSAGES: TypeAdapter[list[ChatMessage]] = TypeAdapter(list[ChatMessage])
_METADATA: TypeAdapter[dict[str, str]] = TypeAdapter(dict[str, str])


@dataclass(frozen=True, slots=True)
class StoredConversation:
    """A conversation at one version: a turn that builds on it is accepted only while it is still the newest."""

    messages: list[ChatMessage]
    version: str | None
    """None, and no messages, before its first turn has succeeded."""
    open_turn: str | None = None
    """The task that is not to be overtaken: it was accepted for this conversation and has not ended."""
    created: int = field(default=0, compare=False)
    """Milliseconds of Redis's clock; 0 where nobody knows."""
    metadata: Metadata = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ConversationSave:
    """What a task that succeeds leaves in its conversation."""

    messages: str
    """From `conversation_json`: the whole conversation, answer included."""
    seconds: float
    """How long it is kept from then on, where its task does not say."""


class Conversations:
    """The stored conversations of all tenants."""

    def __init__(self, redis: Redis, keys: Keys) -> None:
        self._redis = redis
        self._keys = keys
        self._scripts = Scripts(redis, keys, "edit_conversation", "delete_conversation")

    async def load(self, tenant: str, conversation_id: str) -> StoredConversation | None:
        """None when there is none (any more): it has no messages, and no turn that may bring some."""
        key = self._keys.conversation(tenant, conversation_id)
        names = ["messages", "version", "turn", "created", "metadata"]
        fields = cast(list[bytes | None], await self._redis.hmget(key, names))
        messages, version, turn, created, metadata = fields
        open_turn = None
        if turn is not None and turn != version:
            state = await self._redis.hget(self._keys.task(turn.decode()), "state")
            open_turn = turn.decode() if state not in (None, b"ended") else None
        if messages is None and open_turn is None:
            return None
        return StoredConversation(
            _MESSAGES.validate_json(messages or b"[]"),
            version.decode() if version else None,
            open_turn,
            int(created or 0),
            _METADATA.validate_json(metadata or b"{}"),
        )

    async def save(
        self,
        tenant: str,
        conversation_id: str,
        messages: Sequence[ChatMessage],
        *,
        seconds: float,
        built_on: str | None = None,
        metadata: Metadata | None = None,
        most: int | None = None,
    ) -> StoredConversation:
        """Makes a conversation, or changes its messages between two turns; it is kept for `seconds` from then on.

        `built_on`: the version that the change was made from; None for a new one. `most`: how many the tenant may have.
        Returns what is stored then. Raises ConversationBusy, ConversationChanged or ConversationsFull.
        """
        version = new_task_id()
        _, created, now = await self._edit(
            tenant,
            conversation_id,
            version,
            messages=conversation_json(messages),
            built_on=built_on,
            metadata=None if metadata is None else _METADATA.dump_json(dict(metadata)).decode(),
            seconds=seconds,
            most=most,
        )
        return StoredConversation(list(messages), version, created=int(created), metadata=_METADATA.validate_json(now))

    async def annotate(self, tenant: str, conversation_id: str, metadata: Metadata, *, seconds: float) -> int | None:
        """Replaces the metadata, under an open turn too. Returns when the conversation was made, as `created` has it;
        None when there is no such conversation (any more).
        """
        text = _METADATA.dump_json(dict(metadata)).decode()
        status, *rest = await self._edit(tenant, conversation_id, new_task_id(), metadata=text, seconds=seconds)
        return None if status == b"missing" else int(rest[0])

    async def delete(self, tenant: str, conversation_id: str) -> bool:
        """False when there is no such conversation (any more). Raises ConversationBusy."""
        key = self._keys.conversation(tenant, conversation_id)
        status, *rest = await self._scripts.run("delete_conversation", "", tenant=tenant, conversation=key)
        if status == b"conversation_busy":
            raise ConversationBusy(rest[0].decode())
        return bool(status == b"done")

    async def _edit(
        self,
        tenant: str,
        conversation_id: str,
        version: str,
        *,
        seconds: float,
        messages: str | None = None,
        built_on: str | None = None,
        metadata: str | None = None,
        most: int | None = None,
    ) -> list[bytes]:
        status, *rest = await self._scripts.run(
            "edit_conversation",
            version,
            tenant=tenant,
            conversation=self._keys.conversation(tenant, conversation_id),
            max_conversations=most,
            messages=messages,
            built_on=built_on,
            metadata=metadata,
            conversation_ms=int(seconds * 1000),
        )
        match status:
            case b"conversations_full":
                raise ConversationsFull(rest[0])
            case b"conversation_busy":
                raise ConversationBusy(rest[0].decode())
            case b"conversation_changed":
                raise ConversationChanged
        return [status, *rest]


def conversation_json(messages: Sequence[ChatMessage]) -> str:
    """The messages as they are stored."""
    return _MESSAGES.dump_json(list(messages), exclude_none=True).decode()
