"""transformers' ContinuousBatchingManager alone in one process: no server, no queue, no text.

Asked as `closed_loop.py` says.
"""

import sys
from collections import Counter
from functools import partial

import torch
from transformers import AutoModelForCausalLM, ContinuousBatchingConfig, GenerationConfig
from transformers.utils.logging import disable_progress_bar

from bench.peers.closed_loop import serve
from worker.engines.transformers.sizing import CPU_DEFAULTS, CPU_KV_MEMORY_GIB, GIB


class Manager:
    """Loaded and started."""

    def __init__(self, folder: str) -> None:
        disable_progress_bar()
        gpu = torch.cuda.is_available()
        dtype = torch.bfloat16 if gpu else torch.float32
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, device_map="cuda" if gpu else "cpu").eval()
        config = model.config
        if gpu:
            batching = ContinuousBatchingConfig(use_cuda_graph=True)
        else:
            # The pages and the cache that the worker's engine has: what differs is everything else.
            page_size, most = CPU_DEFAULTS.page_size, CPU_DEFAULTS.max_batch_tokens
            bytes_per_page = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * 4 * page_size
            pages = int(CPU_KV_MEMORY_GIB * GIB) // bytes_per_page
            batching = ContinuousBatchingConfig(page_size=page_size, num_blocks=pages, max_batch_tokens=most)
        self._manager = model.init_continuous_batching(
            generation_config=GenerationConfig(do_sample=False, eos_token_id=config.eos_token_id),
            continuous_batching_config=batching,
        )
        self._manager.start()
        self._tokens = Counter[str]()

    def start(self, request_id: str, ids: list[int], most: int) -> None:
        self._manager.add_request(ids, request_id=request_id, max_new_tokens=most, streaming=True)

    def arrivals(self) -> list[tuple[str, int, bool]]:
        output = self._manager.get_result(timeout=1.0)
        if output is None:
            assert self._manager.is_running(), "the manager has died"
            return []
        new = len(output.generated_tokens) - self._tokens[output.request_id]
        self._tokens[output.request_id] += new
        return [(output.request_id, new, output.is_finished())]

    def close(self) -> None:
        self._manager.stop(block=True)


if __name__ == "__main__":
    serve(partial(Manager, sys.argv[1]))
