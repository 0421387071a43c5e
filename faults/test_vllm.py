"""Takeover, hand-over, poison and cancel on vLLM with a trained model, whose answers are drawn: `make test-vllm`."""

import asyncio
import os
import signal
import time
from functools import partial
from typing import Any

import pytest

from headrace.local.vllm_environment import FOLDER
from testbed.history import History
from testbed.stack import Process, Stack
from testbed.waiting import until
from testbed.worker_process import engine_of
from worker.engine_options import PACKAGED_MODEL

PYTHON = FOLDER / "bin" / "python"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PYTHON.exists(), reason="`make test-vllm` makes vLLM's environment, and runs this"),
]
STORY = "Tell me a long story about a fox."
SECONDS = 300.0
"""Bound on an answer, and on a worker's start."""
DAYS = {
    "type": "array",
    "items": {"enum": ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"]},
    "minItems": 20,
    "maxItems": 20,
}


async def start_worker(headrace: Stack, **more: str) -> Process:
    headrace.worker_python, headrace.start_seconds = PYTHON, SECONDS
    settings = {"HEADRACE_SLOTS": "4", "HEADRACE_KV_MEMORY_GIB": "0.25", "HEADRACE_DRAIN_SECONDS": "0", **more}
    return await headrace.start_worker(
        PACKAGED_MODEL, ready=True, HEADRACE_ENGINE="vllm", HEADRACE_THREADS="2", **settings
    )


async def submit(headrace: Stack, text: str = STORY, tokens: int = 60, **params: Any) -> History:
    """A drawn answer, unless it is told otherwise."""
    given = {"temperature": 1.0, "seed": 7, "maxTokens": tokens, "timeoutSeconds": SECONDS, **params}
    return await headrace.submit(text, words=None, **given)


async def begun(headrace: Stack, history: History, tokens: int = 5) -> "asyncio.Task[History]":
    return await headrace.until_tokens(history, tokens, SECONDS, SECONDS)


async def whole(headrace: Stack, history: History) -> History:
    return await headrace.follow(history, SECONDS)


WAYS: dict[str, dict[str, Any]] = {
    "drawn": {},
    "filtered": {"topP": 0.9, "seed": 8},
    "greedy": {"temperature": 0},
    "grammar": {
        "text": "Pick weekdays.",
        "tokens": 120,
        "responseFormat": {"type": "json_schema", "json_schema": {"name": "days", "schema": DAYS}},
    },
}
"""To choose the next token; all of them share a batch."""


async def all_ways(headrace: Stack) -> list[History]:
    return [await submit(headrace, **way) for way in WAYS.values()]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_what_a_worker_had_begun_goes_on_at_another_as_it_was(headrace: Stack, number: signal.Signals) -> None:
    """Takeover behind a kill, hand-over behind SIGTERM: whichever way tokens are chosen."""
    first = await start_worker(headrace)
    undisturbed = await asyncio.gather(*(whole(headrace, history) for history in await all_ways(headrace)))
    histories = await all_ways(headrace)
    followings = await asyncio.gather(*(begun(headrace, history) for history in histories))
    first.send(number)
    assert await first.wait(30) == (0 if number == signal.SIGTERM else -number)
    assert not any(history.ended for history in histories), "the answers are too short for this test"
    await start_worker(headrace)
    await asyncio.gather(*followings)
    for history, other in zip(histories, undisturbed, strict=True):
        history.expected = other.text
        assert (history.started, history.retries, history.state) == ([1, 2], 1, "SUCCESS")


def has_tokens_of(history: History, attempt: int) -> bool:
    return any(one.id.attempt == attempt for one in history.of("token"))


async def test_a_task_under_which_the_engine_dies_again_and_again_is_poisoned_and_its_batch_mates_finish(
    headrace: Stack,
) -> None:
    worker = await start_worker(headrace)
    undisturbed = await whole(headrace, await submit(headrace))
    mates = [await submit(headrace) for _ in range(2)]
    followings = [await begun(headrace, mate, 2) for mate in mates]
    poison = await submit(headrace, tokens=1000, temperature=0)
    followings.append(asyncio.create_task(whole(headrace, poison)))
    for attempt in (1, 2, 3):
        # Its first token, not its start: a suspect waits until it is alone in the engine.
        await until(partial(has_tokens_of, poison, attempt), SECONDS, f"tokens of attempt {attempt}")
        os.kill(engine_of(worker.pid), signal.SIGKILL)
    await asyncio.gather(*followings)
    assert (poison.state, poison.started) == ("FAILURE", [1, 2, 3])
    assert poison.of("error")[0].data["code"] == "poisoned"
    for mate in mates:
        mate.expected = undisturbed.text
        assert mate.state == "SUCCESS"


async def test_a_cancelled_task_leaves_its_slot_to_the_next_and_its_neighbour_is_not_disturbed(headrace: Stack) -> None:
    await start_worker(headrace, HEADRACE_SLOTS="2")
    undisturbed = await whole(headrace, await submit(headrace, tokens=200))
    neighbour = await submit(headrace, tokens=200)
    victim = await submit(headrace, tokens=1000, temperature=0)
    followings = [await begun(headrace, history) for history in (neighbour, victim)]
    asked_at = time.monotonic()
    assert (await headrace.cancel(victim))["cancelled"] is True
    third = await whole(headrace, await submit(headrace, tokens=5))
    await asyncio.gather(*followings)
    neighbour.expected = undisturbed.text
    assert (victim.state, neighbour.state, third.state) == ("REVOKED", "SUCCESS", "SUCCESS")
    assert victim.seen[-1].at - asked_at <= 1
    assert third.of("token")[0].at < neighbour.seen[-1].at, "the slot was not free"
