from typing import Any

import pytest
from transformers import LlamaConfig, LlamaForCausalLM

from worker.engine_options import TransformersOptions
from worker.engines.transformers.sizing import CPU_DEFAULTS, GIB, batch_config, context_length


def model(**config: Any) -> LlamaForCausalLM:
    """Two layers with two heads of 16 for keys and values, in float32."""
    shape: dict[str, Any] = {
        "vocab_size": 500,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "hidden_size": 64,
        "intermediate_size": 64,
        "max_position_embeddings": 1000,
        **config,
    }
    return LlamaForCausalLM(LlamaConfig(**shape))


BYTES_PER_TOKEN = 2 * 2 * 2 * 16 * 4


def options(**fields: Any) -> TransformersOptions:
    return TransformersOptions(model_source="/model", **fields)


@pytest.mark.parametrize(
    ("limit", "option", "kv_tokens", "expected"),
    [
        (1000, None, 5000, 1000),
        (1000, 300, 5000, 300),
        (1000, 3000, 5000, 1000),
        (1000, None, 400, 400),
        (0, None, 400, 400),
    ],
)
def test_a_context_is_the_least_of_model_option_and_cache(
    limit: int, option: int | None, kv_tokens: int, expected: int
) -> None:
    small = model(max_position_embeddings=limit)
    assert context_length(options(context_length=option), small, kv_tokens) == expected


def test_a_cache_that_cuts_the_context_is_told(caplog: pytest.LogCaptureFixture) -> None:
    context_length(options(), model(), 400)
    assert "The KV cache holds 400 tokens: the context is cut from 1000 to that." in caplog.text
    caplog.clear()
    context_length(options(context_length=300), model(), 400)
    assert caplog.text == ""


def test_the_cache_takes_the_memory_it_is_given() -> None:
    given = batch_config(options(kv_memory_gib=0.25, page_size=16), model())
    assert given.page_size == 16
    assert given.num_blocks == 0.25 * GIB // (BYTES_PER_TOKEN * 16)


def test_on_a_cpu_a_step_is_as_large_as_was_measured_and_no_smaller_than_the_batch() -> None:
    assert batch_config(options(slots=8), model()).max_batch_tokens == CPU_DEFAULTS.max_batch_tokens
    assert batch_config(options(slots=500), model()).max_batch_tokens == 500
    assert batch_config(options(max_batch_tokens=99), model()).max_batch_tokens == 99
    assert batch_config(options(), model()).page_size == CPU_DEFAULTS.page_size
