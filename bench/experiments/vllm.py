"""The engine on vLLM: the whole path over `vllm serve` itself, and over the engine on transformers."""

import contextlib
from functools import partial

from bench.experiments import Scale
from bench.experiments.whole_path import TOKENS, USERS, answered
from bench.interleave import interleaved
from bench.measures import ratio
from bench.results_file import Result
from bench.servers import headrace, vllm_python, vllm_serve

OURS, TRANSFORMERS = "headrace, vLLM", "headrace, transformers"
THEIRS = {"vllm serve": False, "vllm serve, all cores": True}
"""Whether its model gets them all; its own choice leaves a core to its other processes."""


async def vllm(scale: Scale) -> Result:
    """Tokens per second and requests answered in time at 1, 8, 16 and 32 requests at once."""
    result = Result("vllm", "python -m bench run vllm")
    async with contextlib.AsyncExitStack() as stack:
        on_vllm = {"HEADRACE_ENGINE": "vllm"}
        servers = {
            OURS: await stack.enter_async_context(headrace(worker_python=vllm_python(), env=on_vllm)),
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
            for name in (*THEIRS, TRANSFORMERS):
                target = 1.0 if name in THEIRS else None
                over = ratio(found[OURS], found[name], "tokens_per_s")
                result.add_ratio(f"tokens/s over {name}, {count} requests", over, target)
                if all(each["good_requests_per_s"] for each in found[name]):
                    over = ratio(found[OURS], found[name], "good_requests_per_s")
                    result.add_ratio(f"requests in time over {name}, {count} requests", over, target)
    return result
