"""The engine on transformers beside the one on vLLM on a CPU, without the path to them."""

from functools import partial

from bench.engines import Alone, engine_alone
from bench.experiments import Scale
from bench.experiments.whole_path import TOKENS, USERS
from bench.interleave import interleaved
from bench.measures import Metrics, ratio, summary
from bench.results_file import Result
from bench.trace import Turn, stories

OURS, THEIRS = "transformers", "vLLM"
LEAST = {1: 1.0, 8: 0.9, 16: 0.9, 32: 0.9}
"""Tokens per second over vLLM's, by the requests at once."""
PAIRS = 3
"""Times the repetitions of other experiments: single pairs lie a fifth apart."""
LONG_WORDS = 510
"""Of four tokens each, nearly."""
MOST = {"first_ms": 1.2, "second_ms": 1.5}
"""Time to the first token of a long prompt over vLLM's; second: when its beginning is in the cache."""


async def engines(scale: Scale) -> Result:
    """Tokens per second at 1, 8, 16 and 32 requests, and the first token of 2,000; both engines alive, in turns."""
    result = Result("engines", "python -m bench run engines")
    async with engine_alone("transformers") as ours, engine_alone("vllm") as theirs:
        for count in USERS if scale.size >= 1 else (16,):
            print(f"{count} requests of {TOKENS} tokens", flush=True)
            arms = {OURS: partial(_answers, ours, count), THEIRS: partial(_answers, theirs, count)}
            found = await interleaved(arms, PAIRS * scale.repetitions)
            for name, repetitions in found.items():
                result.add_arm(f"{name}, {count}", repetitions)
            over = ratio(found[OURS], found[THEIRS], "tokens_per_s")
            result.add_ratio(f"tokens/s of {OURS} over {THEIRS}, {count} requests", over, LEAST[count])
        print("a prompt of 2,000 tokens, twice", flush=True)
        found = await interleaved(
            {OURS: partial(_long_prompt, ours), THEIRS: partial(_long_prompt, theirs)}, scale.repetitions
        )
        for name, repetitions in found.items():
            result.add_arm(f"{name}, prompt of 2,000 tokens", repetitions)
        for metric, most in MOST.items():
            over = ratio(found[OURS], found[THEIRS], metric)
            name = f"{metric.removesuffix('_ms')} time to the first token of 2,000, {OURS} over {THEIRS}"
            result.add_ratio(name, over, most, at_least=False)
    return result


async def _answers(engine: Alone, users: int, number: int) -> Metrics:
    await engine.closed_loop(stories(f"warm {number} {users}", 1, TOKENS), 1)
    return summary(*await engine.closed_loop(stories(f"{number} {users}", max(4, users), TOKENS), users))


async def _long_prompt(engine: Alone, number: int) -> Metrics:
    words = " ".join(f"word{(17 * i + number) % 997}" for i in range(LONG_WORDS))
    metrics: Metrics = {}
    for metric in MOST:
        (timeline,), _ = await engine.closed_loop([Turn([{"role": "user", "content": words}], 1)], 1)
        metrics[metric] = round(1000 * timeline.first_token, 1)
    return metrics
