"""One request that follows a task: a reader of its stream for as long as the client is there."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.types import Receive

from api.backend import Backend
from api.streaming.audience import Audience, Reader
from shared.store.event_stream import START, EntryId


@asynccontextmanager
async def following(
    backend: Backend,
    audience: Audience,
    receive: Receive,
    *,
    task_id: str,
    model: str,
    required: bool,
    after: EntryId = START,
) -> AsyncIterator[Reader]:
    """The reader; its subscription ends when the client goes away (`receive`) or this process stops. In it, a client
    that takes nothing for too long is cut off: what stands behind `following` runs all the same.

    Whoever iterates over it sets `ended` when the client was given the task's end: then nobody needs the task any more.
    """
    subscription = backend.hub.follow(task_id, after)
    reader = Reader(subscription, task_id=task_id, model=model, required=required)
    reader.task = asyncio.current_task()
    watch = asyncio.create_task(_until_gone(receive, reader))
    try:
        await audience.join(reader)
        yield reader
    except asyncio.CancelledError:
        if not reader.cut:
            raise
    finally:
        watch.cancel()
        subscription.close()
        audience.leave(reader, ended=reader.ended)


async def _until_gone(receive: Receive, reader: Reader) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    reader.gone = True
    reader.subscription.close()
