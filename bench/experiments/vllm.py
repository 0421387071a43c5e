"""The engine on vLLM: the whole path over `vllm serve` itself, and over the engine on transformers."""

import contextlib
from functools import partial

from bench.experiments import Scale
from bench.experiments.whole_path import TOKENS, USERS, answered
from bench.interleave import interleaved
from bench.measures import ratio
from bench.results_file import Result
from bench.servers import headrace, vllm_python, vllm_serve

OURS, AWAKE, TRANSFORMERS = "headrace, vLLM", "headrace, vLLM, awake", "headrace, transformers"
"""Awake: as docs/configuration.md says for an engine whose cores are its own."""
THEIRS = {"vllm serve": False, "vllm serve, all cores": True}
"""Whether its model gets them all; its own choice leaves a core to its other processes."""
COMPARED: list[tuple[str, str, float | None]] = [
    (OURS, "vllm serve", 1.0),
    (AWAKE, "vllm serve, all cores", 1.0),
    (OURS, "vllm serve, all cores", None),
    (OURS, TRANSFORMERS, None),
]
"""Which is divided by which; the target. With all cores the threads of vLLM's server never sleep between two steps."""


async def vllm(scale: Scale) -> Result:
    """Tokens per second and requests answered in time at 1, 8, 16 and 32 requests at once."""
    result = Result("vllm", "python -m bench run vllm")
    async with contextlib.AsyncExitStack() as stack:
        on_vllm = {"HEADRACE_ENGINE": "vllm"}
        servers = {
            OURS: await stack.enter_async_context(headrace(worker_python=vllm_python(), env=on_vllm)),
            AWAKE: await stack.enter_async_context(
                headrace(worker_python=vllm_python(), env={**on_vllm, "GOMP_SPINCOUNT": "20000"})
            ),
            **{name: await stack.enter_async_context(vllm_serve(all_cores=all_)) for name, all_ in THEIRS.items()},
            TRANSFORMERS: await stack.enter_async_context(headrace()),
        }
        for count in USERS if scale.size >= 1 else (16,):
            requests = max(4, count)
            print(f"{count} users, {requests} requests of {TOKENS} tokens", flush=True)
            arms = {name: partial(answered, server, count, requests) for name, server in servers.items()}
            found = await interleaved(arms, scale.repetitions)
            for name, repetitions in found.items():
                result.add_arm(f"{name}, {count}", repetitions)
            for ours, theirs, target in COMPARED:
                over = ratio(found[ours], found[theirs], "tokens_per_s")
                result.add_ratio(f"tokens/s of {ours} over {theirs}, {count} requests", over, target)
                if all(each["good_requests_per_s"] for each in found[theirs]):
                    over = ratio(found[ours], found[theirs], "good_requests_per_s")
                    result.add_ratio(f"requests in time, {ours} over {theirs}, {count}", over, target)
    return result
