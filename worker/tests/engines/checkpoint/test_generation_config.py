from typing import Any

import pytest
from transformers import GenerationConfig

from worker.engine_protocol import SamplingDefaults
from worker.engines.checkpoint.generation_config import eos_token_ids, sampling_defaults


@pytest.mark.parametrize(
    ("config", "sampling"),
    [
        ({}, SamplingDefaults(0.0, 1.0, 0)),
        ({"eos_token_id": 2}, SamplingDefaults(0.0, 1.0, 0)),
        ({"do_sample": False, "temperature": 0.6, "top_p": 0.9}, SamplingDefaults(0.0, 1.0, 0)),
        ({"temperature": 0.6, "top_p": 0.9}, SamplingDefaults(0.0, 1.0, 0)),
        ({"do_sample": True}, SamplingDefaults(1.0, 1.0, 50)),
        ({"do_sample": True, "temperature": 0.6, "top_p": 0.9}, SamplingDefaults(0.6, 0.9, 50)),
        ({"do_sample": True, "temperature": 0.7, "top_p": 0.8, "top_k": 20}, SamplingDefaults(0.7, 0.8, 20)),
        ({"do_sample": True, "temperature": 1, "top_k": 0}, SamplingDefaults(1.0, 1.0, 0)),
    ],
    ids=[
        "none given",
        "none of sampling",
        "greedy",
        "nothing of do_sample",
        "do_sample alone",
        "as Llama's",
        "as Qwen's",
        "all tokens",
    ],
)
def test_a_model_that_asks_for_sampling_gets_it_and_any_other_is_greedy(
    config: dict[str, Any], sampling: SamplingDefaults
) -> None:
    assert sampling_defaults(GenerationConfig(**config)) == sampling


def test_what_is_not_applied_is_said(caplog: pytest.LogCaptureFixture) -> None:
    sampling_defaults(GenerationConfig(do_sample=True, repetition_penalty=1.05, min_p=0.1, top_k=20))
    sampling_defaults(GenerationConfig(repetition_penalty=1.0, typical_p=1.0, no_repeat_ngram_size=0))
    said = [record.getMessage().rpartition(": ")[2] for record in caplog.records]
    assert said == ["min_p 0.1, repetition_penalty 1.05."]


class Tokenizer:
    """As far as it is looked at."""

    def __init__(self, eos_token_id: int | None) -> None:
        self.eos_token_id = eos_token_id


@pytest.mark.parametrize(
    ("configured", "own", "ids"),
    [(None, None, ()), (2, None, (2,)), ([7, 2], 3, (2, 3, 7)), (2, 2, (2,))],
)
def test_answers_end_at_the_tokens_of_config_and_tokenizer(
    configured: int | list[int] | None, own: int | None, ids: tuple[int, ...]
) -> None:
    tokenizer: Any = Tokenizer(own)
    assert eos_token_ids(GenerationConfig(eos_token_id=configured), tokenizer) == ids
