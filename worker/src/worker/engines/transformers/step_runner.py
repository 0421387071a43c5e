"""A step that also scores prompts: the model is asked for the scores of more rows than those of the new tokens.

transformers' runner keeps the scores of new tokens alone. Those of a prompt are reduced at once to what its request
asks for: what is in memory of them is bounded by the rows of one step (`scheduling.SCORED_AT_ONCE`).
"""

from typing import Any

import torch
from torch import nn
from transformers.generation.continuous_batching.model_runner import ModelRunner
from transformers.generation.continuous_batching.utils import stream_context

from worker.engines.transformers.sampling import Sampler


class StepRunner(ModelRunner):
    """transformers' runner, for steps without a prompt to be scored; the others are computed without a CUDA graph."""

    def __init__(self, processor: Any, sampler: Sampler) -> None:
        """In the place of the runner that the batch processor has made for itself."""
        super().__init__(
            logit_processor=sampler,
            cb_config=processor.cb_config,
            inputs_and_outputs=processor.inputs_and_outputs,
            cache=processor.cache,
            do_sample=processor.do_sample,
            return_logprobs=processor.return_logprobs,
        )
        self._sampler = sampler

    def compute_batch(self, model: nn.Module, batch_data: dict[str, Any]) -> None:
        """One step."""
        scored = self._sampler.scored_rows
        if not scored:
            super().compute_batch(model, batch_data)
            self._sampler.score(torch.empty(0, 0))
            return
        _, _, output_ids = self.inputs_and_outputs.get_cb_kwargs()
        with stream_context(self.inputs_and_outputs.compute_stream):
            drawn: torch.Tensor = batch_data["logits_indices"]
            wanted = torch.cat([drawn, torch.tensor(scored, dtype=drawn.dtype, device=drawn.device)])
            if self.supports_logits_to_keep(model):
                logits = model(**batch_data, logits_to_keep=wanted).logits[0]
            else:
                logits = model(**batch_data).logits[0, wanted]
            self._sampler.score(logits[len(drawn) :])
            arguments = batch_data["logits_processor_args"]
            scores = self._sampler(batch_data["input_ids"][0, drawn], logits[: len(drawn)].float(), arguments)
            self._sample(scores[None], output_ids)
