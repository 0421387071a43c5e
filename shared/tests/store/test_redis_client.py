import asyncio

import pytest
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from shared.store.redis_client import answered_within


async def test_commands_that_take_too_long_together_are_an_error_of_redis() -> None:
    with pytest.raises(RedisTimeoutError, match=r"no answer within 0\.01 s"):
        async with answered_within(0.01):
            await asyncio.Event().wait()
    assert issubclass(RedisTimeoutError, RedisError)


async def test_another_time_out_inside_stays_what_it_is() -> None:
    with pytest.raises(TimeoutError, match="of a tool"):
        async with answered_within(60):
            raise TimeoutError("of a tool")
    with pytest.raises(TimeoutError) as inner:
        async with answered_within(60), asyncio.timeout(0.01):
            await asyncio.Event().wait()
    assert not isinstance(inner.value, RedisError)


async def test_what_is_answered_in_time_goes_on() -> None:
    async with answered_within(60):
        await asyncio.sleep(0)
