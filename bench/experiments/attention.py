"""Target 3: decode attention per request beside transformers' own, and a long prompt beside running answers.

python -m bench.experiments.attention --threads 1 --page-size 64   # with other settings than the worker's own
"""

import argparse
import asyncio
import json
import time
from dataclasses import asdict
from functools import partial

from bench.engines import direct_engine
from bench.experiments import FULL, QUICK, Scale
from bench.interleave import interleaved, observed
from bench.load import Load, closed_loop
from bench.measures import Metrics, Timeline, percentile, ratio
from bench.results_file import Result
from bench.servers import Server
from bench.trace import Turn, stories

TOKENS = 64
LONG_WORDS = 3100
"""About 4,000 tokens."""


async def engine(scale: Scale, *, threads: int | None = None, page_size: int | None = None) -> Result:
    """Tokens per second with 16 and 32 running answers; are the tokens the same?"""
    result = Result("engine", "python -m bench run engine")
    answers: dict[tuple[str, int, int], list[list[int]]] = {}

    async def measure(server: Server, name: str, users: int, number: int) -> Metrics:
        turns = stories(f"{number} {users}", users, TOKENS)
        await closed_loop(server.ask, stories(f"warm {number} {users}", 2, 4), 2)
        load: list[Load] = []

        async def run() -> Load:
            load.append(await closed_loop(server.ask, turns, users))
            return load[0]

        metrics = await observed(server, run)
        # One user per turn: all were sent in the order of the turns.
        ordered = sorted(load[0].timelines, key=lambda timeline: timeline.sent)
        answers[name, number, users] = [timeline.token_ids for timeline in ordered]
        return metrics

    engine_of = partial(direct_engine, threads=threads, page_size=page_size)
    async with engine_of() as ours, engine_of(attention="sdpa") as stock:
        for users in (16, 32) if scale.size >= 1 else (32,):
            found = await interleaved(
                {
                    "per request": partial(measure, ours, "ours", users),
                    "stock": partial(measure, stock, "stock", users),
                },
                scale.repetitions,
            )
            for name, repetitions in found.items():
                result.add_arm(f"{name}, {users}", repetitions)
            over = ratio(found["per request"], found["stock"], "tokens_per_s")
            result.add_ratio(f"tokens/s over stock attention, {users} answers", over, 1.4 if users == 32 else None)
            same, total = _same(answers, scale.repetitions, users)
            result.add_ratio(f"share of answers with identical tokens, {users} answers", same / total, 1.0)
        stalls = [await _beside_a_long_prompt(ours, number) for number in range(scale.repetitions)]
    result.add_arm("beside a prompt of 4,000 tokens", stalls)
    worst = percentile([stall["p99_over_median"] for stall in stalls], 50)
    result.add_ratio("p99 time per token beside a 4,000-token prompt over the median", worst, 3.0, at_least=False)
    return result


def _same(answers: dict[tuple[str, int, int], list[list[int]]], repetitions: int, users: int) -> tuple[int, int]:
    pairs = [
        pair
        for number in range(repetitions)
        for pair in zip(answers["ours", number, users], answers["stock", number, users], strict=True)
    ]
    return sum(ours == stock for ours, stock in pairs), len(pairs)


async def _beside_a_long_prompt(server: Server, number: int) -> Metrics:
    """Eight answers run; a ninth request brings a long prompt."""
    running = [asyncio.ensure_future(server.ask(turn)) for turn in stories(f"long {number}", 8, 400)]
    await asyncio.sleep(4)
    words = " ".join(f"word{(17 * i + number) % 997}" for i in range(LONG_WORDS // 2))
    begin = time.perf_counter()
    long: Timeline = await server.ask(Turn([{"role": "user", "content": words}], 1))
    prefill = time.perf_counter() - begin
    others = await asyncio.gather(*running)
    during = [
        gap
        for timeline in others
        for (time_, _), gap in zip(timeline.arrivals[1:], timeline.gaps(), strict=False)
        if begin <= time_ <= begin + prefill
    ]
    median, p99 = percentile(during, 50), percentile(during, 99)
    return {
        "prefill_s": round(prefill, 2),
        "per_token_ms_p50": round(1000 * median, 1),
        "per_token_ms_p99": round(1000 * p99, 1),
        "p99_over_median": round(p99 / median, 3) if median else 0.0,
        "errors": float(bool(long.error)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, help="of the engine (default: as the worker chooses)")
    parser.add_argument("--page-size", type=int, help="tokens of a page of the KV cache (default: the engine's)")
    parser.add_argument("--quick", action="store_true", help="32 answers only")
    given = vars(parser.parse_args())
    result = asyncio.run(engine(QUICK if given.pop("quick") else FULL, **given))
    print(json.dumps({"arms": result.arms, "ratios": [asdict(each) for each in result.ratios]}, indent=1))


if __name__ == "__main__":
    main()
