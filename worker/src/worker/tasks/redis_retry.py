"""What must reach Redis is tried until it does; the pauses between attempts, in one place."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from itertools import chain, repeat
from typing import TypeVar

from redis.exceptions import RedisError

from shared.store.outage import kind_of

log = logging.getLogger(__name__)

T = TypeVar("T")


def pauses() -> Iterator[float]:
    """Seconds between attempts: short at first, so that a restart of Redis costs little."""
    return chain((0.05, 0.1, 0.2), repeat(0.5))


async def persist(call: Callable[[], Awaitable[T]]) -> tuple[T, bool]:
    """The result of the first call that Redis answers; True beside it when an earlier one may have had its effect too.
    Raises redis.exceptions.ResponseError where it refuses this one call for what it is: it would do so for ever.

    There is no limit of time here: a worker that gives up would leave a task without an ending. The lease, the deadline
    and the drain end the wait from outside.
    """
    repeated = False
    for pause in pauses():
        try:
            return await call(), repeated
        except RedisError as error:
            if kind_of(error) is None:
                raise
            log.debug("Redis does not answer, trying again: %s", error)
            repeated = True
            await asyncio.sleep(pause)
    raise AssertionError("pauses() has no end")
