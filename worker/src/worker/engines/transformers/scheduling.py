"""Which requests a step computes: decoding first, and no more prompt beside it than the others can wait for."""

from functools import partial
from typing import Any

from transformers.generation.continuous_batching.requests import RequestStatus
from transformers.generation.continuous_batching.scheduler import SCHEDULER_MAPPING, FIFOScheduler

NAME = "decode_first"


def install(prefill_chunk: int) -> str:
    """Makes the scheduler known to transformers and returns the name by which the batch asks for it."""
    SCHEDULER_MAPPING[NAME] = partial(DecodeFirst, prefill_chunk=prefill_chunk)  # type: ignore[assignment]  # called alike
    return NAME


class DecodeFirst(FIFOScheduler):
    """transformers' FIFO scheduler, with a cap on prompt tokens while other requests are decoding.

    Without the cap every step of a long prompt is as long as the largest step, and all answers stutter with it; with
    one cap for all steps a prompt that is alone would be slow.
    """

    def __init__(self, *arguments: Any, prefill_chunk: int, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._prefill_chunk = prefill_chunk

    def schedule_batch(self, token_budget: int, cache_budget: int) -> Any:
        """The next step's requests; `token_budget` is the most tokens a step may compute."""
        decoding = sum(state.status == RequestStatus.DECODING for state in self.active_requests.values())
        if decoding:
            token_budget = min(token_budget, decoding + self._prefill_chunk)
        return super().schedule_batch(token_budget, cache_budget)
