"""What a measurement does when the server dies under it."""

import asyncio

import pytest

from bench.interleave import observed
from bench.load import Load
from bench.measures import Timeline
from bench.servers import Server


async def no_answer(turn: object) -> Timeline:
    raise AssertionError


async def test_a_server_that_dies_under_load_ends_the_measurement() -> None:
    process = await asyncio.create_subprocess_exec("sleep", "100")
    server = Server("sleepy", no_answer, {"worker": process.pid})

    async def wait_for_ever() -> Load:
        process.kill()
        return await asyncio.get_running_loop().create_future()  # type: ignore[no-any-return]  # it never ends

    with pytest.raises(RuntimeError, match="sleepy: the process worker ended under load"):
        await observed(server, wait_for_ever)
    await process.wait()
