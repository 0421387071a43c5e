"""An engine as the worker keeps it: its process watched, and replaced when it hangs or dies."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from shared.telemetry.logs import LogOptions
from worker.engine_options import EngineOptions
from worker.engine_protocol import Output, Step
from worker.engines.supervisor import Engine, Limits


@dataclass
class Heard:
    """What an engine said."""

    outputs: list[Output] = field(default_factory=list)
    ready: list[bool] = field(default_factory=list)
    """Each time it became ready, or died."""
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    async def until_ready(self, *changes: bool, seconds: float = 15) -> None:
        """Returns when the engine has become ready and died in this order."""
        async with asyncio.timeout(seconds):
            while self.ready[: len(changes)] != [*changes]:
                self.changed.clear()
                await self.changed.wait()

    async def until_ended(self, request_id: str, seconds: float = 10) -> list[int]:
        """The tokens of a request that has finished."""
        async with asyncio.timeout(seconds):
            while not any(output.request_id == request_id and output.finish for output in self.outputs):
                self.changed.clear()
                await self.changed.wait()
        return self.tokens(request_id)

    async def until_tokens(self, request_id: str, count: int, seconds: float = 30) -> list[int]:
        """The tokens of a request that has at least so many."""
        async with asyncio.timeout(seconds):
            while len(self.tokens(request_id)) < count:
                self.changed.clear()
                await self.changed.wait()
        return self.tokens(request_id)

    def tokens(self, request_id: str) -> list[int]:
        return [token for output in self.outputs if output.request_id == request_id for token in output.token_ids]


def limits(stall_seconds: float, start_seconds: float = 20) -> Limits:
    return Limits(start_seconds=start_seconds, stall_seconds=stall_seconds, start_attempts=2)


@contextlib.asynccontextmanager
async def supervised(options: EngineOptions, limits: Limits) -> AsyncIterator[tuple[Engine, Heard]]:
    """Started; it is kept alive by whoever runs `keep_alive`."""
    heard = Heard()

    def on_step(step: Step) -> None:
        heard.outputs += step.outputs
        heard.changed.set()

    def on_change() -> None:
        heard.ready.append(engine.ready)
        heard.changed.set()

    engine = Engine(options, LogOptions(), limits, on_step=on_step, on_change=on_change)
    try:
        await engine.start()
        yield engine, heard
    finally:
        await engine.stop()
