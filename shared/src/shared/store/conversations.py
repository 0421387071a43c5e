"""Conversations that the server keeps: each one hash, with its messages, their version and the newest turn.

Fields: `messages`, a JSON list; `version`, the id of the task whose answer is the last of them; `turn`, the id of the
newest task that was accepted for the conversation. Only the scripts of the ledger write them: a turn is begun by
`accept` and saved by `end`, each in one step with its task (lua/accept.lua, lua/end.lua).

A turn is open exactly as long as its task has not ended, so nothing can leave a conversation locked.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from pydantic import TypeAdapter
from redis.asyncio import Redis

from shared.store.keys import Keys
from shared.wire.chat import ChatMessage

_MESSAGES: TypeAdapter[list[ChatMessage]] = TypeAdapter(list[ChatMessage])


@dataclass(frozen=True, slots=True)
class StoredConversation:
    """A conversation at one version: a turn that builds on it is accepted only while it is still the newest."""

    messages: list[ChatMessage]
    version: str | None
    """None, and no messages, before its first turn has succeeded."""
    open_turn: str | None = None
    """The task that is not to be overtaken: it was accepted for this conversation and has not ended."""


@dataclass(frozen=True, slots=True)
class ConversationSave:
    """What a task that succeeds leaves in its conversation."""

    messages: str
    """From `conversation_json`: the whole conversation, answer included."""
    seconds: float
    """How long it is kept from then on."""


class Conversations:
    """The stored conversations of all tenants."""

    def __init__(self, redis: Redis, keys: Keys) -> None:
        self._redis = redis
        self._keys = keys

    async def load(self, tenant: str, conversation_id: str) -> StoredConversation | None:
        """None when there is none (any more): it has no messages, and no turn that may bring some."""
        key = self._keys.conversation(tenant, conversation_id)
        fields = cast(list[bytes | None], await self._redis.hmget(key, "messages", "version", "turn"))
        messages, version, turn = fields
        open_turn = None
        if turn is not None and turn != version:
            state = await self._redis.hget(self._keys.task(turn.decode()), "state")
            open_turn = turn.decode() if state not in (None, b"ended") else None
        if messages is None and open_turn is None:
            return None
        return StoredConversation(
            _MESSAGES.validate_json(messages or b"[]"), version.decode() if version else None, open_turn
        )


def conversation_json(messages: Sequence[ChatMessage]) -> str:
    """The messages as they are stored."""
    return _MESSAGES.dump_json(list(messages), exclude_none=True).decode()
