"""The engine on vLLM: the whole path over `vllm serve` itself, and over the engine on transformers."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from functools import partial

from bench.experiments import Scale
from bench.experiments.whole_path import TOKENS, USERS, answered
from bench.interleave import interleaved
from bench.measures import ratio
from bench.results_file import Result
from bench.servers import Server, headrace, vllm_python, vllm_serve

OURS, AWAKE, TRANSFORMERS = "headrace, vLLM", "headrace, vLLM, awake", "headrace, transformers"
"""Awake: as docs/configuration.md says for an engine whose cores are its own."""
THEIRS, THEIRS_ALL = "vllm serve", "vllm serve, all cores"
"""Its own choice leaves a core to its other processes; with all cores its threads never sleep between two steps."""
COMPARED: list[tuple[str, str, float | None]] = [
    (OURS, THEIRS, 1.0),
    (AWAKE, THEIRS_ALL, 1.0),
    (OURS, TRANSFORMERS, None),
]
"""Which is divided by which; the target. Only these two are alive then: idle servers have threads and memory, too."""


async def vllm(scale: Scale) -> Result:
    """Tokens per second and requests answered in time at 1, 8, 16 and 32 requests at once."""
    result = Result("vllm", "python -m bench run vllm")
    on_vllm = {"HEADRACE_ENGINE": "vllm"}
    start: dict[str, Callable[[], AbstractAsyncContextManager[Server]]] = {
        OURS: partial(headrace, worker_python=vllm_python(), env=on_vllm),
        AWAKE: partial(headrace, worker_python=vllm_python(), env={**on_vllm, "GOMP_SPINCOUNT": "20000"}),
        THEIRS: partial(vllm_serve, all_cores=False),
        THEIRS_ALL: partial(vllm_serve, all_cores=True),
        TRANSFORMERS: headrace,
    }
    for ours, theirs, target in COMPARED:
        async with start[ours]() as one, start[theirs]() as other:
            for count in USERS if scale.size >= 1 else (16,):
                requests = max(4, count)
                print(f"{ours} and {theirs}: {count} users, {requests} requests of {TOKENS} tokens", flush=True)
                arms = {
                    ours: partial(answered, one, count, requests),
                    theirs: partial(answered, other, count, requests),
                }
                found = await interleaved(arms, scale.repetitions)
                for name, repetitions in found.items():
                    result.add_arm(f"{name}, beside {theirs if name == ours else ours}, {count}", repetitions)
                over = ratio(found[ours], found[theirs], "tokens_per_s")
                result.add_ratio(f"tokens/s of {ours} over {theirs}, {count} requests", over, target)
                if all(each["good_requests_per_s"] for each in found[theirs]):
                    over = ratio(found[ours], found[theirs], "good_requests_per_s")
                    result.add_ratio(f"requests in time, {ours} over {theirs}, {count}", over, target)
    return result
