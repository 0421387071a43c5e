"""What the attention of one step does, made once for all layers of what transformers says about the step."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from transformers.generation.continuous_batching.cache_allocators import FullAttentionCacheAllocator

RUN = 16
"""Most cached tokens that are copied in one piece, so that a request is padded to a multiple of 16 and not of a page.
With 8 the padding changes an answer's last bits: a vector of the kernel's has up to 16 numbers."""


@dataclass(frozen=True, slots=True)
class Decodes:
    """Decoding requests of similar length, padded to the longest."""

    rows: torch.Tensor
    """Their positions in the step's queries, in order; shape (requests,)."""
    runs: torch.Tensor
    """Of their keys, one request after another, then of their values; shape (2 * requests * runs of the longest,)."""
    mask: torch.Tensor
    """0 where a request has a key, -inf behind it; shape (requests, 1, 1, keys)."""


@dataclass(frozen=True, slots=True)
class Prefill:
    """A piece of one prompt."""

    begin: int
    end: int
    """Its queries in the step."""
    runs: torch.Tensor
    """Of the keys before them, which all of them see, then of the values; none where nothing is cached."""
    cached: int
    """How many keys that are."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What one step's attention does; the same in every layer."""

    writes: torch.Tensor
    """Where each new token's keys and values go; shape (tokens,)."""
    run: int
    """Tokens of a run, which divides a page."""
    decodes: list[Decodes]
    prefills: list[Prefill]


def plan(
    allocator: FullAttentionCacheAllocator,
    dtype: torch.dtype,
    *,
    block_table: torch.Tensor | None,
    cu_seq_lens_q: torch.Tensor,
    cu_seq_lens_k: dict[str, torch.Tensor],
    read_index: list[torch.Tensor],
    write_index: list[torch.Tensor],
    **_: Any,
) -> Plan:
    """Of what transformers says about a step."""
    lengths_k = cu_seq_lens_k[allocator.layer_type].diff().tolist()
    if block_table is not None:
        return _plan_decodes(allocator, block_table[allocator.index], lengths_k, dtype)
    reads, writes = read_index[allocator.index], write_index[allocator.index]
    return _plan_mixed(allocator, reads, writes, cu_seq_lens_q.diff().tolist(), lengths_k, dtype)


def _plan_decodes(
    allocator: FullAttentionCacheAllocator, table: torch.Tensor, lengths: list[int], dtype: torch.dtype
) -> Plan:
    """One new token per request; `table` has a row of pages for each."""
    page_size = allocator.tokens_per_page
    run, page_runs = _runs_of_a_page(page_size)
    last = torch.tensor(lengths) - 1
    pages = table[torch.arange(len(lengths)), last // page_size]
    used = table[:, : -(-max(lengths) // page_size)]  # it has room for a whole context
    runs = (used[:, :, None] * page_runs + torch.arange(page_runs)).flatten(1)
    return Plan(
        writes=pages * page_size + last % page_size,
        run=run,
        decodes=_similar(list(range(len(lengths))), list(runs), lengths, run, page_runs, dtype),
        prefills=[],
    )


def _plan_mixed(
    allocator: FullAttentionCacheAllocator,
    reads: torch.Tensor,
    writes: torch.Tensor,
    lengths_q: list[int],
    lengths_k: list[int],
    dtype: torch.dtype,
) -> Plan:
    """Prompts, or prompts beside decoding requests; `reads` lists the cached tokens, empty when there are none."""
    run, page_runs = _runs_of_a_page(allocator.tokens_per_page)
    prefills: list[Prefill] = []
    rows: list[int] = []
    all_runs: list[torch.Tensor] = []
    lengths: list[int] = []
    begin = read = 0
    for length_q, length_k in zip(lengths_q, lengths_k, strict=True):
        runs = reads[read : read + length_k : run] // run
        cached = length_k - length_q
        if cached and length_q == 1:
            rows.append(begin)
            all_runs.append(runs)
            lengths.append(length_k)
        else:
            runs = runs[: -(-cached // run)]
            prefills.append(Prefill(begin, begin + length_q, torch.cat((runs, runs + page_runs)), cached))
        begin += length_q
        read += length_k
    return Plan(writes, run, _similar(rows, all_runs, lengths, run, page_runs, dtype), prefills)


def _runs_of_a_page(page_size: int) -> tuple[int, int]:
    """Tokens of a run, and runs of a page."""
    run = math.gcd(page_size, RUN)
    return run, page_size // run


def _similar(
    rows: list[int], runs: list[torch.Tensor], lengths: list[int], run: int, page_runs: int, dtype: torch.dtype
) -> list[Decodes]:
    """Groups decoding requests so that none is padded to more than twice its runs."""
    sizes = [-(-length // run) for length in lengths]
    order = sorted(range(len(rows)), key=lambda i: sizes[i], reverse=True)
    groups: list[list[int]] = []
    for i in order:
        if groups and 2 * sizes[i] > sizes[groups[-1][0]]:
            groups[-1].append(i)
        else:
            groups.append([i])
    result = []
    for group in groups:
        longest = sizes[group[0]]
        group.sort()
        padded = torch.zeros(len(group), longest, dtype=torch.long)
        for place, i in enumerate(group):
            padded[place, : sizes[i]] = runs[i][: sizes[i]]
        both = torch.stack((padded, padded + page_runs))
        behind = torch.arange(longest * run) >= torch.tensor([lengths[i] for i in group])[:, None]
        mask = torch.zeros(behind.shape, dtype=dtype).masked_fill_(behind, -torch.inf)
        result.append(Decodes(torch.tensor([rows[i] for i in group]), both.flatten(), mask[:, None, None]))
    return result
