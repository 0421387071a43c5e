"""Workers on vLLM, with the packaged model: what happens to their tasks when something ends in the middle."""

import os
import signal
from functools import partial

import pytest

from testbed.task_client import TaskClient
from testbed.worker_process import StartWorker, engine_of
from worker.engine_options import PACKAGED_MODEL

pytest.importorskip("vllm", reason="`make test-vllm` runs this, in an environment of its own")

STORY = "Tell me a long story about a fox."
SECONDS = 240


async def test_an_answer_goes_on_as_it_was_behind_a_killed_engine_and_a_worker_that_leaves(
    client: TaskClient, start_worker: StartWorker
) -> None:
    """One test, because a worker with a model takes seconds to start."""

    async def begun(tokens: int = 5) -> str:
        task = await client.submit(STORY, temperature=1.0, seed=7, max_tokens=60, timeout_seconds=SECONDS)
        await client.streaming(task, tokens, SECONDS)
        return task

    async def text_of(task: str) -> str:
        return str((await client.result(task, SECONDS))["cleaned_response_text"])

    worker = partial(
        start_worker,
        engine="vllm",
        model_source=PACKAGED_MODEL,
        threads=2,
        slots=4,
        kv_memory_gib=0.25,
        drain_seconds=0,
        engine_stall_seconds=60,
        startup_seconds=SECONDS,
    )
    first = await worker()
    undisturbed = await text_of(await begun())
    beside = await client.submit(STORY, temperature=0, max_tokens=900, timeout_seconds=SECONDS)
    killed = await begun()
    os.kill(engine_of(first.pid), signal.SIGKILL)
    assert await text_of(killed) == undisturbed
    await client.ledger.cancel(beside, "tenant")
    assert (await client.ended(beside, SECONDS)).wire_state == "REVOKED"

    left = await begun()
    first.signal(signal.SIGTERM)
    assert await first.exit_code(SECONDS) == 0
    await worker()
    assert await text_of(left) == undisturbed
