"""Keys and values beside the layers that use them, for a model that accelerate has spread over several GPUs.

transformers keeps the whole KV cache on one device, so that a layer on another GPU could not write to it. Here each
further device gets a tensor of the same shape: a page has the same number on all of them, and holds the keys and values
of the layers there. The price is memory, the cache's full size on each device.
"""

import copy
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from transformers.generation.continuous_batching.cache import PagedAttentionCache


def layer_devices(model: torch.nn.Module) -> dict[int, torch.device]:
    """The device of each attention layer, by the layer's number."""
    devices: dict[int, torch.device] = {}
    for module in model.modules():
        parameter = next(module.parameters(), None)
        if parameter is not None and isinstance(number := getattr(module, "layer_idx", None), int):
            devices[number] = parameter.device
    return devices


def spread(cache: "PagedAttentionCache", devices: dict[int, torch.device]) -> None:
    """Gives the layers on other devices than the cache's a cache tensor there; before the first request."""
    home = torch.device(cache.device)
    for device in {device for device in devices.values() if device != home}:
        tensor = torch.zeros_like(cache.cache_tensor, device=device)
        for allocator in cache.cache_allocators.values():
            # The copy shares block tables and ledger with the original; its views show the other tensor.
            beside = copy.copy(allocator)
            beside.register_cache_tensor(
                cache.bytes_per_sector, cache.num_sectors * cache.bytes_per_sector, tensor, cache.pool
            )
            for number in allocator.layer_indices:
                if devices[number] == device:
                    cache.layer_to_allocator[number] = beside
