import asyncio
import contextlib
import functools
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

import pytest

from shared.telemetry.logs import LogOptions
from worker.engine_options import EngineOptions
from worker.engine_protocol import Generate, Output, Step
from worker.engines.scripted.script import FIRST_BYTE, LAST_USER
from worker.engines.supervisor import Engine, EngineUnavailable, Limits


@dataclass
class Heard:
    """What an engine said."""

    outputs: list[Output] = field(default_factory=list)
    changes: list[bool] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)


def generate(text: str, request_id: str = "r", seed: int = 1, **fields: object) -> Generate:
    prompt = tuple(FIRST_BYTE + byte for byte in f"{LAST_USER}{text}".encode())
    return Generate(request_id, prompt, seed=seed, **fields)  # type: ignore[arg-type]  # fields are the test's


def limits(stall_seconds: float) -> Limits:
    return Limits(start_seconds=20, stall_seconds=stall_seconds, start_attempts=2)


@contextlib.asynccontextmanager
async def running(source: str, stall: float = 5) -> AsyncIterator[tuple[Engine, Heard]]:
    heard = Heard()

    def on_step(step: Step) -> None:
        heard.outputs += step.outputs
        heard.changed.set()

    def on_change() -> None:
        heard.changes.append(engine.ready)
        heard.changed.set()

    engine = Engine(
        EngineOptions(model_source=source), LogOptions(), limits(stall), on_step=on_step, on_change=on_change
    )
    try:
        await engine.start()
        yield engine, heard
    finally:
        await engine.stop()


async def until(heard: Heard, request_id: str) -> list[int]:
    """The tokens of a request, once it has finished."""
    async with asyncio.timeout(10):
        while not any(output.request_id == request_id and output.finish for output in heard.outputs):
            heard.changed.clear()
            await heard.changed.wait()
    return [token for output in heard.outputs if output.request_id == request_id for token in output.token_ids]


async def test_what_its_listener_raises_is_not_taken_for_the_engine_s_end() -> None:
    raised: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: raised.append(context["exception"]))
    async with running("scripted:?token_ms=1") as (engine, heard):
        listen = engine._on_step

        def planted(step: Step) -> None:
            listen(step)
            if any(output.request_id == "broken" for output in step.outputs):
                raise BrokenPipeError("planted")

        engine._on_step = planted
        engine.submit(generate("!tokens 5", "broken"))
        engine.submit(generate("!tokens 20", "whole"))
        assert len(await until(heard, "whole")) == 21
        assert engine.ready
        assert heard.changes == [True]
    assert raised


async def test_requests_share_steps_and_their_tokens_depend_on_nothing_but_seed_and_place() -> None:
    async with running("scripted:?token_ms=1&tokens=20") as (engine, heard):
        engine.submit(generate("a", "alone"))
        alone = await until(heard, "alone")
        for at in range(4):
            engine.submit(generate("a", f"together{at}"))
        together = [await until(heard, f"together{at}") for at in range(4)]
        engine.submit(generate("a", "behind", generated_ids=tuple(alone[:10])))

        assert together == [alone] * 4
        assert alone[:10] + await until(heard, "behind") == alone


async def test_a_cancelled_request_gives_no_more_output() -> None:
    async with running("scripted:?token_ms=1") as (engine, heard):
        engine.submit(generate("!tokens 100000", "gone"))
        engine.submit(generate("!tokens 5", "first"))
        await until(heard, "first")
        engine.cancel("gone")
        engine.submit(generate("!tokens 5", "second"))
        await until(heard, "second")
        heard.outputs.clear()
        engine.submit(generate("!tokens 5", "third"))
        await until(heard, "third")

        assert {output.request_id for output in heard.outputs} == {"third"}


async def test_a_dead_engine_is_replaced_by_a_new_process() -> None:
    async with running("scripted:?token_ms=1") as (engine, heard):
        keeping = asyncio.create_task(engine.keep_alive())
        first = engine.pid
        engine.submit(generate("!crash"))
        async with asyncio.timeout(10):
            while heard.changes != [True, False, True]:
                heard.changed.clear()
                await heard.changed.wait()
        engine.submit(generate("!tokens 3", "after"))
        await until(heard, "after")

        assert engine.pid != first
        assert engine.restarts == 1
        keeping.cancel()


async def killed(engine: Engine, heard: Heard, how: Callable[[], None]) -> None:
    """Returns when the ready engine is gone."""
    how()
    async with asyncio.timeout(15):
        while heard.changes[:2] != [True, False]:
            heard.changed.clear()
            await heard.changed.wait()


async def test_an_engine_that_the_kernel_kills_is_called_out_of_memory(caplog: pytest.LogCaptureFixture) -> None:
    async with running("scripted:?token_ms=1") as (engine, heard):
        assert engine.pid is not None
        await killed(engine, heard, functools.partial(os.kill, engine.pid, signal.SIGKILL))
    (line,) = [line for line in caplog.messages if "The engine process" in line]
    assert "code -9" in line
    assert "out of memory: raise the memory limit" in line
    assert "lower slots, context_length or kv_memory_gib" in line


async def test_an_engine_that_the_kernel_kills_while_it_starts_is_called_so_too() -> None:
    heard = Heard()
    engine = Engine(
        EngineOptions(model_source="scripted:"),
        LogOptions(),
        limits(5),
        on_step=print,
        on_change=heard.changed.set,
    )
    starting = asyncio.create_task(engine.start())
    await asyncio.sleep(0)
    assert engine.pid is not None
    os.kill(engine.pid, signal.SIGKILL)
    with pytest.raises(EngineUnavailable, match=r"killed while it started .* out of memory: raise the memory"):
        await starting


async def test_other_ends_are_not_called_out_of_memory(caplog: pytest.LogCaptureFixture) -> None:
    async with running("scripted:?token_ms=1") as (engine, heard):
        await killed(engine, heard, functools.partial(engine.submit, generate("!crash")))
    assert "The engine process ended with code 139." in caplog.messages
    async with running("scripted:?token_ms=1", stall=0.5) as (engine, heard):
        watching = asyncio.create_task(engine.keep_alive())
        await killed(engine, heard, functools.partial(engine.submit, generate("!hang")))
        watching.cancel()
    assert "The engine process ended with code -9." in caplog.messages
    assert "out of memory" not in caplog.text


async def test_an_idle_engine_is_not_taken_for_a_hung_one_and_a_hung_one_is_killed() -> None:
    async with running("scripted:?token_ms=1", stall=2.5) as (engine, heard):
        keeping = asyncio.create_task(engine.keep_alive())
        await asyncio.sleep(3)
        assert engine.restarts == 0

        engine.submit(generate("!hang 2"))
        async with asyncio.timeout(15):
            while heard.changes != [True, False, True]:
                heard.changed.clear()
                await heard.changed.wait()
        keeping.cancel()


async def test_commands_to_an_engine_that_does_not_listen_block_nobody() -> None:
    async with running("scripted:?token_ms=1&context=500000") as (engine, heard):
        engine.submit(generate("!hold-gil 1.5"))
        long = generate("x" * 400_000, "long")
        begin = time.monotonic()
        for _ in range(3):
            engine.submit(long)
        assert time.monotonic() - begin < 1
        await until(heard, "r")


async def test_an_engine_that_refuses_its_options_says_why() -> None:
    with pytest.raises(EngineUnavailable, match="no option speed"):
        async with running("scripted:?speed=9"):
            raise AssertionError("it started")


async def test_a_stopped_engine_is_gone() -> None:
    async with running("scripted:?token_ms=1") as (engine, _):
        pid = engine.pid
    assert pid is not None
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
