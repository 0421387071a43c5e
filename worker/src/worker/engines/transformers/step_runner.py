"""How a step is computed: the model's forward pass, which a CUDA graph may hold, and what is made of its scores.

transformers' runner records both in the graph, so that every operation of the sampler would run for every row of every
step. It also keeps the scores of new tokens alone; a step that scores prompts asks the model for more rows. Those are
reduced at once to what their request asks for: what is in memory of them is bounded by the rows of one step
(`step_budget.SCORED_AT_ONCE`).
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers.generation.continuous_batching.input_outputs import ContinuousBatchingIOs
from transformers.generation.continuous_batching.model_runner import ModelRunner
from transformers.generation.continuous_batching.utils import stream_context

from worker.engines.transformers.sampling import Sampler


class StepRunner(ModelRunner):
    """transformers' runner, with the sampler behind the graph; steps that score a prompt are computed without one."""

    def __init__(self, processor: Any, sampler: Sampler, kept: torch.Tensor | None) -> None:
        """In the place of the runner that the batch processor has made for itself.

        `kept`: where the graphs leave their scores, shape (slots, vocabulary); None where there are no graphs.
        """
        super().__init__(
            logit_processor=sampler,
            cb_config=processor.cb_config,
            inputs_and_outputs=processor.inputs_and_outputs,
            cache=processor.cache,
            do_sample=processor.do_sample,
            return_logprobs=processor.return_logprobs,
        )
        self._sampler = sampler
        self._kept = kept
        self._scores = torch.empty(0)
        """Of the new tokens of the last step; shape (requests, vocabulary)."""

    def compute_batch(self, model: nn.Module, batch_data: dict[str, Any]) -> None:
        """One step."""
        _, _, output_ids = self.inputs_and_outputs.get_cb_kwargs()
        drawn: torch.Tensor = batch_data["logits_indices"]
        stream = self.inputs_and_outputs.compute_stream
        if stream is not None:
            # A step's inputs were written on the default stream, for which this one does not wait by itself.
            stream.wait_stream(torch.cuda.current_stream(drawn.device))
        scored = self._sampler.scored_rows
        of_prompts = torch.empty(0, 0)
        if scored:
            with stream_context(stream):
                wanted = torch.cat([drawn, torch.tensor(scored, dtype=drawn.dtype, device=drawn.device)])
                logits = self._logits(model, batch_data, wanted)
                self._scores, of_prompts = logits[: len(drawn)].float(), logits[len(drawn) :]
        else:
            super().compute_batch(model, batch_data)
            if self._kept is not None:
                self._scores = self._kept[: len(drawn)]
        with stream_context(stream):
            self._sampler.score(of_prompts)
            arguments = batch_data["logits_processor_args"]
            scores = self._sampler(batch_data["input_ids"][0, drawn], self._scores, arguments)
            self._sample(scores[None], output_ids)

    def _get_forward_fn(self, use_block_table: bool) -> tuple[Callable[..., None], bool]:
        """The forward pass, and whether a graph of it is replayed, or recorded where there is none of this size.

        Only for steps without a prompt: sizes of those with one hardly come twice, and recording costs a step or two.
        """
        forward, use_graph = super()._get_forward_fn(use_block_table)
        inputs = self.inputs_and_outputs
        assert isinstance(inputs, ContinuousBatchingIOs)  # not the asynchronous ones: `sizing.batch_config`
        return forward, use_graph and all(each.query_length == 1 for each in inputs.requests_in_batch)

    def _forward_process_and_sample(self, model: nn.Module, batch_data: dict[str, Any], *_: torch.Tensor) -> None:
        """What is recorded in a graph: the forward pass alone."""
        logits = self._logits(model, batch_data, batch_data["logits_indices"])
        if self._kept is None:
            self._scores = logits.float()
        else:
            self._kept[: len(logits)].copy_(logits)

    def _logits(self, model: nn.Module, batch_data: dict[str, Any], rows: torch.Tensor) -> torch.Tensor:
        """Shape (rows, vocabulary)."""
        logits: torch.Tensor
        if self.supports_logits_to_keep(model):
            logits = model(**batch_data | {"logits_to_keep": rows}).logits[0]
        else:
            logits = model(**batch_data).logits[0, rows]
        return logits
