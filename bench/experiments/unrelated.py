"""Prompts that have nothing in common: what it costs them that beginnings of others are recognised."""

import contextlib
import random
import statistics
import sys
from functools import partial

from bench.experiments import Scale
from bench.interleave import interleaved, observed
from bench.load import closed_loop
from bench.measures import Metrics, ratio
from bench.results_file import Result
from bench.servers import PEERS, Server, headrace
from bench.trace import WORDS, Turn

SLOTS, WORKERS = 8, 2
WORDS_EACH = 600
ALONE, QUEUED = "one at a time", "three times the slots"
LOADS = {ALONE: (1, 60, 3), QUEUED: (3 * SLOTS * WORKERS, 300, 10)}
"""Users, each with one task at a time; tasks; tokens of an answer."""
REPETITIONS = 2
"""Of one measurement, for one of an experiment: it is short, and what is looked for is less than a millisecond."""
SOURCE = "scripted:?token_ms=20"
OTHER_API = [sys.executable, str(PEERS / "api_without_beginnings.py")]


async def unrelated(scale: Scale) -> Result:
    """Two workers, prompts of 600 words; beside an API that looks at no beginnings: any worker takes any task."""
    result = Result("unrelated", "python -m bench run unrelated")
    random_ = random.Random("unrelated")
    async with contextlib.AsyncExitStack() as stack:
        servers = {
            name: await stack.enter_async_context(headrace(SOURCE, slots=SLOTS, workers=WORKERS, api_command=command))
            for name, command in (("looked up", None), ("not looked up", OTHER_API))
        }
        arms = {
            f"{load}, {name}": partial(_measure, server, random_, load, scale)
            for load in LOADS
            for name, server in servers.items()
        }
        found = await interleaved(arms, REPETITIONS * scale.repetitions)
    for name, repetitions in found.items():
        result.add_arm(name, repetitions)
    alone, alone_without, queued, queued_without = found.values()
    speed = ratio(queued, queued_without, "tokens_per_s")
    result.add_ratio(f"tokens/s over those that are not looked up, {QUEUED}", speed, 0.98)
    for p, target in ((50, 1.0), (95, None)):
        metric = f"first_token_ms_p{p}"
        added = statistics.median(a[metric] - b[metric] for a, b in zip(alone, alone_without, strict=True))
        result.add_ratio(f"added first token, p{p}, {ALONE}", added, target, at_least=False, unit="ms")
    return result


async def _measure(server: Server, random_: random.Random, load: str, scale: Scale, number: int) -> Metrics:
    users, tasks, tokens = LOADS[load]
    turns = []
    for _ in range(scale.count(tasks)):
        words = " ".join(random_.choices(WORDS, k=WORDS_EACH))
        turns.append(Turn([{"role": "user", "content": f"{words}\n!tokens {tokens}"}], tokens + 1))
    metrics = await observed(server, lambda: closed_loop(server.ask, turns, users))
    assert not metrics["errors"]
    return metrics
