"""The engine without the path to it: ours, driven from here, and transformers' own manager in its own process."""

import asyncio
import contextlib
import itertools
import json
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from bench.environments import CHECKOUT, converted_model
from bench.measures import Timeline
from bench.servers import REAL_MODEL, Server, vllm_python
from bench.trace import Turn
from shared.telemetry.logs import LogOptions
from shared.wire.schemas import InferenceRequest
from worker.engine_options import OPTIONS, EngineKind, EngineOptions
from worker.engine_protocol import Generate, Output, Step
from worker.engines.catalogue import load_prompts
from worker.engines.process import SPIN_COUNT
from worker.engines.supervisor import Engine, Limits

STOP_SECONDS = 30.0
LIMITS = Limits(start_seconds=300, stall_seconds=300, start_attempts=1)


def prompts_of(source: str) -> Any:
    """Renders as the worker does, so that the engine gets the same tokens by both ways."""
    return load_prompts(EngineOptions(model_source=source), 2048)


def as_request(turn: Turn) -> InferenceRequest:
    return InferenceRequest.model_validate({"model": "direct", "messages": turn.messages, "tools": turn.tools})


@contextlib.asynccontextmanager
async def direct_engine(source: str = REAL_MODEL, slots: int = 32, **options: Any) -> AsyncIterator[Server]:
    """Our engine process, its commands and steps handled here."""
    prompts = prompts_of(source)
    waiting: dict[str, tuple[Timeline, asyncio.Future[None]]] = {}
    numbers = itertools.count()

    def take(step: Step) -> None:
        now = time.perf_counter()
        for output in step.outputs:
            _note(output, now, *waiting[output.request_id])

    kind = options.get("engine") or EngineOptions(model_source=source).engine
    given = OPTIONS[kind](model_source=source, slots=slots, **options)
    engine = Engine(given, LogOptions(), LIMITS, on_step=take, on_change=lambda: None)
    await engine.start()

    async def ask(turn: Turn) -> Timeline:
        prompt_ids = prompts.prompt_ids(as_request(turn))
        timeline, done = Timeline(sent=time.perf_counter()), asyncio.get_running_loop().create_future()
        request_id = str(next(numbers))
        waiting[request_id] = timeline, done
        engine.submit(Generate(request_id, tuple(prompt_ids), max_new_tokens=turn.max_tokens))
        await done
        del waiting[request_id]
        timeline.ended = time.perf_counter()
        return timeline

    assert engine.pid is not None
    try:
        yield Server("engine alone", ask, {"engine": engine.pid})
    finally:
        await engine.stop()


def _note(output: Output, now: float, timeline: Timeline, done: "asyncio.Future[None]") -> None:
    timeline.token_ids += output.token_ids
    if output.token_ids:
        timeline.arrivals.append((now, timeline.tokens + len(output.token_ids)))
    if output.error or output.finish:
        timeline.error = output.error or ""
        done.set_result(None)


class Alone:
    """An engine and what drives it in one process; it is given a whole closed loop at a time."""

    def __init__(self, stdin: asyncio.StreamWriter, replies: asyncio.StreamReader, model: str) -> None:
        self._stdin, self._replies = stdin, replies
        self._prompts = prompts_of(model)

    async def closed_loop(self, turns: list[Turn], users: int) -> tuple[list[Timeline], float]:
        """The timelines, and the seconds it took."""
        requests = [[list(self._prompts.prompt_ids(as_request(turn))), turn.max_tokens] for turn in turns]
        begin = time.perf_counter()
        self._stdin.write(json.dumps({"users": users, "requests": requests}).encode() + b"\n")
        timelines = json.loads(await self._replies.readline())
        elapsed = time.perf_counter() - begin
        return [Timeline(sent, 0.0, arrivals, arrivals[-1][0]) for sent, arrivals in timelines], elapsed


def raw_manager(folder: str = "") -> contextlib.AbstractAsyncContextManager[Alone]:
    """transformers' manager, started and loaded; `folder` of another model than the small one."""
    model = folder or str(converted_model())
    return _alone(sys.executable, "raw_manager", [model], model)


def engine_alone(kind: EngineKind) -> contextlib.AbstractAsyncContextManager[Alone]:
    """One of our engines with the small model, in the environment that its worker has."""
    python = vllm_python() if kind == "vllm" else sys.executable
    return _alone(python, "engine_alone", [kind, REAL_MODEL], REAL_MODEL)


@contextlib.asynccontextmanager
async def _alone(python: str | Path, peer: str, arguments: list[str], model: str) -> AsyncIterator[Alone]:
    with tempfile.TemporaryFile() as log:
        process = await asyncio.create_subprocess_exec(
            str(python),
            "-m",
            f"bench.peers.{peer}",
            *arguments,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=log,
            env={**os.environ, "GOMP_SPINCOUNT": SPIN_COUNT},
            cwd=CHECKOUT,
            limit=1 << 26,
        )
        assert process.stdin
        assert process.stdout
        try:
            if not await asyncio.wait_for(process.stdout.readline(), 180):
                log.seek(0)
                raise RuntimeError(log.read().decode(errors="replace")[-3000:])
            yield Alone(process.stdin, process.stdout, model)
        finally:
            # It has nothing to be asked any more, and ends with what it started.
            process.stdin.close()
            try:
                await asyncio.wait_for(process.wait(), STOP_SECONDS)
            except TimeoutError:
                process.kill()
                await process.wait()
