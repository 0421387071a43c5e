"""Ending background tasks for certain."""

import asyncio
from typing import Any

AGAIN_SECONDS = 0.1


async def cancel_and_wait(*tasks: asyncio.Task[Any]) -> None:
    """Cancels the tasks until they have ended; what they raise is theirs.

    Once is not enough: `asyncio.wait_for` of Python 3.11, which redis-py uses for every command it sends, forgets a
    cancellation that arrives together with its result (https://github.com/python/cpython/issues/86296).
    """
    pending = set(tasks)
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=AGAIN_SECONDS)
