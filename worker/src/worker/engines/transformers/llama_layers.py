"""The decoder layers of Llama and its kin as one pass, with few operations and little Python between the matrices.

On a CPU a fifth of a step of a small model went by between its matrices in transformers' modules
(docs/decisions/0003-engine.md). What is computed is the same.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn.functional import silu
from transformers.generation.continuous_batching.cache_allocators import FullAttentionCacheAllocator

from worker.engines.transformers import attention, attention_plan
from worker.engines.transformers.linear_layers import Joined, JoinedLinear

if TYPE_CHECKING:
    from transformers import PreTrainedModel
    from transformers.generation.continuous_batching.cache import PagedAttentionCache

KINDS = frozenset({"LlamaDecoderLayer", "MistralDecoderLayer", "Qwen2DecoderLayer", "Qwen3DecoderLayer"})
"""transformers' classes that compute this."""


class Norm:
    """RMSNorm in four operations; on a CPU torch's is made of seven."""

    def __init__(self, stock: Any) -> None:
        """`stock`: transformers' module."""
        weight: torch.Tensor = stock.weight.detach()
        self._entries = len(weight)
        self._weight, self._epsilon = weight, stock.variance_epsilon
        # x / sqrt(x·x / n + ε) = x / sqrt(x·x + n ε) * sqrt(n), whose divisor is a hypotenuse
        self._scaled = weight * math.sqrt(self._entries)
        self._least = torch.tensor(math.sqrt(self._entries * self._epsilon))

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        """(…, entries) -> the same."""
        if rows.dtype != torch.float32:  # torch's sums are float32 all the same
            return torch.rms_norm(rows, (self._entries,), self._weight, self._epsilon)
        lengths: torch.Tensor = torch.linalg.vector_norm(rows, dim=-1, keepdim=True)
        return (rows / lengths.hypot_(self._least)).mul_(self._scaled)


@dataclass(frozen=True, slots=True)
class Layer:
    """The weights of one layer."""

    before_attention: Norm
    queries_keys_values: Joined
    queries: Norm | None
    keys: Norm | None
    """Of each head; `None` where the model has none."""
    attended: Joined
    before_mlp: Norm
    gate_up: Joined
    down: Joined


class LlamaLayers(nn.Module):
    """All decoder layers; called as if it were the only one."""

    def __init__(self, layers: Sequence[Layer], head_dim: int, scaling: float) -> None:
        super().__init__()
        self._layers = layers
        self._head_dim, self._scaling = head_dim, scaling

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
        tokens, head_dim = len(rows), self._head_dim
        query_heads, key_heads, _ = (size // head_dim for size in self._layers[0].queries_keys_values.sizes)
        turned_heads = query_heads + key_heads
        cosine, sine = (each[0, :, None] for each in position_embeddings)
        # One of each pair that turns is multiplied by the sine, the other by its negative: once for all layers.
        sine = torch.cat((-sine[..., : head_dim // 2], sine[..., head_dim // 2 :]), -1)
        allocator = cache.layer_to_allocator[0]
        assert isinstance(allocator, FullAttentionCacheAllocator)
        plan = attention_plan.plan(allocator, rows.dtype, **step)
        for number, layer in enumerate(self._layers):
            heads = layer.queries_keys_values.outputs(layer.before_attention(rows)).view(tokens, -1, head_dim)
            turning, values = heads[:, :turned_heads], heads[:, turned_heads:]
            if layer.queries is not None and layer.keys is not None:
                queries, keys = layer.queries(turning[:, :query_heads]), layer.keys(turning[:, query_heads:])
                turning = torch.cat((queries, keys), 1)
            turned = (turning * cosine).addcmul_(turning.roll(head_dim // 2, -1), sine)
            queries, keys = turned[:, :query_heads], turned[:, query_heads:]
            pages = allocator.get_cache_for_block_table(number)
            attended = attention.attend(plan, pages, queries, keys, values, self._scaling)
            rows = layer.attended.outputs(attended.view(tokens, -1)).add_(rows)
            gate, up = layer.gate_up.outputs(layer.before_mlp(rows)).chunk(2, -1)
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
    decoder.layers = nn.ModuleList([LlamaLayers(known, first.self_attn.head_dim, first.self_attn.scaling)])


def _layer(stock: Any) -> Layer | None:
    attends, mlp = stock.self_attn, stock.mlp
    queries_keys_values = _joined(attends.q_proj, attends.k_proj, attends.v_proj)
    attended, gate_up, down = _joined(attends.o_proj), _joined(mlp.gate_proj, mlp.up_proj), _joined(mlp.down_proj)
    if queries_keys_values is None or attended is None or gate_up is None or down is None:
        return None
    return Layer(
        before_attention=Norm(stock.input_layernorm),
        queries_keys_values=queries_keys_values,
        queries=Norm(attends.q_norm) if hasattr(attends, "q_norm") else None,
        keys=Norm(attends.k_norm) if hasattr(attends, "k_norm") else None,
        attended=attended,
        before_mlp=Norm(stock.post_attention_layernorm),
        gate_up=gate_up,
        down=down,
    )


def _joined(*layers: nn.Module) -> Joined | None:
    """The one matrix of exactly these layers."""
    joined = {layer.joined for layer in layers if isinstance(layer, JoinedLinear)}
    one = joined.pop() if len(joined) == 1 else None
    return one if one is not None and len(one.sizes) == len(layers) else None
