"""The loading of weights, counted while transformers does it."""

from pathlib import Path

from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM
from transformers.utils import logging

from worker.engines.transformers.loading_progress import weights_reported


def test_the_loaded_fraction_grows_to_one(tmp_path: Path) -> None:
    tiny = LlamaConfig(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
    )
    LlamaForCausalLM(tiny).save_pretrained(tmp_path)
    told: list[float] = []
    with weights_reported(told.append):
        AutoModelForCausalLM.from_pretrained(tmp_path)
    assert len(told) > 5
    assert told == sorted(set(told))
    assert told[-1] == 1.0
    assert logging.set_tqdm_hook(None) is None


def test_other_bars_stay_what_they_are() -> None:
    told: list[float] = []
    with weights_reported(told.append):
        assert list(logging.tqdm([1, 2], desc="Fetching")) == [1, 2]
    assert not told
