"""The decoder layers of Llama and its kin as one pass, with few operations and little Python between the matrices.

On a CPU a fifth of a step of a small model went by between its matrices in transformers' modules
(docs/decisions/0003-engine.md). What is computed is the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn.functional import silu
from transformers.generation.continuous_batching.cache_allocators import FullAttentionCacheAllocator

from worker.engines.transformers import attention
from worker.engines.transformers.linear_layers import Joined, JoinedLinear

if TYPE_CHECKING:
    from transformers import PreTrainedModel
    from transformers.generation.continuous_batching.cache import PagedAttentionCache

KINDS = frozenset({"LlamaDecoderLayer", "MistralDecoderLayer", "Qwen2DecoderLayer", "Qwen3DecoderLayer"})
"""transformers' classes that compute this."""


@dataclass(frozen=True, slots=True)
class Layer:
    """The weights of one layer."""

    before_attention: torch.Tensor
    queries_keys_values: Joined
    queries: torch.Tensor | None
    keys: torch.Tensor | None
    """Norms of each head; `None` where the model has none."""
    attended: Joined
    before_mlp: torch.Tensor
    gate_up: Joined
    down: Joined


class LlamaLayers(nn.Module):
    """All decoder layers; called as if it were the only one."""

    def __init__(self, layers: Sequence[Layer], head_dim: int, scaling: float, epsilon: float) -> None:
        super().__init__()
        self._layers = layers
        self._head_dim, self._scaling, self._epsilon = head_dim, scaling, epsilon

    @torch.inference_mode()
    def forward(
        self,
        hidden_states: torch.Tensor,
        *,
        position_embeddings: tuple[torch.Tensor, torch.Tensor],
        cache: "PagedAttentionCache",
        **step: Any,
    ) -> torch.Tensor:
        """(1, tokens, hidden) -> the same; `position_embeddings`: cosine and sine, each (1, tokens, head dim)."""
        rows = hidden_states[0]
        tokens, hidden = rows.shape
        head_dim, epsilon = self._head_dim, self._epsilon
        query_heads, key_heads, _ = (size // head_dim for size in self._layers[0].queries_keys_values.sizes)
        turned_heads = query_heads + key_heads
        cosine, sine = (each[0, :, None] for each in position_embeddings)
        # One of each pair that turns is multiplied by the sine, the other by its negative: once for all layers.
        sine = torch.cat((-sine[..., : head_dim // 2], sine[..., head_dim // 2 :]), -1)
        allocator = cache.layer_to_allocator[0]
        assert isinstance(allocator, FullAttentionCacheAllocator)
        plan = attention.plan(allocator, query_heads // key_heads, rows.dtype, **step)
        for number, layer in enumerate(self._layers):
            normed = torch.rms_norm(rows, (hidden,), layer.before_attention, epsilon)
            heads = layer.queries_keys_values.outputs(normed).view(tokens, -1, head_dim)
            turning, values = heads[:, :turned_heads], heads[:, turned_heads:]
            if layer.queries is not None and layer.keys is not None:
                queries = torch.rms_norm(turning[:, :query_heads], (head_dim,), layer.queries, epsilon)
                keys = torch.rms_norm(turning[:, query_heads:], (head_dim,), layer.keys, epsilon)
                turning = torch.cat((queries, keys), 1)
            turned = (turning * cosine).add_(turning.roll(head_dim // 2, -1).mul_(sine))
            queries, keys = turned[:, :query_heads], turned[:, query_heads:]
            pages = allocator.get_cache_for_block_table(number)
            attended = attention.attend(plan, pages, queries, keys, values, self._scaling)
            rows = layer.attended.outputs(attended.view(tokens, -1)).add_(rows)
            normed = torch.rms_norm(rows, (hidden,), layer.before_mlp, epsilon)
            gate, up = layer.gate_up.outputs(normed).chunk(2, -1)
            rows = layer.down.outputs(silu(gate).mul_(up)).add_(rows)
        return rows[None]


def rewrite(model: "PreTrainedModel") -> None:
    """Puts one pass in the place of a model's decoder layers if they are of `KINDS`, and changes no other model.

    For a model that attends per request and whose linear layers are arranged.
    """
    decoder = model.get_decoder()
    stock: Sequence[Any] = getattr(decoder, "layers", ())
    layers = [_layer(each) for each in stock if type(each).__name__ in KINDS]
    known = [layer for layer in layers if layer is not None]
    if not known or len(known) < len(stock) or model.config.get_text_config().hidden_act not in ("silu", "swish"):
        return
    first = stock[0]
    one = LlamaLayers(known, first.self_attn.head_dim, first.self_attn.scaling, first.input_layernorm.variance_epsilon)
    decoder.layers = nn.ModuleList([one])


def _layer(stock: Any) -> Layer | None:
    attends, mlp = stock.self_attn, stock.mlp
    queries_keys_values = _joined(attends.q_proj, attends.k_proj, attends.v_proj)
    attended, gate_up, down = _joined(attends.o_proj), _joined(mlp.gate_proj, mlp.up_proj), _joined(mlp.down_proj)
    if queries_keys_values is None or attended is None or gate_up is None or down is None:
        return None
    return Layer(
        before_attention=stock.input_layernorm.weight,
        queries_keys_values=queries_keys_values,
        queries=attends.q_norm.weight if hasattr(attends, "q_norm") else None,
        keys=attends.k_norm.weight if hasattr(attends, "k_norm") else None,
        attended=attended,
        before_mlp=stock.post_attention_layernorm.weight,
        gate_up=gate_up,
        down=down,
    )


def _joined(*layers: nn.Module) -> Joined | None:
    """The one matrix of exactly these layers."""
    joined = {layer.joined for layer in layers if isinstance(layer, JoinedLinear)}
    one = joined.pop() if len(joined) == 1 else None
    return one if one is not None and len(one.sizes) == len(layers) else None
