"""Tasks that nobody reads any more, by the marks of all replicas."""

import pytest
from redis.asyncio import Redis

from api.hub.reader_marks import ReaderMarks
from shared.store.keys import Keys
from shared.store.redis_client import now_ms


@pytest.fixture
def marks(redis: Redis, keys: Keys) -> ReaderMarks:
    return ReaderMarks(redis, keys, window_seconds=0.09)


@pytest.fixture
def patient(redis: Redis, keys: Keys) -> ReaderMarks:
    """Of another replica, with a window that does not run out within a test."""
    return ReaderMarks(redis, keys, window_seconds=600)


@pytest.fixture
async def later(redis: Redis) -> int:
    """When the marks of `marks` have run out, and those of `patient` not, in ms."""
    return await now_ms(redis) + 60_000


async def test_a_mark_that_nobody_renews_runs_out(
    marks: ReaderMarks, patient: ReaderMarks, redis: Redis, later: int
) -> None:
    await marks.renew(["t1"])
    await patient.renew(["t2"])
    assert await marks.abandoned(await now_ms(redis)) == []
    assert await marks.abandoned(later) == ["t1"]


async def test_a_reader_that_leaves_shortens_the_mark_and_another_one_renews_it(
    marks: ReaderMarks, patient: ReaderMarks, later: int
) -> None:
    await patient.renew(["t1"])
    await marks.left("t1")
    assert await marks.abandoned(later) == ["t1"]
    await patient.renew(["t1"])
    assert await marks.abandoned(later) == []


async def test_a_task_that_has_ended_is_forgotten(marks: ReaderMarks, redis: Redis, keys: Keys) -> None:
    await marks.renew(["t1", "t2"])
    await marks.forget(["t1", "t2"])
    await marks.forget([])
    await marks.renew([])
    assert not await redis.exists(keys.readers)
