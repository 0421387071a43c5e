"""Reading a request of `/v1/responses`: its body, what it refers to, and errors in the client's own words."""

import asyncio
import json

from api.backend import Backend
from api.errors import ApiError, ConversationNotFound, TaskExpired, TaskNotFound
from api.http.lenient_body import checked, within_bounds
from api.invalid_params import invalid_param
from api.json_body import LARGE_BYTES
from api.responses.ids import is_response_id, response_of_item, task_of
from api.responses.items import Messages, messages_of
from api.responses.open_item import Json
from api.responses.progress import Progress
from api.responses.requests import Item, ResponseRequest
from api.responses.response_params import SPELLED, echo, refuse_unsupported, thread_params
from api.tasks.thread_params import ThreadParams
from api.tenants.caller import Caller
from shared.wire.schemas import SamplingDefaults

MOST_REFERRED = 100
"""Responses whose items one request refers to."""


class Reading:
    """One request. What it holds is there once `params` has returned."""

    wanted: ResponseRequest
    asked: Json
    """What the response repeats of it."""

    def __init__(self, backend: Backend, caller: Caller, body: bytes, idempotency_key: str | None) -> None:
        self._backend = backend
        self._caller = caller
        self._body = body
        self._key = idempotency_key
        self._said = Messages([], [])

    async def params(self) -> ThreadParams:
        """Raises ApiError."""
        wanted = await checked(ResponseRequest, self._body)
        # What is not stored is told so, and is no background response.
        wanted = wanted.model_copy(update={"store": self._caller.stores(wanted.stored)})
        self.wanted = wanted
        refuse_unsupported(wanted)
        if wanted.previous_response_id is not None and not is_response_id(wanted.previous_response_id):
            raise self._nothing_to_go_on_from()
        model = self._backend.models.chosen(self._caller, wanted.model)
        card = await self._backend.registry.card(model)
        self.asked = echo(wanted, model, card.sampling if card else SamplingDefaults(temperature=1.0))
        items = wanted.input if isinstance(wanted.input, str) else await self._resolved(wanted.input or [])

        def made() -> ThreadParams:
            self._said = messages_of(items)
            return within_bounds(self._made, wanted, self._key)

        return await asyncio.to_thread(made) if len(self._body) > LARGE_BYTES else made()

    def told(self, error: ApiError) -> ApiError:
        """The error with the place of its fault as this door has it."""
        if isinstance(error, ConversationNotFound):
            return self._nothing_to_go_on_from()
        place = self._said.place(error.place)
        match place:
            case ("response_format", _, *inside):
                place = ("text", "format", *inside)
            case ("tools", at, "function", *inside):
                place = ("tools", at, *inside)
            case (str(name), *inside) if name in SPELLED:
                place = (SPELLED[name], *inside)
        error.place = place
        return error

    def _made(self, wanted: ResponseRequest, key: str | None) -> ThreadParams:
        return thread_params(wanted, self._said.messages, note=json.dumps(self.asked), idempotency_key=key)

    def _nothing_to_go_on_from(self) -> ConversationNotFound:
        if self.wanted.conversation_id is not None:
            return ConversationNotFound(
                f"there is no conversation {self.wanted.conversation_id!r}; it may have expired",
                place=("conversation",),
            )
        return ConversationNotFound(
            f"there is no response {self.wanted.previous_response_id!r} to go on from: it was not stored, did not "
            "succeed, is part of a conversation, or has expired",
            place=("previous_response_id",),
        )

    async def _resolved(self, items: list[Item]) -> list[Item]:
        """The items, with what references refer to in their place. Raises InvalidParams."""
        if not any(item.kind == "item_reference" for item in items):
            return items
        outputs: dict[str, dict[str, Item]] = {}
        resolved: list[Item] = []
        for at, item in enumerate(items):
            if item.kind != "item_reference":
                resolved.append(item)
                continue
            response_id = response_of_item(item.id or "")
            if response_id is not None and response_id not in outputs:
                if len(outputs) == MOST_REFERRED:
                    raise invalid_param(("input", at), f"refers to more than {MOST_REFERRED} responses")
                outputs[response_id] = await self._output(response_id)
            found = outputs[response_id].get(item.id or "") if response_id else None
            if found is None:
                raise invalid_param(("input", at), f"refers to {item.id!r}, which is no item of a response (any more)")
            resolved.append(found)
        return resolved

    async def _output(self, response_id: str) -> dict[str, Item]:
        try:
            record, entries = await self._backend.own_tasks.log(self._caller, task_of(response_id))
        except (TaskNotFound, TaskExpired):
            return {}
        progress = Progress(record.task_id, json.loads(record.note or b'{"metadata":{}}'))
        output = progress.read(entries).response()["output"]
        assert isinstance(output, list)
        items = [Item.model_validate(item) for item in output]
        return {str(item.id): item for item in items}
