"""Target 4: what the path adds to the first token of an idle system, and how long a submit takes."""

from functools import partial

from bench.engines import direct_engine
from bench.experiments import Scale
from bench.interleave import interleaved, observed
from bench.load import closed_loop
from bench.measures import Metrics, percentile
from bench.results_file import Result
from bench.servers import REAL_MODEL, Server, headrace
from bench.trace import stories

SCRIPTED = "scripted:?token_ms=20"


async def first_token(scale: Scale) -> Result:
    """One request at a time, over the scripted engine (steps of exactly 20 ms) and over the real model."""
    result = Result("first_token", "python -m bench run first_token")
    for label, source, requests, target in (
        ("scripted engine", SCRIPTED, scale.count(100, 30), True),
        ("real model", REAL_MODEL, scale.count(30, 10), False),
    ):
        async with direct_engine(source) as engine, headrace(source) as server:
            found = await interleaved(
                {
                    "engine alone": partial(_measure, engine, requests),
                    "headrace": partial(_measure, server, requests),
                },
                scale.repetitions,
            )
        for name, repetitions in found.items():
            result.add_arm(f"{name}, {label}", repetitions)
        for p, most in ((50, 15.0), (95, 30.0)):
            metric = f"first_token_ms_p{p}"
            added = percentile([a[metric] - b[metric] for a, b in zip(*reversed(found.values()), strict=True)], 50)
            result.add_ratio(
                f"added to the first token, p{p}, {label}", added, most if target else None, at_least=False, unit="ms"
            )
        submit = percentile([r["submit_ms_p50"] for r in found["headrace"]], 50)
        result.add_ratio(f"submit, p50, {label}", submit, 8.0 if target else None, at_least=False, unit="ms")
    return result


async def _measure(server: Server, requests: int, number: int) -> Metrics:
    await closed_loop(server.ask, stories(f"warm {number}", 3, 2), 1)
    return await observed(server, lambda: closed_loop(server.ask, stories(f"first {number}", requests, 2), 1))
