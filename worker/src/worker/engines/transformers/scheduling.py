"""Which requests a step computes: decoding first, and no more prompt beside it than the others can wait for."""

from functools import partial
from typing import Any

from transformers.generation.continuous_batching.requests import RequestState, RequestStatus
from transformers.generation.continuous_batching.scheduler import SCHEDULER_MAPPING, FIFOScheduler

from worker.engines.step_budget import SCORED_AT_ONCE, step_budget
from worker.engines.transformers import kept_pages
from worker.engines.transformers.sequence import Sequence

NAME = "decode_first"


def install(prefill_chunk: int) -> str:
    """Makes the scheduler known to transformers and returns the name by which the batch asks for it."""
    kept_pages.install()
    SCHEDULER_MAPPING[NAME] = partial(DecodeFirst, prefill_chunk=prefill_chunk)  # type: ignore[assignment]  # called alike
    return NAME


class DecodeFirst(FIFOScheduler):
    """transformers' FIFO scheduler, with a cap on prompt tokens while other requests are decoding."""

    def __init__(self, *arguments: Any, prefill_chunk: int, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._prefill_chunk = prefill_chunk
        self._score_room = SCORED_AT_ONCE

    def schedule_batch(self, token_budget: int, cache_budget: int) -> Any:
        """The next step's requests; `token_budget` is the most tokens a step may compute."""
        requests = len(self.active_requests) + len(self.waiting_requests)
        decoding = sum(state.status == RequestStatus.DECODING for state in self.active_requests.values())
        token_budget = step_budget(
            decoding, requests - decoding, prefill_chunk=self._prefill_chunk, max_batch_tokens=token_budget
        )
        self._score_room = SCORED_AT_ONCE
        kept_pages.make_room(self.cache, self.safety_margin, token_budget, min(requests, token_budget))
        return super().schedule_batch(token_budget, cache_budget)

    def _infer_request_tokens(self, state: RequestState, request_ids_to_remove_from_waiting: set[str]) -> list[int]:
        """A prompt that is scored takes nothing from the prefix cache, and no more of a step than there is room for."""
        if self._is_scored(state):
            return state.remaining_prefill_tokens[: max(1, self._score_room)]
        tokens: list[int] = super()._infer_request_tokens(state, request_ids_to_remove_from_waiting)
        return tokens

    def _schedule_request(
        self, state: RequestState, request_tokens: list[int], token_budget: int, *others: Any, **named: Any
    ) -> None:
        if self._is_scored(state):
            token_budget = min(token_budget, len(request_tokens))
            request_tokens = state.remaining_prefill_tokens
            self._score_room -= token_budget
        super()._schedule_request(state, request_tokens, token_budget, *others, **named)

    def _is_scored(self, state: RequestState) -> bool:
        return isinstance(state, Sequence) and state.status != RequestStatus.DECODING and state.answer.unscored > 0
