"""The KV cache of a model on several devices; here both are the CPU, with a cache tensor each."""

from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from worker.engines.transformers.kv_placement import layer_devices, spread


@pytest.fixture
def model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=500,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.2,
    )
    return LlamaForCausalLM(config)


def test_each_attention_layer_has_a_device(model: LlamaForCausalLM) -> None:
    assert layer_devices(model) == dict.fromkeys(range(3), torch.device("cpu"))


def test_layers_elsewhere_have_a_cache_of_their_own_with_the_same_pages(model: LlamaForCausalLM) -> None:
    manager, cache = started(model, {0: torch.device("cpu"), 1: torch.device("cpu", 0), 2: torch.device("cpu", 0)})
    here, there = cache.layer_to_allocator[0], cache.layer_to_allocator[1]
    assert here is not there
    assert here.block_table is there.block_table
    assert there is cache.layer_to_allocator[2]
    assert here.cache_tensor.data_ptr() != there.cache_tensor.data_ptr()
    manager.stop(hard_stop=True)


def test_answers_do_not_depend_on_where_the_cache_is(model: LlamaForCausalLM) -> None:
    prompts = [[5, 6, 7], list(range(100, 150)), list(range(100, 140))]
    answers = []
    for devices in (dict.fromkeys(range(3), torch.device("cpu")), {**layer_devices(model), 1: torch.device("cpu", 0)}):
        manager, _ = started(model, devices)
        manager.add_requests(prompts, max_new_tokens=20)
        results = [manager.get_result(timeout=60) for _ in prompts]
        answers.append({tuple(result.prompt_ids): result.generated_tokens for result in results})
        manager.stop(hard_stop=True)
    assert answers[0] == answers[1]


def started(model: LlamaForCausalLM, devices: dict[int, torch.device]) -> tuple[Any, Any]:
    from transformers import ContinuousBatchingConfig, GenerationConfig

    config = ContinuousBatchingConfig(page_size=8, num_blocks=64, max_batch_tokens=32, max_requests_per_batch=4)
    manager: Any = model.init_continuous_batching(GenerationConfig(do_sample=False, eos_token_id=-1), config)
    manager.warmup()
    spread(manager.batch_processor.cache, devices)
    manager.start()
    return manager, manager.batch_processor.cache
