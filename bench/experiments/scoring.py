"""What a prompt whose tokens are scored does to its neighbours, beside the same prompt without scores."""

import asyncio
import random
import time
from functools import partial

import httpx

from bench.experiments import Scale
from bench.interleave import interleaved
from bench.load import closed_loop
from bench.measures import Metrics, Timeline, percentile, ratio
from bench.results_file import Result
from bench.servers import Server, headrace
from bench.trace import stories

NEIGHBOURS = 4
ANSWER_TOKENS = 400
"""Enough to go on for as long as the prompt takes."""
PROMPT_TOKENS = 2000
SETTLED_SECONDS = 3.0
"""Until the neighbours' own prompts are behind them; then as long alone."""


async def scoring(scale: Scale) -> Result:
    """Four answers run; a completion brings a prompt of 2,000 tokens, plain, and echoed with its logprobs."""
    result = Result("scoring", "python -m bench run scoring")
    async with headrace() as server:
        await closed_loop(server.ask, stories("warm", 2, 4), 2)
        found = await interleaved(
            {
                "a prompt of 2,000 tokens": partial(_beside, server, {}),
                "the same, scored": partial(_beside, server, {"echo": True, "logprobs": 1}),
            },
            scale.repetitions,
        )
    for name, repetitions in found.items():
        result.add_arm(name, repetitions)
    plain, scored = found.values()
    for metric in ("per_token_ms_p50", "per_token_ms_p99"):
        p = metric.rpartition("_")[2]
        most = 1.5 if p == "p99" else None
        result.add_ratio(
            f"{p} time per token beside it, scored over plain", ratio(scored, plain, metric), most, at_least=False
        )
    return result


async def _beside(server: Server, fields: dict[str, object], number: int) -> Metrics:
    running = [
        asyncio.ensure_future(server.ask(turn))
        for turn in stories(f"beside {number} {len(fields)}", NEIGHBOURS, ANSWER_TOKENS)
    ]
    await asyncio.sleep(SETTLED_SECONDS)
    alone = time.perf_counter()
    await asyncio.sleep(SETTLED_SECONDS)
    # No two prompts share a beginning, which the prefix cache would have.
    ids = random.Random(f"{number} {len(fields)}").choices(range(1000, 40_000), k=PROMPT_TOKENS)
    body = {"model": "smollm2-135m-instruct", "prompt": ids, "max_tokens": 1, "temperature": 0, **fields}
    begin = time.perf_counter()
    async with httpx.AsyncClient(timeout=120) as client:
        reply = await client.post(f"http://127.0.0.1:{server.port}/v1/completions", json=body)
    end = time.perf_counter()
    neighbours = await asyncio.gather(*running)
    before, during = _gaps(neighbours, alone, begin), _gaps(neighbours, begin, end)
    return {
        "alone_ms_p50": round(1000 * percentile(before, 50), 1),
        "alone_ms_p99": round(1000 * percentile(before, 99), 1),
        "per_token_ms_p50": round(1000 * percentile(during, 50), 1),
        "per_token_ms_p99": round(1000 * percentile(during, 99), 1),
        "prompt_s": round(end - begin, 2),
        "errors": float(reply.status_code != 200) + sum(bool(one.error) for one in neighbours),
    }


def _gaps(timelines: list[Timeline], begin: float, end: float) -> list[float]:
    """Between the tokens that came in this time."""
    return [
        gap
        for timeline in timelines
        for (at, _), gap in zip(timeline.arrivals[1:], timeline.gaps(), strict=False)
        if begin <= at <= end
    ]
