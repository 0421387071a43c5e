"""Ending background tasks for certain."""

import asyncio

import pytest

from shared import cancellation
from shared.cancellation import cancel_and_wait


async def for_ever() -> None:
    await asyncio.Event().wait()


async def test_tasks_are_gone_when_it_returns() -> None:
    tasks = [asyncio.create_task(for_ever()) for _ in range(3)]
    await asyncio.sleep(0)
    await cancel_and_wait(*tasks)
    assert all(task.cancelled() for task in tasks)


async def test_one_that_swallows_a_cancellation_is_cancelled_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cancellation, "AGAIN_SECONDS", 0.01)
    swallowed = 0

    async def stubborn() -> None:
        nonlocal swallowed
        while swallowed < 3:
            try:
                await for_ever()
            except asyncio.CancelledError:
                swallowed += 1
        await for_ever()

    task = asyncio.create_task(stubborn())
    await asyncio.sleep(0)
    await asyncio.wait_for(cancel_and_wait(task), 5)
    assert swallowed == 3
    assert task.cancelled()


async def test_what_one_raises_while_it_ends_is_its_own() -> None:
    async def broken() -> None:
        try:
            await for_ever()
        finally:
            raise ValueError("in the end")

    task = asyncio.create_task(broken())
    await asyncio.sleep(0)
    await cancel_and_wait(task)
    assert isinstance(task.exception(), ValueError)


async def test_nothing_to_cancel_is_nothing_to_wait_for() -> None:
    ended = asyncio.create_task(asyncio.sleep(0))
    await ended
    await asyncio.wait_for(cancel_and_wait(), 1)
    await asyncio.wait_for(cancel_and_wait(ended), 1)
