"""Attention for a CPU that computes each request over its own KV pages.

transformers' sdpa path lays all requests of a step side by side under one dense mask: with n decoding requests every
query is multiplied with the keys of all n. Here a decoding request meets its own pages only; requests of similar length
share one padded call. It enters through transformers' AttentionInterface, or is called by `llama_layers.py`, and reads
the block table that transformers prepares for flash attention's `flash_attn_with_kvcache`.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.generation.continuous_batching.cache import group_layers_by_attn_type
from transformers.generation.continuous_batching.cache_allocators import FULL_ATTENTION, FullAttentionCacheAllocator

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


@dataclass(frozen=True, slots=True)
class Decodes:
    """Decoding requests of similar length, padded to the longest."""

    rows: torch.Tensor
    """Their positions in the step's queries, in order; shape (requests,)."""
    pages: torch.Tensor
    """Their pages one after another; shape (requests * pages of the longest,)."""
    mask: torch.Tensor
    """0 where a request has a key, -inf behind it; shape (requests, 1, 1, keys)."""


@dataclass(frozen=True, slots=True)
class Prefill:
    """A piece of one prompt."""

    begin: int
    end: int
    """Its queries in the step."""
    pages: torch.Tensor | None
    """Pages of all its keys; `None`: the keys are the queries' own, nothing is cached."""
    mask: torch.Tensor | None
    """Causal mask, shape (1, 1, heads per key head * queries, keys); `None` with no cached keys."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What one step's attention does; the same in every layer."""

    writes: torch.Tensor
    """Where each new token's keys and values go; shape (tokens,)."""
    decodes: list[Decodes]
    prefills: list[Prefill]


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
            self._plan = plan(allocator, query.shape[1] // key.shape[1], query.dtype, **step)
        pages = allocator.get_cache_for_block_table(layer)
        queries, keys, values = (states[0].transpose(0, 1) for states in (query, key, value))
        return attend(self._plan, pages, queries, keys, values, scaling).unsqueeze(0), None


def plan(
    allocator: FullAttentionCacheAllocator,
    groups: int,
    dtype: torch.dtype,
    *,
    block_table: torch.Tensor | None,
    cu_seq_lens_q: torch.Tensor,
    cu_seq_lens_k: dict[str, torch.Tensor],
    read_index: list[torch.Tensor],
    write_index: list[torch.Tensor],
    **_: Any,
) -> Plan:
    """Of what transformers says about a step; `groups`: heads for each key head."""
    lengths_k = cu_seq_lens_k[allocator.layer_type].diff().tolist()
    if block_table is not None:
        return _plan_decodes(allocator, block_table[allocator.index], lengths_k, dtype)
    reads, writes = read_index[allocator.index], write_index[allocator.index]
    return _plan_mixed(allocator, reads, writes, cu_seq_lens_q.diff().tolist(), lengths_k, groups, dtype)


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

    def seen(pages: torch.Tensor, numbers: torch.Tensor, requests: int) -> torch.Tensor:
        return pages.index_select(0, numbers).view(requests, -1, key_heads, dim).transpose(1, 2)

    output = queries.new_empty(tokens, heads, dim)
    for decodes in plan.decodes:
        count = len(decodes.rows)
        chosen = queries if count == tokens else queries.index_select(0, decodes.rows)
        # Query heads of one key head stand as rows of one call: the keys are not repeated.
        folded = chosen.reshape(count, key_heads, -1, dim)
        seen_keys, seen_values = seen(key_pages, decodes.pages, count), seen(value_pages, decodes.pages, count)
        attended = scaled_dot_product_attention(folded, seen_keys, seen_values, decodes.mask, scale=scaling)
        attended = attended.reshape(count, heads, dim)
        if count == tokens:
            return attended
        output.index_copy_(0, decodes.rows, attended)
    for piece in plan.prefills:
        chosen, own_keys, own_values = (
            states[piece.begin : piece.end].transpose(0, 1)[None] for states in (queries, keys, values)
        )
        if piece.pages is None or piece.mask is None:
            attended = scaled_dot_product_attention(
                chosen, own_keys, own_values, is_causal=True, scale=scaling, enable_gqa=True
            )
        else:
            length = piece.mask.shape[-1]
            seen_keys, seen_values = (seen(pages, piece.pages, 1)[:, :, :length] for pages in (key_pages, value_pages))
            folded = chosen.reshape(1, key_heads, -1, dim)
            attended = scaled_dot_product_attention(folded, seen_keys, seen_values, piece.mask, scale=scaling)
            attended = attended.view(1, heads, -1, dim)
        output[piece.begin : piece.end] = attended[0].transpose(0, 1)
    return output


def _plan_decodes(
    allocator: FullAttentionCacheAllocator, table: torch.Tensor, lengths: list[int], dtype: torch.dtype
) -> Plan:
    """One new token per request; `table` has a row of pages for each."""
    page_size = allocator.tokens_per_page
    last = torch.tensor(lengths) - 1
    pages = table[torch.arange(len(lengths)), last // page_size]
    return Plan(
        writes=pages * page_size + last % page_size,
        decodes=_similar(list(range(len(lengths))), list(table), lengths, page_size, dtype),
        prefills=[],
    )


def _plan_mixed(
    allocator: FullAttentionCacheAllocator,
    reads: torch.Tensor,
    writes: torch.Tensor,
    lengths_q: list[int],
    lengths_k: list[int],
    groups: int,
    dtype: torch.dtype,
) -> Plan:
    """Prompts, or prompts beside decoding requests; `reads` lists the cached tokens, empty when there are none."""
    page_size = allocator.tokens_per_page
    prefills: list[Prefill] = []
    rows: list[int] = []
    tables: list[torch.Tensor] = []
    lengths: list[int] = []
    begin = read = 0
    for length_q, length_k in zip(lengths_q, lengths_k, strict=True):
        table = reads[read : read + length_k : page_size] // page_size
        if length_q == length_k:
            prefills.append(Prefill(begin, begin + length_q, None, None))
        elif length_q == 1:
            rows.append(begin)
            tables.append(table)
            lengths.append(length_k)
        else:
            mask = torch.full((length_q, length_k), -torch.inf, dtype=dtype).triu_(length_k - length_q + 1)
            prefills.append(Prefill(begin, begin + length_q, table, mask.repeat(groups, 1)[None, None]))
        begin += length_q
        read += length_k
    return Plan(writes, _similar(rows, tables, lengths, page_size, dtype), prefills)


def _similar(
    rows: list[int], tables: list[torch.Tensor], lengths: list[int], page_size: int, dtype: torch.dtype
) -> list[Decodes]:
    """Groups decoding requests so that none is padded to more than twice its pages."""
    sizes = [-(-length // page_size) for length in lengths]
    order = sorted(range(len(rows)), key=lambda i: sizes[i], reverse=True)
    groups: list[list[int]] = []
    for i in order:
        if groups and 2 * sizes[i] > sizes[groups[-1][0]]:
            groups[-1].append(i)
        else:
            groups.append([i])
    result = []
    for group in groups:
        pages = sizes[group[0]]
        group.sort()
        padded = torch.zeros(len(group), pages, dtype=torch.long)
        for place, i in enumerate(group):
            padded[place, : sizes[i]] = tables[i][: sizes[i]]
        behind = torch.arange(pages * page_size) >= torch.tensor([lengths[i] for i in group])[:, None]
        mask = torch.zeros(behind.shape, dtype=dtype).masked_fill_(behind, -torch.inf)
        result.append(Decodes(torch.tensor([rows[i] for i in group]), padded.flatten(), mask[:, None, None]))
    return result
