"""What a client that waits for a worker is told beyond the stream: its place in the queue, and why nothing happens."""

from collections.abc import Sequence

from api.models import Models
from api.streaming.reader import Reader
from shared.store.task_lists import TaskLists
from shared.wire.schemas import StatusEvent


class Positions:
    """The places of waiting tasks in their queues."""

    def __init__(self, lists: TaskLists, models: Models) -> None:
        self._lists = lists
        self._models = models

    async def tell(self, waiting: Sequence[Reader]) -> None:
        """A `status` event for each reader for whom position or detail has changed."""
        details = {model: await self._models.detail(model) for model in {reader.model for reader in waiting}}
        tasks = list({(reader.task_id, reader.model) for reader in waiting})
        positions = dict(zip(tasks, await self._lists.positions(tasks), strict=True))
        for reader in waiting:
            position = positions[reader.task_id, reader.model]
            news = position, details[reader.model]
            if reader.state is None or position is None or news == reader.told:
                continue
            # PENDING also behind a RETRY: that one stands in the stream, and each client sees it once.
            event = StatusEvent(task_id=reader.task_id, state="PENDING", position=position, detail=news[1])
            if reader.subscription.add(b"status", event.model_dump_json(exclude_none=True).encode()):
                reader.told = news
