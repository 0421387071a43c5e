"""Attention on a GPU by the flash kernels that torch itself brings, where no package with faster ones is installed.

transformers' sdpa path multiplies every query with the keys of all requests of a step, under a dense mask that takes
gigabytes for a large KV cache. Here each request meets its own keys only, and there is no mask.
"""

from typing import TYPE_CHECKING, Any

import torch
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface

from worker.engines.transformers.attention import changes_scores

if TYPE_CHECKING:
    from transformers import PreTrainedModel
    from transformers.generation.continuous_batching.cache import PagedAttentionCache

NAME = "torch_varlen"
"""Without the word flash, by which transformers takes an attention for one of the packages'."""
LARGEST_HEAD = 256
"""Entries of a head that the kernels can hold."""
KV_PADDING = 4096
"""Tokens: a step in a CUDA graph copies the cached keys of up to so many more than it has. transformers' own 16,384 are
3 GB for a model of 14B; less makes more graphs, each recorded when its size is first met."""


def install(model: "PreTrainedModel") -> bool:
    """Makes the model attend by them; False, with nothing changed, for a model or a GPU that they are not for."""
    if not suits(model):
        return False
    AttentionInterface.register(NAME, attend)
    model.set_attn_implementation(NAME)
    return True


def suits(model: "PreTrainedModel") -> bool:
    """Whether the kernels compute what the model needs, on the device that it is on."""
    devices = {parameter.device for parameter in model.parameters()}  # on several, the lengths are only on the first
    if len(devices) > 1 or model.device.type != "cuda" or torch.cuda.get_device_capability(model.device) < (8, 0):
        return False
    config = model.config.get_text_config()
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return model.dtype in (torch.bfloat16, torch.float16) and head <= LARGEST_HEAD and not changes_scores(model)


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    *,
    cache: "PagedAttentionCache",
    cu_seq_lens_q: torch.Tensor,
    **step: Any,
) -> tuple[torch.Tensor, None]:
    """Writes keys and values of shape (1, key heads, tokens, dim), returns (1, tokens, heads, dim)."""
    layer: int = module.layer_idx  # type: ignore[assignment]  # every attention module has its number
    keys, values = cache.update(key, value, layer, step)  # which also leaves this layer's own lengths in `step`
    attended = varlen_attn(
        query[0].transpose(0, 1),
        keys[0].transpose(0, 1),
        values[0].transpose(0, 1),
        cu_seq_lens_q,
        step["cu_seq_lens_k"],
        step["max_length_q"],
        step["max_length_k"],
        scale=scaling,
        window_size=(-1 if sliding_window is None else sliding_window - 1, 0),
        enable_gqa=True,
    )
    assert isinstance(attended, torch.Tensor)  # only who asks for it gets more
    return attended.unsqueeze(0), None
