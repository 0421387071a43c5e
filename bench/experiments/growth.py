"""Target 9: from one API process to two and from one worker to two, each pinned to a core."""

import contextlib

from bench.experiments import Scale
from bench.interleave import interleaved, observed
from bench.load import closed_loop
from bench.measures import Metrics, ratio
from bench.results_file import Result
from bench.servers import Server, headrace
from bench.trace import Turn, stories

THREADS = {"HEADRACE_THREADS": "1"}

API_CPU = "cpu_s_per_1000_tokens_api"


async def growth(scale: Scale) -> Result:
    """Tokens per second of the real model on one core and on two; of the API, over a scripted engine."""
    result = Result("growth", "python -m bench run growth")
    users = 16
    async with contextlib.AsyncExitStack() as stack:
        start = stack.enter_async_context
        one = await start(headrace(slots=users, worker_cpus=({0},), env=THREADS))
        two = await start(headrace(slots=users, workers=2, worker_cpus=({0}, {1}), env=THREADS))
        found = await interleaved(
            {"1 worker": lambda n: _workers(one, n, users), "2 workers": lambda n: _workers(two, n, 2 * users)},
            scale.repetitions,
        )
    for name, repetitions in found.items():
        result.add_arm(name, repetitions)
    workers = ratio(found["2 workers"], found["1 worker"], "tokens_per_s")
    result.add_ratio("tokens/s, 2 workers over 1", workers, 1.8)
    async with contextlib.AsyncExitStack() as stack:
        start = stack.enter_async_context
        source = "scripted:?token_ms=50"
        one = await start(headrace(source, slots=256, api_cpus=({0},)))
        two = await start(headrace(source, slots=256, api_cpus=({0}, {1})))
        found = await interleaved(
            {"1 API process": lambda n: _replicas(one, n), "2 API processes": lambda n: _replicas(two, n)},
            scale.repetitions,
        )
    for name, repetitions in found.items():
        result.add_arm(name, repetitions)
    # Two cores cannot saturate two API processes and feed them too: what each token costs says what they could do.
    for each in found["2 API processes"]:
        both = (f"{API_CPU}{number}" for number in ("", "1"))
        each["api_cpu_per_token"] = sum(each[name] for name in both)
    for each in found["1 API process"]:
        each["api_cpu_per_token"] = each[API_CPU]
    cost = ratio(found["2 API processes"], found["1 API process"], "api_cpu_per_token")
    result.add_ratio("tokens per API CPU second x processes, 2 over 1", 2 / cost, 1.8)
    return result


async def _workers(server: Server, number: int, users: int) -> Metrics:
    await closed_loop(server.ask, stories(f"warm {number}", 4, 4), 4)
    return await observed(server, lambda: closed_loop(server.ask, stories(f"{number}", users, 64), users))


async def _replicas(server: Server, number: int) -> Metrics:
    def turn(tokens: int) -> Turn:
        return Turn([{"role": "user", "content": f"!tokens {tokens}"}], tokens)

    await closed_loop(server.ask, [turn(2)] * 20, 20)
    return await observed(server, lambda: closed_loop(server.ask, [turn(200)] * 200, 200))
