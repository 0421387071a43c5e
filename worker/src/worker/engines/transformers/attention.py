"""Attention for a CPU that computes each request over its own KV pages.

transformers' sdpa path lays all requests of a step side by side under one dense mask: with n decoding requests every
query is multiplied with the keys of all n. Here a decoding request meets its own pages only; requests of similar length
share one padded call. It enters through transformers' AttentionInterface, or is called by `llama_layers.py`, and reads
the block table that transformers prepares for flash attention's `flash_attn_with_kvcache`.
"""

from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.generation.continuous_batching.cache import group_layers_by_attn_type
from transformers.generation.continuous_batching.cache_allocators import FULL_ATTENTION, FullAttentionCacheAllocator

from worker.engines.transformers.attention_plan import Plan, plan

if TYPE_CHECKING:
    from transformers import PreTrainedModel
    from transformers.generation.continuous_batching.cache import PagedAttentionCache

NAME = "per_request"


def install(model: "PreTrainedModel") -> bool:
    """Makes the model attend per request; False, with nothing changed, for a model it was not made for."""
    kinds = set(group_layers_by_attn_type(model.config.get_text_config()))
    if model.device.type != "cpu" or kinds != {FULL_ATTENTION} or changes_scores(model):
        return False
    AttentionInterface.register(NAME, PerRequestAttention())
    model.set_attn_implementation(NAME)
    return True


def attention_heads(model: "PreTrainedModel") -> tuple[int, int, int]:
    """Query heads, key heads, and the entries of one."""
    config = model.config.get_text_config()
    queries: int = config.num_attention_heads
    keys = getattr(config, "num_key_value_heads", None) or queries
    return queries, keys, getattr(config, "head_dim", None) or config.hidden_size // queries


def changes_scores(model: "PreTrainedModel") -> bool:
    """Whether it has attention sinks or caps its scores, which is computed by transformers alone."""
    sinks = any(name.endswith(".sinks") for name, _ in model.named_parameters())
    return sinks or bool(getattr(model.config.get_text_config(), "attn_logit_softcapping", None))


Pages = tuple[torch.Tensor, torch.Tensor]
"""A layer's cached keys and values, each (pages, tokens per page, key heads, dim)."""


class PerRequestAttention:
    """The attention function of transformers' layers; keeps the plan of the running step."""

    def __init__(self) -> None:
        self._plan: Plan

    def __call__(
        self,
        module: torch.nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        scaling: float | None = None,
        *,
        cache: "PagedAttentionCache",
        **step: Any,
    ) -> tuple[torch.Tensor, None]:
        """Writes keys and values of shape (1, key heads, tokens, dim), returns (1, tokens, heads, dim)."""
        layer: int = module.layer_idx  # type: ignore[assignment]  # every attention module has its number
        allocator = cache.layer_to_allocator[layer]
        assert isinstance(allocator, FullAttentionCacheAllocator)
        if layer == allocator.layer_indices[0]:
            self._plan = plan(allocator, query.dtype, **step)
        pages = allocator.get_cache_for_block_table(layer)
        queries, keys, values = (states[0].transpose(0, 1) for states in (query, key, value))
        return attend(self._plan, pages, queries, keys, values, scaling).unsqueeze(0), None


def attend(
    plan: Plan,
    cached: Pages,
    queries: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    scaling: float | None,
) -> torch.Tensor:
    """Writes a layer's keys and values of shape (tokens, key heads, dim), returns (tokens, heads, dim)."""
    tokens, heads, dim = queries.shape
    key_heads = keys.shape[1]
    key_pages, value_pages = cached
    key_pages.view(-1, key_heads, dim).index_copy_(0, plan.writes, keys)
    value_pages.view(-1, key_heads, dim).index_copy_(0, plan.writes, values)

    in_runs = _in_runs(key_pages, plan.run)

    def seen(runs: torch.Tensor, requests: int) -> torch.Tensor:
        """Keys and values; shape (2, requests, key heads, tokens, dim)."""
        return in_runs.index_select(0, runs).view(2, requests, -1, key_heads, dim).transpose(2, 3)

    output = queries.new_empty(tokens, heads, dim)
    for decodes in plan.decodes:
        count = len(decodes.rows)
        chosen = queries if count == tokens else queries.index_select(0, decodes.rows)
        # Query heads of one key head stand as rows of one call: the keys are not repeated.
        folded = chosen.reshape(count, key_heads, -1, dim)
        seen_keys, seen_values = seen(decodes.runs, count)
        attended = scaled_dot_product_attention(folded, seen_keys, seen_values, decodes.mask, scale=scaling)
        attended = attended.reshape(count, heads, dim)
        if count == tokens:
            return attended
        output.index_copy_(0, decodes.rows, attended)
    for piece in plan.prefills:
        own_queries, own_keys, own_values = (states[piece.begin : piece.end] for states in (queries, keys, values))
        before = seen(piece.runs, 1)[..., : piece.cached, :] if piece.cached else None
        output[piece.begin : piece.end] = _prefilled(own_queries, own_keys, own_values, before, scaling)
    return output


def _in_runs(key_pages: torch.Tensor, run: int) -> torch.Tensor:
    """The cache from a layer's first keys on, shape (runs, run, key heads, dim); behind each page of keys its values.

    So that one operation copies both.
    """
    pages, page_size, heads, dim = key_pages.shape
    # One page more than transformers' view of the keys has, which is cut to the length of that of the values.
    return key_pages.as_strided(
        ((pages + 1) * page_size // run, run, heads, dim), (run * heads * dim, heads * dim, dim, 1)
    )


def _prefilled(
    queries: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    before: torch.Tensor | None,
    scaling: float | None,
) -> torch.Tensor:
    """Of a piece of one prompt, shapes (tokens, heads, dim); `before`: cached keys, values: (2, 1, heads, tokens, dim).

    Its own keys, of which each query sees a part, and those before it, of which each sees all, are two calls: together
    they would need a mask, as large as all scores of a head.
    """
    tokens, heads, dim = queries.shape
    grouped = queries.transpose(0, 1).reshape(keys.shape[1], -1, tokens, dim)
    own_keys, own_values = (
        states.transpose(0, 1)[:, None].expand(-1, grouped.shape[1], -1, -1) for states in (keys, values)
    )
    attended, own_sums = _attended(grouped, own_keys, own_values, scaling, is_causal=True)
    if before is not None:
        of_cached, cached_sums = _attended(grouped.reshape(1, keys.shape[1], -1, dim), before[0], before[1], scaling)
        share = torch.sigmoid(cached_sums.view_as(own_sums) - own_sums).to(attended.dtype)
        attended = torch.lerp(attended, of_cached.view_as(attended), share[..., None])
    return attended.reshape(heads, tokens, dim).transpose(0, 1)


def _attended(
    queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scaling: float | None, is_causal: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """What torch's sdpa computes on a CPU, and the logarithm of each query's sum of weights, by which parts add up.

    Shapes: (batch, heads, tokens, dim); the sums are float32, without the last of these.
    """
    flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    attended: torch.Tensor
    sums: torch.Tensor
    attended, sums = flash(queries, keys, values, is_causal=is_causal, scale=scaling)
    return attended, sums
