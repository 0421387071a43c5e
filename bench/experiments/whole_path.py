"""Targets 1 and 2: POST to SSE beside the engine alone, the raw manager, and the design that it replaces."""

import contextlib
from functools import partial

from bench.engines import Alone, direct_engine, raw_manager
from bench.experiments import Scale
from bench.interleave import interleaved, observed
from bench.load import closed_loop
from bench.measures import Bound, Metrics, medians, ratio, summary
from bench.results_file import Result
from bench.servers import Server, headrace, llama_cpp, replaced_design, transformers_serve
from bench.trace import stories

USERS = (1, 8, 16, 32)
TOKENS = 64
BOUND = Bound(first_token=2.0, per_token=0.25)


async def whole_path(scale: Scale) -> Result:
    """Tokens per second at 1, 8, 16 and 32 tasks over the same engine without a path to it."""
    result = Result("whole_path", "python -m bench run whole_path")
    full = scale.size >= 1
    async with contextlib.AsyncExitStack() as stack:
        engine = await stack.enter_async_context(direct_engine())
        server = await stack.enter_async_context(headrace())
        raw = await stack.enter_async_context(raw_manager()) if full else None
        for count in USERS if full else (16,):
            requests = max(4, count)
            print(f"{count} users, {requests} requests of {TOKENS} tokens", flush=True)
            arms = {
                "engine alone": partial(answered, engine, count, requests),
                "headrace": partial(answered, server, count, requests),
            }
            if raw is not None:
                arms["raw manager"] = partial(_raw, raw, count, requests)
            found = await interleaved(arms, scale.repetitions)
            for name, repetitions in found.items():
                result.add_arm(f"{name}, {count}", repetitions)
            over_engine = ratio(found["headrace"], found["engine alone"], "tokens_per_s")
            result.add_ratio(f"tokens/s over the engine alone, {count} tasks", over_engine, 0.95)
            shares = [{"share": _engine_share(each)} for each in found["headrace"]]
            result.add_ratio(f"engine's share of the path's CPU, {count} tasks", medians(shares)["share"])
            if raw is not None:
                over_raw = ratio(found["headrace"], found["raw manager"], "tokens_per_s")
                result.add_ratio(f"tokens/s over the raw manager, {count} tasks", over_raw)
    return result


async def replaced(scale: Scale) -> Result:
    """Beside Celery + generate + polling, and beside `transformers serve`, at 16 concurrent tasks."""
    result = Result("replaced", "python -m bench run replaced")
    users = 16
    async with contextlib.AsyncExitStack() as stack:
        servers = {
            "headrace": await stack.enter_async_context(headrace()),
            "replaced design": await stack.enter_async_context(replaced_design()),
        }
        if scale.size >= 1:
            servers["transformers serve"] = await stack.enter_async_context(transformers_serve())
            servers["llama.cpp"] = await stack.enter_async_context(llama_cpp(users))
        requests, repetitions = users, scale.repetitions if scale.size >= 1 else 1
        found = await interleaved(
            {name: partial(answered, server, users, requests) for name, server in servers.items()}, repetitions
        )
    for name, each in found.items():
        result.add_arm(name, each)
    old = found["replaced design"]
    result.add_ratio("tokens/s over the replaced design, 16 tasks", ratio(found["headrace"], old, "tokens_per_s"), 6.0)
    first = [
        {"first": ours["first_token_ms_p50"] / theirs["answer_ms_p50"]}
        for ours, theirs in zip(found["headrace"], old, strict=True)
    ]
    first_share = sorted(each["first"] for each in first)[len(first) // 2]
    result.add_ratio("first token over the replaced design's answer, 16 tasks", first_share, 1 / 20, at_least=False)
    if "transformers serve" in found:
        over = ratio(found["headrace"], found["transformers serve"], "tokens_per_s")
        result.add_ratio("tokens/s over transformers serve, 16 tasks", over)
        over = ratio(found["headrace"], found["llama.cpp"], "tokens_per_s")
        result.add_ratio("tokens/s over llama.cpp's server with 4-bit weights, 16 tasks", over)
    return result


def _engine_share(metrics: Metrics) -> float:
    """What a machine whose cores are all busy would get: the ratio of throughputs, without the noise of neighbours."""
    names = ("engine", "worker", "api", "valkey")
    spent = {name: metrics[f"cpu_s_per_1000_tokens_{name}"] for name in names}
    return spent["engine"] / sum(spent.values())


async def answered(server: Server, users: int, requests: int, number: int) -> Metrics:
    """Requests of a closed loop, behind one that warms the server up. `number`: of the repetition."""
    await closed_loop(server.ask, stories(f"warm {number} {users}", 1, 4), 1)
    turns = stories(f"{number} {users}", requests, TOKENS)
    return await observed(server, lambda: closed_loop(server.ask, turns, users), BOUND)


async def _raw(raw: Alone, users: int, requests: int, number: int) -> Metrics:
    await raw.closed_loop(stories(f"warm {number} {users}", 1, 4), 1)
    timelines, elapsed = await raw.closed_loop(stories(f"{number} {users}", requests, TOKENS), users)
    return summary(timelines, elapsed, BOUND)
