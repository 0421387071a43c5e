"""How the next token of each request is chosen: vLLM takes the arg max, and here the scores are made for it.

vLLM's own seeds begin anew where an answer goes on behind streamed tokens, so every request is greedy to it, and what
the request asks for comes here. Loaded by name in every process that runs a part of the model.
"""

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
import vllm.v1.sample.sampler as vllm_sampler
import vllm.v1.worker.gpu_model_runner as model_runner
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor
from vllm.v1.sample.logits_processor.builtin import process_dict_updates

from worker.engine_protocol import Generate
from worker.engines.draws import ROWS, Draws, is_drawn, is_filtered

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.sampling_params import SamplingParams

NAME = f"{__name__}:Sampler"
"""By which vLLM loads it."""
GENERATE = "headrace"
"""Where the request is among the extra arguments of vLLM's."""

apply_grammar_bitmask = model_runner.apply_grammar_bitmask


class Drawn(NamedTuple):
    """A request that samples."""

    generate: Generate
    new_tokens: list[int]
    """Behind `generated_ids`; grows with every step."""


class Sampler(LogitsProcessor):  # type: ignore[misc]  # vLLM is not where types are checked
    """Grammars, temperature, top-k, top-p and seeds of all requests of a step."""

    def __init__(self, vllm_config: "VllmConfig", device: torch.device, is_pin_memory: bool) -> None:
        self._draws = Draws(vllm_config.model_config.get_vocab_size(), device)
        self._device = device
        self._drawn: dict[int, Drawn] = {}
        """By row; rows that are not in it are greedy."""
        self._grammars: tuple[Any, ...] | None = None
        # vLLM forbids tokens before it takes the scores for logprobs. They are to tell what the model thinks, so the
        # arguments are kept, and applied with the draws, which are behind that.
        model_runner.apply_grammar_bitmask = self._keep_grammars
        # vLLM also tells the rank of a token, which nobody asks for. Its compiled form would stall the batch for half a
        # minute when a process tells its first logprobs, and needs a C++ compiler.
        vllm_sampler.batched_count_greater_than = _ranks

    def is_argmax_invariant(self) -> bool:
        """False: it decides what the arg max is."""
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """Requests have come, gone or moved to other rows."""
        process_dict_updates(self._drawn, batch_update, _drawn)

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        """Scores of shape (requests, vocabulary) whose arg max is each request's next token; changed in place."""
        if self._grammars is not None:
            apply_grammar_bitmask(*self._grammars, logits)
            self._grammars = None
        rows = [row for row in self._drawn if row < len(logits)]
        if rows:
            columns = np.zeros((ROWS, len(logits)), dtype=np.int32)
            for row in rows:
                generate, new_tokens = self._drawn[row]
                self._draws.fill(columns[:, row], generate, len(generate.generated_ids) + len(new_tokens))
            arguments = torch.from_numpy(columns).to(logits.device)
            plain = [row for row in rows if not is_filtered(self._drawn[row].generate)]
            filtered = [row for row in rows if is_filtered(self._drawn[row].generate)]
            if plain:
                self._draws.add_plain(logits, plain, arguments)
            if filtered:
                self._draws.add_filtered(logits, filtered, arguments)
        return logits

    def _keep_grammars(self, scheduled: Any, grammars: Any, batch: Any, logits: torch.Tensor) -> None:
        self._grammars = (scheduled, grammars, batch)


def _ranks(logprobs: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
    return (logprobs >= own).sum(-1)


def _drawn(parameters: "SamplingParams", prompt_ids: list[int] | None, new_tokens: list[int]) -> Drawn | None:
    generate = (parameters.extra_args or {}).get(GENERATE)
    return Drawn(generate, new_tokens) if generate is not None and is_drawn(generate) else None
