"""What a client that waits for a worker is told beyond the stream: its place in the queue, and why nothing happens."""

import json
from collections.abc import Sequence
from typing import Protocol

from api.backend import Backend
from shared.wire.schemas import State, StatusEvent


class Waiting(Protocol):
    """A reader of one task's stream."""

    task_id: str
    model: str
    state: State | None
    """PENDING or RETRY while the task waits, as far as the reader has been told."""
    told: tuple[int | None, str | None]
    """Position and detail that it heard last."""

    def add(self, kind: bytes, data: bytes) -> bool:
        """Puts an event into the reader's stream; False when that is not possible now."""


async def tell_positions(backend: Backend, waiting: Sequence[Waiting]) -> None:
    """A `status` event for each reader for whom position or detail has changed."""
    details = {model: await waiting_detail(backend, model) for model in {reader.model for reader in waiting}}
    tasks = list({(reader.task_id, reader.model) for reader in waiting})
    positions = dict(zip(tasks, await backend.lists.positions(tasks), strict=True))
    for reader in waiting:
        position = positions[reader.task_id, reader.model]
        news = position, details[reader.model]
        if reader.state is None or position is None or news == reader.told:
            continue
        # PENDING also behind a RETRY: that one stands in the stream, and each client sees it once.
        event = StatusEvent(task_id=reader.task_id, state="PENDING", position=position, detail=news[1])
        if reader.add(b"status", event.model_dump_json(exclude_none=True).encode()):
            reader.told = news


async def waiting_detail(backend: Backend, model: str) -> str | None:
    """What is being done about a model without a ready worker; None when it has one."""
    if await backend.registry.ready(model):
        return None
    starting = await backend.registry.starting(model)
    if backend.capacity is not None and (detail := await backend.capacity.detail(model, starting)):
        return detail
    return "; ".join(sorted(set(starting))) or "no worker is ready"


def note_status(reader: Waiting, data: bytes) -> None:
    """Remembers what a `status` event of the stream told the reader."""
    event = json.loads(data)
    reader.state = event["state"] if event["state"] in ("PENDING", "RETRY") else None
    reader.told = event.get("position"), event.get("detail")
