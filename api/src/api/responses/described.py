"""The replies of this door in `/openapi.json`, as far as their readers rely on them."""

from typing import Any

from api.errors import (
    ConversationBusy,
    ConversationNotFound,
    EventsLost,
    InvalidParams,
    NoTokenizer,
    RateExceeded,
    StoreFull,
    TaskExpired,
    TaskNotEnded,
    TaskNotFound,
    TooManyConversations,
    TooManyStreams,
)
from api.http.openapi import CALLING, ENDING, READING

Json = dict[str, Any]

FINDING = (*CALLING, TaskNotFound, TaskExpired)
"""What a route about one response may refuse."""
FOLLOWING = (*FINDING, InvalidParams, EventsLost, TooManyStreams)
FORGETTING = (*FINDING, TaskNotEnded, ConversationBusy)
RESPONDING = (*ENDING, TooManyConversations, ConversationNotFound, ConversationBusy)
COUNTING = (*RESPONDING, NoTokenizer)
NAMING = (*CALLING, ConversationNotFound)
"""What a route about one conversation may refuse."""
CHANGING = (*READING, ConversationNotFound, ConversationBusy, RateExceeded, TooManyConversations, StoreFull)


def _object(title: str, kind: str, **properties: Json) -> Json:
    """Of these properties, all of which are there."""
    named: Json = {"object": {"const": kind}} | properties
    return {"title": title, "type": "object", "required": [*named], "properties": named}


_TEXT: Json = {"type": "string"}
_OBJECTS: Json = {"type": "array", "items": {"type": "object", "required": ["id", "type"]}}

RESPONSE = _object(
    "Response",
    "response",
    id=_TEXT,
    created_at={"type": "integer"},
    status={"enum": ["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]},
    model=_TEXT,
    output=_OBJECTS,
    error={"type": ["object", "null"]},
    usage={"type": ["object", "null"]},
)
EVENTS = "`stream: true`: numbered events, each under its type, and `[DONE]` at the end (docs/responses.md)."
COUNT = _object("InputTokens", "response.input_tokens", input_tokens={"type": "integer"})
DELETED = _object("DeletedResponse", "response", id=_TEXT, deleted={"const": True})
ITEMS = _object(
    "Items",
    "list",
    data=_OBJECTS,
    first_id={"type": ["string", "null"]},
    last_id={"type": ["string", "null"]},
    has_more={"type": "boolean"},
)
ITEM: Json = {"title": "Item", "type": "object", "required": ["id", "type"]}
CONVERSATION = _object(
    "StoredConversation", "conversation", id=_TEXT, created_at={"type": "integer"}, metadata={"type": "object"}
)
FORGOTTEN = _object("DeletedConversation", "conversation.deleted", id=_TEXT, deleted={"const": True})
