"""`/v1/conversations`: the stored conversations that `conversation` and `conversationId` name."""

import asyncio
import secrets
from collections.abc import Sequence

from fastapi import APIRouter, Depends, Request

from api.errors import ConversationBusy, ConversationNotFound, InvalidParams
from api.http.dependencies import backend_of, caller_of
from api.http.lenient_body import checked
from api.http.openai_errors import ERROR
from api.http.openapi import body_of, replies
from api.http.request_body import read_body
from api.json_body import LARGE_BYTES
from api.responses.described import CHANGING, CONVERSATION, FORGOTTEN, ITEM, ITEMS, NAMING
from api.responses.items import Messages, items_of, messages_of, without
from api.responses.open_item import Json
from api.responses.pages import PAGING, page
from api.responses.requests import ConversationUpdate, Item, NewConversation, NewItems
from shared.store.conversations import Metadata
from shared.wire.chat import ChatMessage

router = APIRouter(prefix="/v1", dependencies=[Depends(caller_of)])


@router.post(
    "/conversations",
    openapi_extra=body_of(NewConversation, required=False),
    responses=replies(CONVERSATION, ERROR, CHANGING),
)
async def create(request: Request) -> Json:
    """A new conversation, empty or with first items."""
    backend, caller = backend_of(request), caller_of(request)
    body = await read_body(request)
    wanted = await checked(NewConversation, body or b"{}")
    await backend.new_tasks.admit(caller)
    said = await _messages(wanted.items or [], body)
    conversation_id = f"conv_{secrets.token_hex(16)}"
    made = await backend.own_conversations.create(caller, conversation_id, said.messages, wanted.metadata or {})
    return _conversation(conversation_id, made.created, made.metadata)


@router.get("/conversations/{conversation_id}", responses=replies(CONVERSATION, ERROR, NAMING))
async def retrieve(conversation_id: str, request: Request) -> Json:
    """The conversation without its items."""
    stored = await backend_of(request).own_conversations.get(caller_of(request), conversation_id)
    return _conversation(conversation_id, stored.created, stored.metadata)


@router.post(
    "/conversations/{conversation_id}",
    openapi_extra=body_of(ConversationUpdate),
    responses=replies(CONVERSATION, ERROR, CHANGING),
)
async def update(conversation_id: str, request: Request) -> Json:
    """Replaces the metadata."""
    backend, caller = backend_of(request), caller_of(request)
    wanted = await checked(ConversationUpdate, await read_body(request))
    metadata = wanted.metadata or {}
    created = await backend.own_conversations.annotate(caller, conversation_id, metadata)
    return _conversation(conversation_id, created, metadata)


@router.delete("/conversations/{conversation_id}", responses=replies(FORGOTTEN, ERROR, NAMING))
async def delete(conversation_id: str, request: Request) -> Json:
    """Forgets it, with all its items."""
    if not await backend_of(request).own_conversations.delete(caller_of(request), conversation_id):
        raise ConversationNotFound(f"there is no conversation {conversation_id[:128]!r}; it may have expired")
    return {"id": conversation_id, "object": "conversation.deleted", "deleted": True}


@router.get(
    "/conversations/{conversation_id}/items",
    openapi_extra=PAGING,
    responses=replies(ITEMS, ERROR, (*NAMING, InvalidParams)),
)
async def list_items(conversation_id: str, request: Request) -> Json:
    """Its items, a page at a time."""
    stored = await backend_of(request).own_conversations.get(caller_of(request), conversation_id)

    def listed() -> Json:
        return page([entry.item for entry in items_of(stored.messages)], request.query_params)

    return await asyncio.to_thread(listed)


@router.post(
    "/conversations/{conversation_id}/items", openapi_extra=body_of(NewItems), responses=replies(ITEMS, ERROR, CHANGING)
)
async def add_items(conversation_id: str, request: Request) -> Json:
    """Adds items at the end, between two turns."""
    backend, caller = backend_of(request), caller_of(request)
    body = await read_body(request)
    said = await _messages((await checked(NewItems, body)).items, body)
    count = 0

    def added(before: Sequence[ChatMessage]) -> Sequence[ChatMessage]:
        nonlocal count
        count = len(items_of(before))
        return [*before, *said.messages]

    changed = await backend.own_conversations.change(caller, conversation_id, added)
    new = [entry.item for entry in items_of(changed.messages)][count:]
    return {
        "object": "list",
        "data": [*new],
        "first_id": new[0]["id"] if new else "",
        "last_id": new[-1]["id"] if new else "",
        "has_more": False,
    }


@router.get("/conversations/{conversation_id}/items/{item_id}", responses=replies(ITEM, ERROR, NAMING))
async def retrieve_item(conversation_id: str, item_id: str, request: Request) -> Json:
    """One of its items."""
    stored = await backend_of(request).own_conversations.get(caller_of(request), conversation_id)
    for entry in items_of(stored.messages):
        if entry.id == item_id:
            return entry.item
    raise _no_item(item_id)


@router.delete(
    "/conversations/{conversation_id}/items/{item_id}",
    responses=replies(CONVERSATION, ERROR, (*NAMING, ConversationBusy)),
)
async def delete_item(conversation_id: str, item_id: str, request: Request) -> Json:
    """Takes one of its items out, between two turns."""
    backend, caller = backend_of(request), caller_of(request)

    def rest(before: Sequence[ChatMessage]) -> Sequence[ChatMessage]:
        for entry in items_of(before):
            if entry.id == item_id:
                return without(before, entry)
        raise _no_item(item_id)

    changed = await backend.own_conversations.change(caller, conversation_id, rest)
    return _conversation(conversation_id, changed.created, changed.metadata)


async def _messages(items: Sequence[Item], body: bytes) -> Messages:
    if len(body) > LARGE_BYTES:
        return await asyncio.to_thread(messages_of, items, "items")
    return messages_of(items, "items")


def _conversation(conversation_id: str, created: int, metadata: Metadata) -> Json:
    return {
        "id": conversation_id,
        "object": "conversation",
        "created_at": created // 1000,
        "metadata": dict(metadata),
    }


def _no_item(item_id: str) -> ConversationNotFound:
    return ConversationNotFound(f"there is no item {item_id[:128]!r} in this conversation")
