"""One tenant with ten times the users of another, on two workers: who gets which share, and who waits how long."""

import asyncio
import contextlib
import time
from functools import partial

from bench.dialects import HeadraceDialect
from bench.experiments import Scale
from bench.interleave import interleaved
from bench.keys import key_file
from bench.load import HttpClients
from bench.measures import Metrics, Timeline, percentile, ratio
from bench.results_file import Result
from bench.servers import Server, headrace
from bench.trace import Turn

SLOTS, WORKERS = 8, 2
USERS = {"large": 160, "small": 16}
TOKENS = 20
SECONDS = 20.0
WARM_UP = 10.0
"""Seconds until everybody has waited for as long as one waits here."""
SOURCE = "scripted:?token_ms=40"
TURN = Turn([{"role": "user", "content": f"!tokens {TOKENS}"}], TOKENS + 1)


async def fairness(scale: Scale) -> Result:
    """Two tenants with ten to one users: in the fair order and, as one tenant, first come, first served."""
    result = Result("fairness", "python -m bench run fairness")
    async with contextlib.AsyncExitStack() as stack:
        arms = {}
        for name, tenants in (
            ("fair order", {"large": "large", "small": "small"}),
            ("first come, first served", {"large": "all", "small": "all"}),
        ):
            env = {"HEADRACE_API_KEYS": key_file(tenants)}
            server = await stack.enter_async_context(headrace(SOURCE, slots=SLOTS, workers=WORKERS, env=env))
            arms[name] = partial(_measure, server, SECONDS)
        found = await interleaved(arms, scale.repetitions)
    for name, repetitions in found.items():
        result.add_arm(name, repetitions)
    fair, fifo = found.values()
    result.add_ratio("Jain's index of tokens, fair order", min(each["jain"] for each in fair), 0.95)
    result.add_ratio("Jain's index of tokens, first come, first served", min(each["jain"] for each in fifo))
    result.add_ratio("tokens/s over first come, first served", ratio(fair, fifo, "tokens_per_s"), 0.98)
    result.add_ratio(
        "the small tenant's first token, p95, over first come, first served",
        ratio(fair, fifo, "small_first_token_ms_p95"),
        at_least=False,
    )
    return result


async def _measure(server: Server, seconds: float, number: int) -> Metrics:
    """Counts what comes in a window in which both tenants always have more to ask."""
    begin = time.perf_counter() + WARM_UP
    end = begin + seconds
    timelines: dict[str, list[Timeline]] = {name: [] for name in USERS}
    clients = {name: HttpClients(HeadraceDialect(), server.port, key=name) for name in USERS}

    async def user(name: str) -> None:
        while time.perf_counter() < end:
            timelines[name].append(await clients[name].ask(TURN))

    await asyncio.gather(*(user(name) for name, users in USERS.items() for _ in range(users)))
    for each in clients.values():
        each.close()
    assert not any(timeline.error for some in timelines.values() for timeline in some)
    tokens = {name: sum(_tokens(timeline, begin, end) for timeline in some) for name, some in timelines.items()}
    first = {name: [t.first_token for t in some if begin <= t.arrivals[0][0] < end] for name, some in timelines.items()}
    return {
        "tokens_per_s": round(sum(tokens.values()) / seconds, 1),
        "small_share": round(tokens["small"] / sum(tokens.values()), 3),
        "jain": round(sum(tokens.values()) ** 2 / (2 * sum(each**2 for each in tokens.values())), 4),
        **{
            f"{name}_first_token_ms_p{p}": round(1000 * percentile(first[name], p), 1)
            for name in USERS
            for p in (50, 95)
        },
    }


def _tokens(timeline: Timeline, begin: float, end: float) -> int:
    before = 0
    count = 0
    for at, tokens in timeline.arrivals:
        count += tokens - before if begin <= at < end else 0
        before = tokens
    return count
