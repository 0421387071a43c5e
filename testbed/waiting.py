"""Waiting for what no event announces: something in another process, or deep inside a server under test."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, overload

T = TypeVar("T")

PAUSE_SECONDS = 0.01


@overload
async def until(condition: Callable[[], Awaitable[T | None]], seconds: float = 20, what: str = "") -> T: ...
@overload
async def until(condition: Callable[[], T | None], seconds: float = 20, what: str = "") -> T: ...
async def until(condition: Callable[[], Any], seconds: float = 20, what: str = "") -> Any:
    """The first true answer of the condition; an AssertionError that names it after `seconds`."""
    stop_at = time.monotonic() + seconds
    while True:
        answer = condition()
        holds = await answer if isinstance(answer, Awaitable) else answer
        if holds:
            return holds
        assert time.monotonic() < stop_at, f"not within {seconds} s: {what or condition.__qualname__}"
        await asyncio.sleep(PAUSE_SECONDS)


def wait_until(
    condition: Callable[[], T | None], seconds: float, what: Callable[[], str], pause: float = PAUSE_SECONDS
) -> T:
    """The same for a test without an event loop; `what` is asked at the end, for the latest output."""
    stop_at = time.monotonic() + seconds
    while not (holds := condition()):
        assert time.monotonic() < stop_at, f"not within {seconds} s: {what()}"
        time.sleep(pause)
    return holds
