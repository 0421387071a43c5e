import asyncio
import itertools
import logging

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import OutOfMemoryError, ResponseError

from worker.tasks.redis_retry import pauses, persist


async def test_what_redis_takes_at_once_was_done_once() -> None:
    async def call() -> str:
        return "done"

    assert await persist(call) == ("done", False)


async def test_what_redis_does_not_take_is_tried_until_it_does(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    answers = iter([RedisConnectionError("away"), OutOfMemoryError("full", status_code="OOM"), None])

    async def call() -> str:
        if (error := next(answers)) is not None:
            raise error
        return "done"

    assert await persist(call) == ("done", True)
    assert [record.getMessage().rpartition(": ")[2] for record in caplog.records] == ["away", "full"]


async def test_what_redis_refuses_for_what_it_is_is_not_tried_for_ever() -> None:
    async def call() -> None:
        raise ResponseError("WRONGTYPE Operation against a key holding the wrong kind of value")

    with pytest.raises(ResponseError):
        await persist(call)


async def test_a_fault_of_ones_own_is_not_tried_again() -> None:
    calls = itertools.count()

    async def call() -> None:
        next(calls)
        raise KeyError("a bug")

    with pytest.raises(KeyError):
        await persist(call)
    assert next(calls) == 1


async def test_the_wait_can_be_ended_from_outside() -> None:
    async def call() -> None:
        raise RedisConnectionError("away")

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await persist(call)


def test_pauses_are_short_at_first_and_bounded_for_ever() -> None:
    first = list(itertools.islice(pauses(), 50))
    assert first == sorted(first)
    assert first[0] <= 0.05
    assert max(first) == 0.5
