"""What clients that wait for a worker are told."""

import json
from typing import Any

import pytest

from api.hub.event_hub import EventHub
from api.models import Models
from api.streaming.positions import Positions
from api.streaming.reader import Reader
from api.tenants.caller import Caller
from shared.store.task_lists import TaskLists
from shared.store.worker_registry import WorkerRegistry
from shared.wire.schemas import ModelCard
from testbed.fake_worker import DEFAULT_MODEL, FakeWorker


@pytest.fixture
def positions(lists: TaskLists, models: Models) -> Positions:
    return Positions(lists, models)


async def waiting_reader(hub: EventHub, task_id: str) -> tuple[Reader, Any]:
    """A reader that has read of its task's acceptance, and its iteration."""
    reader = Reader(hub.follow(task_id), model=DEFAULT_MODEL, required=False, caller=Caller("me"))
    batches = aiter(reader.subscription)
    reader.note(await anext(batches))
    return reader, batches


async def test_a_place_is_told_when_it_has_changed_and_once(
    hub: EventHub, worker: FakeWorker, registry: WorkerRegistry, card: ModelCard, positions: Positions
) -> None:
    await registry.announce("w1", card)
    first, second = await worker.accept(), await worker.accept()
    reader, batches = await waiting_reader(hub, second)
    assert (reader.state, reader.told) == ("PENDING", (None, None))
    for place in (2, 1):
        await positions.tell([reader])
        await positions.tell([reader])  # nothing new
        told = await anext(batches)
        assert [json.loads(frame.data) for frame in told] == [
            {"type": "status", "taskId": second, "state": "PENDING", "position": place}
        ]
        assert [frame.id for frame in told] == [b"0-1"]
        reader.note(told)
        if place == 2:
            await worker.claim(first)


async def test_why_nothing_happens_is_told_with_the_place(
    hub: EventHub, worker: FakeWorker, positions: Positions
) -> None:
    reader, batches = await waiting_reader(hub, await worker.accept())
    await positions.tell([reader])
    assert json.loads((await anext(batches))[0].data)["detail"] == "no worker is ready"


async def test_who_waits_no_longer_is_told_nothing(hub: EventHub, worker: FakeWorker, positions: Positions) -> None:
    task_id = await worker.accept()
    reader, batches = await waiting_reader(hub, task_id)
    await worker.claim(task_id)
    await positions.tell([reader])
    assert json.loads((await anext(batches))[0].data)["state"] == "STARTED"
