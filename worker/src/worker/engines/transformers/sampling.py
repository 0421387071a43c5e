"""How the next token of each request is chosen, all requests of a step at once.

The manager itself takes the arg max of the scores (`do_sample=False`). Here the scores are made such that the arg max
is the draw (`worker.engines.draws`), and a grammar's forbidden tokens become -inf.
"""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from transformers import LogitsProcessorList
from transformers.generation.continuous_batching.cb_logits_processors import ContinuousBatchingLogitsProcessorList

from worker.engine_protocol import Logprobs
from worker.engines.constraint import InvalidGrammar
from worker.engines.draws import ROWS, Draws, is_drawn, is_filtered
from worker.engines.transformers.sequence import Answer, Sequence
from worker.engines.transformers.step_logprobs import StepLogprobs

if TYPE_CHECKING:
    from transformers.generation.continuous_batching.requests import FutureRequestState


class Scored(NamedTuple):
    """A request of a step whose prompt is scored."""

    sequence: Sequence
    row: int
    """Of the first query that tells a token."""
    queries: int


class Sampler(ContinuousBatchingLogitsProcessorList):
    """Takes the place of transformers' logits processors: temperature, top-k, top-p, seed and grammar in one pass."""

    def __init__(self, vocabulary: int, device: torch.device) -> None:
        super().__init__(LogitsProcessorList())
        self.tensors_required = ROWS
        self.do_processing = True
        self._draws = Draws(vocabulary, device)
        self._bits = torch.arange(32, dtype=torch.int32, device=device)
        self._constrained: list[int] = []
        """Rows of this step that follow a grammar."""
        self._allowed = torch.empty(0, (vocabulary + 31) // 32, dtype=torch.int32)
        """A bit for each token that those rows allow."""
        self._plain: list[int] = []
        """Rows of this step that sample from the whole vocabulary."""
        self._filtered: list[int] = []
        """Rows of this step with top-k or top-p."""
        self._told: dict[str, int] = {}
        """Requests of this step whose logprobs are wanted, and their places in `_told_rows`."""
        self._told_rows: list[int] = []
        self._raw = torch.empty(0, vocabulary)
        """Scores of those rows, as the model made them."""
        self._step_logprobs: StepLogprobs | None = None
        """Made of them when the first request asks."""
        self._scored: list[Scored] = []
        """Requests of this step whose prompt is scored."""

    def fill_defaults(self, int32_tensor: torch.Tensor) -> None:
        """Greedy: zero in every row."""
        int32_tensor.zero_()

    def prepare_tensor_args(
        self, requests_in_batch: "list[FutureRequestState]", arg_storage: torch.Tensor
    ) -> torch.Tensor:
        """Before a step, on the generation thread: writes each request's column and its grammar's tokens."""
        sequences = []
        self._scored, begin = [], 0
        for future in requests_in_batch:
            if isinstance(future.state, Sequence):  # the manager's warm-up has states of its own
                if not future.state.answer.sent:
                    future.state.answer.computed_tokens += future.query_length
                if future.has_new_token:
                    sequences.append(future.state)
                self._note_scored(future.state, begin, future.query_length)
            begin += future.query_length
        self._plain, self._filtered = [], []
        columns = np.zeros((ROWS, len(sequences)), dtype=np.int32)
        for row, sequence in enumerate(sequences):
            generate = sequence.answer.generate
            if is_drawn(generate):
                (self._filtered if is_filtered(generate) else self._plain).append(row)
                # Counted from the tokens whose keys are being computed: right also where the last token is not known
                # yet.
                position = sequence.position_offset - len(generate.prompt_ids)
                self._draws.fill(columns[:, row], generate, position)
        arg_storage[:, : len(sequences)] = torch.from_numpy(columns).to(arg_storage.device)
        self._fill_allowed([sequence.answer for sequence in sequences])
        told = [(row, s.answer.generate) for row, s in enumerate(sequences) if s.answer.generate.logprobs is not None]
        self._told_rows = [row for row, _ in told]
        self._told = {generate.request_id: place for place, (_, generate) in enumerate(told)}
        self._step_logprobs = None
        return arg_storage

    def _note_scored(self, sequence: Sequence, begin: int, length: int) -> None:
        """`begin`: the row of its first query; `length`: of its queries. The query of a token tells the next one."""
        answer = sequence.answer
        if answer.unscored:
            past = sequence.position_offset - length
            first = max(past, answer.scored - 1)
            last = min(sequence.position_offset, len(answer.generate.prompt_ids) - 1)
            self._scored.append(Scored(sequence, begin + first - past, max(0, last - first)))

    @property
    def scored_rows(self) -> list[int]:
        """Rows of this step's queries whose scores are wanted beside those of the new tokens."""
        return [scored.row + at for scored in self._scored for at in range(scored.queries)]

    def score(self, scores: torch.Tensor) -> None:
        """Takes the model's scores of those rows; shape (rows, vocabulary)."""
        begin = 0
        for sequence, _, count in self._scored:
            answer = sequence.answer
            known = max(1, answer.scored)
            tokens = answer.generate.prompt_ids[known : known + count]
            rows = StepLogprobs(scores[begin : begin + count])
            answer.score(rows.of_each(tokens, answer.generate.logprobs or 0) if tokens else [], sequence.lifespan[0])
            begin += count

    def told(self, answer: Answer, token_id: int) -> Logprobs:
        """How likely the token was that the last step chose for this request."""
        if self._step_logprobs is None:
            self._step_logprobs = StepLogprobs(self._raw)
        place = self._told[answer.generate.request_id]
        return self._step_logprobs.of(place, token_id, answer.generate.logprobs or 0)

    def _fill_allowed(self, answers: list[Answer]) -> None:
        self._constrained, rows = [], []
        for row, answer in enumerate(answers):
            if answer.constraint is None or answer.error is not None:
                continue
            try:
                rows.append(answer.constraint.allowed(answer.generate.max_new_tokens - answer.tokens)[0])
            except InvalidGrammar as error:
                answer.error = f"The grammar failed: {error}"
                continue
            self._constrained.append(row)
        if rows:
            self._allowed = torch.from_numpy(np.stack(rows))

    def __call__(
        self, input_ids: torch.Tensor, scores: torch.Tensor, logits_processor_args: torch.Tensor
    ) -> torch.Tensor:
        """Scores of shape (requests, vocabulary) whose arg max is each request's next token; changed in place."""
        if self._told_rows:
            self._raw = scores[self._told_rows]
        if self._constrained:
            scores[self._constrained] = self._masked(scores[self._constrained], self._allowed.to(scores.device))
        if self._plain:
            self._draws.add_plain(scores, self._plain, logits_processor_args)
        if self._filtered:
            self._draws.add_filtered(scores, self._filtered, logits_processor_args)
        return scores

    def _masked(self, scores: torch.Tensor, allowed: torch.Tensor) -> torch.Tensor:
        """-inf for each token whose bit is not set."""
        bits = (allowed[:, :, None] >> self._bits) & 1
        return scores.masked_fill(bits.flatten(1)[:, : scores.shape[1]] == 0, -torch.inf)
