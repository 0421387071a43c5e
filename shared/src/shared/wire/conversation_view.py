"""What a client is told of a stored conversation."""

from shared.wire.chat import ChatMessage
from shared.wire.schemas import WireType


class ConversationView(WireType):
    """The result of `get_conversation`: a conversation between two turns, or with one open."""

    conversation_id: str
    messages: list[ChatMessage]
    """All that was said, without the question of an open turn."""
    open_turn: str | None = None
    """The task whose answer it waits for: until that has ended, no other message is taken."""
    metadata: dict[str, str]
    """A client's own notes, if it has made any."""


class ConversationDeletion(WireType):
    """The result of `delete_conversation`."""

    deleted: bool
    """False when there was none (any more)."""
