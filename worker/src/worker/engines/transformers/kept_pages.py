"""Pages of ended requests, kept for prompts that begin alike: which of them go when there is no room."""

import math
from itertools import islice
from typing import TYPE_CHECKING

from transformers.generation.continuous_batching import cache as transformers_cache
from transformers.generation.continuous_batching.cache_allocators import FULL_ATTENTION, FullAttentionCacheAllocator

if TYPE_CHECKING:
    from transformers.generation.continuous_batching.cache import PagedAttentionCache


class LongestUnusedFirst(FullAttentionCacheAllocator):
    """transformers' allocator, whose kept pages can go one by one.

    transformers drops all of them as soon as room is short: then every conversation is computed again.
    """

    def free_blocks(self, request_id: str, no_cache: bool = False) -> None:
        """Frees or keeps the pages of a request, its last one first: without its beginning the end is of no use."""
        self.block_table.get(request_id, []).reverse()
        super().free_blocks(request_id, no_cache)

    def drop(self, count: int) -> None:
        """Frees so many kept pages, as far as there are."""
        ledger = self.ledger
        dropped = list(islice(ledger.cached_blocks, count))
        for block in dropped:
            del ledger.cached_blocks[block]
            del ledger.hash_to_block[ledger.block_to_hash.pop(block)]
        self.pool.free_blocks(self.index, dropped)


def install() -> None:
    """Makes transformers' KV caches have this allocator, from now on."""
    transformers_cache.ATTN_TYPE_TO_ALLOCATOR[FULL_ATTENTION] = LongestUnusedFirst


def make_room(cache: "PagedAttentionCache", share: float, tokens: int, requests: int) -> None:
    """Drops kept pages until a share of the cache is free and `requests` requests can store `tokens` further tokens."""
    for allocator in cache.cache_allocators.values():
        if isinstance(allocator, LongestUnusedFirst):
            pages = tokens // allocator.tokens_per_page + requests
            wanted = max(pages * allocator.bytes_per_block, share * cache.num_sectors * cache.bytes_per_sector)
            missing = wanted - cache.compute_free_capacity(relative=False)
            allocator.drop(max(0, math.ceil(missing / allocator.bytes_per_block)))
