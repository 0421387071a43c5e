import asyncio

import pytest

from worker.tasks.suspect_gate import SuspectGate


class Visitor:
    """Someone who enters, stays until told to leave, and notes it."""

    def __init__(self, gate: SuspectGate, *, alone: bool) -> None:
        self.inside = False
        self._leave = asyncio.Event()
        self.task = asyncio.create_task(self._visit(gate, alone))

    async def _visit(self, gate: SuspectGate, alone: bool) -> None:
        async with gate.entered(alone=alone):
            self.inside = True
            await self._leave.wait()
        self.inside = False

    async def leave(self) -> None:
        self._leave.set()
        await self.task


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_a_suspect_waits_for_an_empty_batch_and_has_it_to_itself() -> None:
    gate = SuspectGate()
    first = Visitor(gate, alone=False)
    suspect = Visitor(gate, alone=True)
    later = Visitor(gate, alone=False)
    await settle()
    assert (first.inside, suspect.inside, later.inside) == (True, False, False)

    await first.leave()
    await settle()
    assert (suspect.inside, later.inside) == (True, False)

    await suspect.leave()
    await settle()
    assert later.inside
    await later.leave()


async def test_a_suspect_that_gives_up_waiting_lets_those_behind_it_in() -> None:
    gate = SuspectGate()
    first, suspect = Visitor(gate, alone=False), Visitor(gate, alone=True)
    later = Visitor(gate, alone=False)
    await settle()

    suspect.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await suspect.task
    await settle()

    assert first.inside
    assert later.inside
    await first.leave()
    await later.leave()


async def test_one_that_is_cancelled_at_the_moment_of_its_turn_leaves_no_trace() -> None:
    gate = SuspectGate()
    suspect = Visitor(gate, alone=True)
    second = Visitor(gate, alone=True)
    await settle()
    leaving = asyncio.create_task(suspect.leave())
    await asyncio.sleep(0)
    second.task.cancel()
    await leaving
    with pytest.raises(asyncio.CancelledError):
        await second.task

    third = Visitor(gate, alone=True)
    await settle()
    assert third.inside
    await third.leave()
