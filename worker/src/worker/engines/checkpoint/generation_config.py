"""What a model's generation config says: how its authors want tokens chosen, and which tokens end an answer."""

import logging
from pathlib import Path

from transformers import AutoConfig, GenerationConfig, PreTrainedTokenizerBase

from worker.engine_protocol import SamplingDefaults

log = logging.getLogger(__name__)

UNSET = SamplingDefaults(temperature=1.0, top_p=1.0, top_k=50)
"""What transformers' `generate` fills in for a model that wants to sample and says no more than that."""
NOT_APPLIED = {
    "min_p": 0,
    "typical_p": 1,
    "epsilon_cutoff": 0,
    "eta_cutoff": 0,
    "repetition_penalty": 1,
    "no_repeat_ngram_size": 0,
    "bad_words_ids": None,
    "suppress_tokens": None,
}
"""What a generation config may ask for beside temperature, top-p and top-k, and the value that switches it off."""


def generation_config(folder: Path) -> GenerationConfig:
    """Of the model in this folder; an empty one where it has none."""
    try:
        config: GenerationConfig = GenerationConfig.from_pretrained(folder)
    except OSError:
        config = GenerationConfig.from_model_config(AutoConfig.from_pretrained(folder))
    return config


def sampling_defaults(config: GenerationConfig) -> SamplingDefaults:
    """As transformers' `generate` understands the config: greedy unless it says `do_sample`."""
    wanted = config.to_diff_dict()
    ignored = [
        f"{name} {wanted[name]}" for name, off in NOT_APPLIED.items() if wanted.get(name, off) not in (off, None)
    ]
    if ignored:
        log.warning("Of the model's generation config this is not applied: %s.", ", ".join(ignored))
    if not config.do_sample:
        return SamplingDefaults()
    return SamplingDefaults(
        temperature=UNSET.temperature if config.temperature is None else float(config.temperature),
        top_p=UNSET.top_p if config.top_p is None else float(config.top_p),
        top_k=UNSET.top_k if config.top_k is None else int(config.top_k),
    )


def eos_token_ids(config: GenerationConfig, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """End-of-sequence tokens of the generation config and of the tokenizer."""
    configured = config.eos_token_id
    ids = configured if isinstance(configured, list) else [configured]
    return tuple(sorted({*ids, tokenizer.eos_token_id} - {None}))
