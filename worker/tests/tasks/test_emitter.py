import asyncio
from collections.abc import Sequence
from typing import Any, cast

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from shared.cancellation import cancel_and_wait
from shared.store.event_stream import EventStream, TokenWrite, TokenWriter
from worker.tasks.emitter import BrokenWriter, Emitter


class Stream:
    """A stream that can be slow, away, or refuse a task."""

    def __init__(self) -> None:
        self.batches: list[list[TokenWrite]] = []
        self.open = asyncio.Event()
        self.open.set()
        self.failures = 0
        self.refused: set[str] = set()
        self.errors: dict[str, ResponseError] = {}

    async def write(self, writes: Sequence[TokenWrite]) -> list[bool | ResponseError]:
        await self.open.wait()
        if self.failures:
            self.failures -= 1
            raise RedisConnectionError("away")
        self.batches.append(list(writes))
        return [self.errors.get(write.task_id, write.task_id not in self.refused) for write in writes]


async def _with_emitter(stream: Stream, lost: list[TokenWriter], steps: Any) -> None:
    emitter = Emitter(cast(EventStream, stream), lost.append, lost.append)
    running = asyncio.create_task(emitter.run())
    try:
        async with asyncio.timeout(5):
            await steps(emitter)
    finally:
        await cancel_and_wait(running)


async def test_all_tasks_of_a_step_are_written_in_one_batch_and_what_comes_meanwhile_in_the_next() -> None:
    stream = Stream()
    writers = [TokenWriter(f"t{at}", 1, 0) for at in range(3)]

    async def steps(emitter: Emitter) -> None:
        stream.open.clear()
        for step in range(4):
            for writer in writers:
                writer.add([step], f"{step}")
                emitter.mark(writer)
            await asyncio.sleep(0.01)
        stream.open.set()
        for writer in writers:
            await emitter.flush(writer)

    await _with_emitter(stream, [], steps)

    written = [batch for batch in stream.batches if batch]
    assert [[write.entry.token_ids for write in batch] for batch in written] == [[(0,)] * 3, [(1, 2, 3)] * 3]
    assert all(len({write.task_id for write in batch}) == len(batch) for batch in written)


async def test_a_batch_that_redis_does_not_take_is_written_again_unchanged() -> None:
    stream = Stream()
    stream.failures = 2
    writer = TokenWriter("t", 1, 0)

    async def steps(emitter: Emitter) -> None:
        writer.add([7], "x")
        await emitter.flush(writer)

    await _with_emitter(stream, [], steps)

    assert [write.entry.token_ids for batch in stream.batches for write in batch] == [(7,)]


async def test_an_entry_that_redis_refuses_for_what_it_is_ends_its_own_task_alone() -> None:
    stream, broken = Stream(), list[TokenWriter]()
    stream.errors["sick"] = ResponseError("WRONGTYPE Operation against a key holding the wrong kind of value")
    sick, healthy = TokenWriter("sick", 1, 0), TokenWriter("healthy", 1, 0)

    async def steps(emitter: Emitter) -> None:
        for writer in (sick, healthy):
            writer.add([1], "a")
            emitter.mark(writer)
        await emitter.flush(healthy)
        with pytest.raises(BrokenWriter):
            await emitter.flush(sick)

    await _with_emitter(stream, broken, steps)

    assert broken == [sick]
    assert len([batch for batch in stream.batches if batch]) == 1, "nothing is written again"


async def test_a_writer_whose_stream_refuses_it_is_reported() -> None:
    stream = Stream()
    stream.refused = {"zombie"}
    lost: list[TokenWriter] = []
    zombie, healthy = TokenWriter("zombie", 1, 0), TokenWriter("healthy", 1, 0)

    async def steps(emitter: Emitter) -> None:
        for writer in (zombie, healthy):
            writer.add([1], "a")
            emitter.mark(writer)
        await emitter.flush(healthy)

    await _with_emitter(stream, lost, steps)

    assert lost == [zombie]


async def test_two_attempts_at_one_task_are_two_writers() -> None:
    """A worker that claims again what it had lost holds both for a while."""
    stream = Stream()
    lost, again = TokenWriter("t", 1, 0), TokenWriter("t", 2, 0)

    async def steps(emitter: Emitter) -> None:
        again.add([7], "x")
        emitter.mark(again)
        await emitter.flush(lost)
        await emitter.flush(again)

    await _with_emitter(stream, [], steps)

    assert [(write.entry.id.attempt, write.entry.token_ids) for batch in stream.batches for write in batch] == [
        (2, (7,))
    ]


async def test_flushing_a_writer_with_nothing_new_returns() -> None:
    async def steps(emitter: Emitter) -> None:
        await emitter.flush(TokenWriter("t", 1, 0))

    await _with_emitter(Stream(), [], steps)


class BrokenTokens(TokenWriter):
    """Cannot say what it was given."""

    def take(self) -> TokenWrite | None:
        raise ValueError("planted")


async def test_a_writer_that_cannot_write_is_told_of_and_delays_nobody() -> None:
    stream, broken = Stream(), list[TokenWriter]()
    writers = [TokenWriter("before", 1, 0), BrokenTokens("broken", 1, 0), TokenWriter("behind", 1, 0)]

    async def steps(emitter: Emitter) -> None:
        for writer in writers:
            writer.add([1], "a")
            emitter.mark(writer)
        for writer in (writers[0], writers[2]):
            await emitter.flush(writer)
        with pytest.raises(BrokenWriter):
            await emitter.flush(writers[1])

    await _with_emitter(stream, broken, steps)

    assert {write.task_id for batch in stream.batches for write in batch} == {"before", "behind"}
    assert set(broken) == {writers[1]}
