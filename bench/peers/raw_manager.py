"""transformers' ContinuousBatchingManager alone in one process: no server, no queue, no text.

One JSON line in, `{"users": 8, "requests": [[[token ids], max_new_tokens], ...]}`: a closed loop of that many users.
One JSON line out: a timeline per request, `[sent, [[time, tokens], ...]]`.
"""

import json
import os
import sys
import time
from typing import Any

import torch
from transformers import AutoModelForCausalLM, ContinuousBatchingConfig, GenerationConfig
from transformers.utils.logging import disable_progress_bar

CPU_KV_BYTES = 1 << 30


def main(folder: str) -> None:
    disable_progress_bar()
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever libraries print must not stand between the replies
    gpu = torch.cuda.is_available()
    dtype = torch.bfloat16 if gpu else torch.float32
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, device_map="cuda" if gpu else "cpu").eval()
    config = model.config
    if gpu:
        batching = ContinuousBatchingConfig(use_cuda_graph=True)
    else:
        # The pages and the cache that the worker's engine has: what differs is everything else.
        page_size = 32
        bytes_per_page = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * 4 * page_size
        pages = CPU_KV_BYTES // bytes_per_page
        batching = ContinuousBatchingConfig(page_size=page_size, num_blocks=pages, max_batch_tokens=256)
    manager = model.init_continuous_batching(
        generation_config=GenerationConfig(do_sample=False, eos_token_id=config.eos_token_id),
        continuous_batching_config=batching,
    )
    manager.start()
    print(json.dumps("ready"), file=replies, flush=True)
    for number, line in enumerate(sys.stdin):
        print(json.dumps(_run(manager, number, **json.loads(line))), file=replies, flush=True)
    manager.stop(block=True)


def _run(manager: Any, run: int, users: int, requests: list[Any]) -> list[Any]:
    waiting = list(enumerate(requests))[::-1]
    timelines: list[Any] = [None] * len(requests)
    running = 0
    while waiting or running:
        while waiting and running < users:
            at, (ids, most) = waiting.pop()
            timelines[at] = [time.perf_counter(), []]
            manager.add_request(ids, request_id=f"{run}/{at}", max_new_tokens=most, streaming=True)
            running += 1
        output = manager.get_result(timeout=1.0)
        if output is None:
            assert manager.is_running(), "the manager has died"
            continue
        at = int(output.request_id.partition("/")[2])
        timelines[at][1].append((time.perf_counter(), len(output.generated_tokens)))
        running -= output.is_finished()
    return timelines


if __name__ == "__main__":
    main(sys.argv[1])
