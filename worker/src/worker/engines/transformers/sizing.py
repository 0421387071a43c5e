"""How large a step and the KV cache are: from the options, the model and the device."""

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from transformers import ContinuousBatchingConfig

from worker.engine_options import TransformersOptions
from worker.engines.transformers import scheduling
from worker.engines.transformers.attention import attention_heads
from worker.engines.transformers.kv_placement import layer_devices

if TYPE_CHECKING:
    from transformers import PreTrainedModel

log = logging.getLogger(__name__)

GIB = 1 << 30
CPU_KV_MEMORY_GIB = 1.0


@dataclass(frozen=True, slots=True)
class DeviceDefaults:
    """Measured choices (docs/decisions/0003-engine.md)."""

    max_batch_tokens: int
    prefill_chunk: int
    page_size: int


CPU_DEFAULTS = DeviceDefaults(max_batch_tokens=256, prefill_chunk=64, page_size=16)
GPU_DEFAULTS = DeviceDefaults(max_batch_tokens=8192, prefill_chunk=2048, page_size=256)


def batch_config(options: TransformersOptions, model: "PreTrainedModel") -> ContinuousBatchingConfig:
    """transformers' settings of the batch."""
    on_cpu = model.device.type == "cpu"
    defaults = CPU_DEFAULTS if on_cpu else GPU_DEFAULTS
    page_size = options.page_size or defaults.page_size
    kv_memory = options.kv_memory_gib or (CPU_KV_MEMORY_GIB if on_cpu else None)
    return ContinuousBatchingConfig(
        page_size=page_size,
        num_blocks=None if kv_memory is None else max(2, int(kv_memory * GIB / (_bytes_per_token(model) * page_size))),
        max_batch_tokens=max(options.max_batch_tokens or defaults.max_batch_tokens, options.slots),
        max_memory_percent=None if on_cpu else 0.8,
        max_requests_per_batch=options.slots,
        allow_block_sharing=True,
        use_async_batching=False,  # a grammar needs the token of the step before to prepare the next
        use_cuda_graph=options.cuda_graphs if len(set(layer_devices(model).values())) == 1 else False,
        auto_switch_to_flash=options.attention == "auto" and not on_cpu,
        scheduler_type=scheduling.install(options.prefill_chunk or defaults.prefill_chunk),
    )


def _bytes_per_token(model: "PreTrainedModel") -> int:
    """Bytes of the keys and values of one token over all layers."""
    _, key_heads, head = attention_heads(model)
    return int(2 * model.config.get_text_config().num_hidden_layers * key_heads * head * model.dtype.itemsize)


def context_length(options: TransformersOptions, model: "PreTrainedModel", kv_tokens: int) -> int:
    """Most tokens of one request: the model's limit, the option's, and what the KV cache can hold for one alone."""
    limit = int(getattr(model.config.get_text_config(), "max_position_embeddings", 0) or kv_tokens)
    wanted = min(limit, options.context_length or limit)
    if kv_tokens < wanted:
        log.warning("The KV cache holds %d tokens: the context is cut from %d to that.", kv_tokens, wanted)
    return min(wanted, kv_tokens)
