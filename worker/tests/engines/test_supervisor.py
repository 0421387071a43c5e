import asyncio
import contextlib
import functools
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from shared.cancellation import cancel_and_wait
from shared.telemetry.logs import LogOptions
from testbed.supervised_engine import Heard, limits, supervised
from testbed.waiting import until
from worker.engine_options import EngineOptions
from worker.engine_protocol import Generate, Step
from worker.engines.scripted.script import EOS, FIRST_BYTE, LAST_USER
from worker.engines.supervisor import Engine, EngineUnavailable


def generate(text: str, request_id: str = "r", seed: int = 1, **fields: object) -> Generate:
    prompt = tuple(FIRST_BYTE + byte for byte in f"{LAST_USER}{text}".encode())
    return Generate(request_id, prompt, seed=seed, **fields)  # type: ignore[arg-type]  # fields are the test's


def running(source: str, stall: float = 5) -> contextlib.AbstractAsyncContextManager[tuple[Engine, Heard]]:
    return supervised(EngineOptions(model_source=source), limits(stall))


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
        assert len(await heard.until_ended("whole")) == 21
        assert engine.ready
        assert heard.ready == [True]
    assert raised


async def test_a_dead_engine_is_replaced_by_a_new_process() -> None:
    async with running("scripted:?token_ms=1") as (engine, heard):
        keeping = asyncio.create_task(engine.keep_alive())
        first = engine.pid
        engine.submit(generate("!crash"))
        await heard.until_ready(True, False, True)
        engine.submit(generate("!tokens 3", "after"))
        await heard.until_ended("after")

        assert engine.pid != first
        assert engine.restarts == 1
        await cancel_and_wait(keeping)


@pytest.mark.parametrize(
    "impossible",
    [
        Generate("r", ()),
        Generate("r", (5,) * 8192, max_new_tokens=1),
        Generate("r", (5,) * 8000, max_new_tokens=193),
        Generate("r", (5, 6), generated_ids=(7, EOS)),
        Generate("r", (5, 6), generated_ids=(7, 8), max_new_tokens=2),
    ],
    ids=["no prompt", "a prompt too long", "an answer too long", "ended already", "at its length already"],
)
async def test_what_no_step_can_answer_never_reaches_the_process(impossible: Generate) -> None:
    async with running("scripted:?token_ms=1") as (engine, heard):
        engine.submit(generate("!tokens 20", "neighbour"))
        with pytest.raises(AssertionError):
            engine.submit(impossible)
        await heard.until_ended("neighbour")
    assert {output.request_id for output in heard.outputs} == {"neighbour"}


async def test_the_process_has_a_name_for_ps() -> None:
    async with running("scripted:") as (engine, _):
        name = await asyncio.to_thread(Path(f"/proc/{engine.pid}/comm").read_text)
    assert name == "headrace-engine\n"


async def killed(heard: Heard, how: Callable[[], None]) -> None:
    """Returns when the ready engine is gone."""
    how()
    await heard.until_ready(True, False)


async def test_an_engine_that_the_kernel_kills_is_called_out_of_memory(caplog: pytest.LogCaptureFixture) -> None:
    async with running("scripted:?token_ms=1") as (engine, heard):
        assert engine.pid is not None
        await killed(heard, functools.partial(os.kill, engine.pid, signal.SIGKILL))
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
        await killed(heard, functools.partial(engine.submit, generate("!crash")))
    assert "The engine process ended with code 139." in caplog.messages
    async with running("scripted:?token_ms=1", stall=0.5) as (engine, heard):
        watching = asyncio.create_task(engine.keep_alive())
        await killed(heard, functools.partial(engine.submit, generate("!hang")))
        await cancel_and_wait(watching)
    assert "The engine process ended with code -9." in caplog.messages
    assert "out of memory" not in caplog.text


async def test_an_idle_engine_is_not_taken_for_a_hung_one_and_a_hung_one_is_killed() -> None:
    async with running("scripted:?token_ms=1", stall=2.5) as (engine, heard):
        keeping = asyncio.create_task(engine.keep_alive())
        await asyncio.sleep(3)
        assert engine.restarts == 0

        engine.submit(generate("!hang 2"))
        await heard.until_ready(True, False, True)
        await cancel_and_wait(keeping)


async def test_a_machine_that_stood_still_is_not_taken_for_a_hung_engine() -> None:
    async with running("scripted:?token_ms=5", stall=2) as (engine, heard):
        assert engine.pid is not None
        keeping = asyncio.create_task(engine.keep_alive())
        engine.submit(generate("!tokens 8000", max_new_tokens=8000))
        await heard.until_tokens("r", 1)

        os.kill(engine.pid, signal.SIGSTOP)
        await until(lambda: engine.silence > 0.1)  # what it said before has been heard
        time.sleep(2.5)  # noqa: ASYNC251  # the machine stands still: this process too
        await asyncio.sleep(0.01)  # this process is the first that runs again
        os.kill(engine.pid, signal.SIGCONT)

        await heard.until_tokens("r", len(heard.tokens("r")) + 1, seconds=10)
        assert engine.restarts == 0
        await cancel_and_wait(keeping)


async def test_commands_to_an_engine_that_does_not_listen_block_nobody() -> None:
    async with running("scripted:?token_ms=1&context=500000") as (engine, heard):
        engine.submit(generate("!hold-gil 1.5"))
        long = generate("x" * 400_000, "long")
        begin = time.monotonic()
        for _ in range(3):
            engine.submit(long)
        assert time.monotonic() - begin < 1
        await heard.until_ended("r")


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
