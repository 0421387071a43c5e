"""Attention on a GPU by the flash kernels that torch itself brings, where no package with faster ones is installed.

transformers' sdpa path multiplies every query with the keys of all requests of a step, under a dense mask that takes
gigabytes for a large KV cache. Here each request meets its own keys only, and there is no mask.
"""

import logging
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.attention.varlen import varlen_attn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from worker.engines.transformers.attention import attention_heads, changes_scores

if TYPE_CHECKING:
    from transformers import PreTrainedModel
    from transformers.generation.continuous_batching.cache import PagedAttentionCache

log = logging.getLogger(__name__)

NAME = "torch_varlen"
"""Without the word flash, by which transformers takes an attention for one of the packages'."""
LARGEST_HEAD = 256
"""Entries of a head that the kernels can hold."""
TOLERANCE = 0.05
"""Of values around one: bfloat16 is wrong by a hundredth, another mask by a half."""
KV_PADDING = 4096
"""Tokens: a step in a CUDA graph copies the cached keys of up to so many more than it has. transformers' own 16,384 are
3 GB for a model of 14B; less makes more graphs, each recorded when its size is first met."""


def install(model: "PreTrainedModel") -> bool:
    """Makes the model attend by them; False, with nothing changed, for a model or a GPU that they are not for."""
    if not suits(model) or not works(model):
        return False
    AttentionInterface.register(NAME, attend)
    model.set_attn_implementation(NAME)
    log.info("The model attends by torch's own flash kernels.")
    return True


def suits(model: "PreTrainedModel") -> bool:
    """Whether they are for such a model on such a device."""
    devices = {parameter.device for parameter in model.parameters()}  # on several, the lengths are only on the first
    if len(devices) > 1 or model.device.type != "cuda" or torch.cuda.get_device_capability(model.device) < (8, 0):
        return False
    _, _, head = attention_heads(model)
    if head > LARGEST_HEAD or head % 8 or getattr(model.config.get_text_config(), "v_head_dim", head) != head:
        return False
    return model.dtype in (torch.bfloat16, torch.float16) and not changes_scores(model)


def works(model: "PreTrainedModel") -> bool:
    """Tries them on this machine: a prompt of three tokens beside a request that decodes its seventh."""
    query_heads, key_heads, head = attention_heads(model)
    query = torch.randn(3 + 1, query_heads, head)
    keys, values = torch.randn(2, 3 + 7, key_heads, head)

    def expected(queries: slice, seen: slice) -> torch.Tensor:
        q, k, v = (states.transpose(0, 1)[None] for states in (query[queries], keys[seen], values[seen]))
        attended = scaled_dot_product_attention(q, k, v, is_causal=q.shape[2] > 1, enable_gqa=True)
        return attended[0].transpose(0, 1)

    def there(states: torch.Tensor) -> torch.Tensor:
        return states.to(model.device, model.dtype)

    try:
        attended = varlen_attn(
            there(query),
            there(keys),
            there(values),
            torch.tensor([0, 3, 4], dtype=torch.int32, device=model.device),
            torch.tensor([0, 3, 10], dtype=torch.int32, device=model.device),
            3,
            7,
            window_size=(-1, 0),
            enable_gqa=True,
        )
    except (RuntimeError, TypeError, ValueError) as failure:  # TypeError: an older torch, without all arguments
        log.warning("torch's flash attention does not run here; the attention is sdpa, which is slow: %s", failure)
        return False
    assert isinstance(attended, torch.Tensor)  # only who asks for it gets more
    right = torch.cat([expected(slice(3), slice(3)), expected(slice(3, 4), slice(3, 10))])
    error = (attended.cpu().float() - right).abs().max().item()
    if not error < TOLERANCE:  # nan is no number below
        log.warning("torch's flash attention is wrong here by %s; the attention is sdpa, which is slow.", error)
        return False
    return True


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
    assert isinstance(attended, torch.Tensor)
    return attended.unsqueeze(0), None
