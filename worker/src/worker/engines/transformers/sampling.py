"""How the next token of each request is chosen, all requests of a step at once.

The manager itself takes the arg max of the scores (`do_sample=False`). Here the scores are made such that the arg max
is the draw: a grammar's forbidden tokens become -inf, and Gumbel noise turns an arg max into a sample of the softmax
(Gumbel-max trick). The noise of a vocabulary entry is a hash of (seed, position in the answer, entry), so that a draw
depends on nothing else in the batch and an answer goes on identically on another worker.
"""

import hashlib
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import LogitsProcessorList
from transformers.generation.continuous_batching.cb_logits_processors import ContinuousBatchingLogitsProcessorList

from worker.engine_protocol import Logprobs
from worker.engines.constraint import InvalidGrammar
from worker.engines.transformers.sequence import Answer, Sequence
from worker.engines.transformers.step_logprobs import StepLogprobs

if TYPE_CHECKING:
    from transformers.generation.continuous_batching.requests import FutureRequestState

CANDIDATES = 256
"""Most likely tokens looked at first for top-k and top-p; eight times more while the nucleus is larger."""
CAPTURED_CANDIDATES = 1024
"""The fixed number inside a CUDA graph, where shapes cannot depend on data: a larger nucleus is cut there."""

TEMPERATURE, TOP_P, TOP_K, KEY_LOW, KEY_HIGH = range(5)
"""Rows of the argument tensor, one column per request; int32, the first two rows hold float32 bits."""
SMALLEST_TEMPERATURE = float(np.finfo(np.float32).tiny)
"""The smallest normal float32. Below it a device may compute with zero: such a temperature is greedy."""


class Scored(NamedTuple):
    """A request of a step whose prompt is scored."""

    sequence: Sequence
    row: int
    """Of the first query that tells a token."""
    queries: int


class Sampler(ContinuousBatchingLogitsProcessorList):
    """Takes the place of transformers' logits processors: temperature, top-k, top-p, seed and grammar in one pass."""

    def __init__(self, vocabulary: int, slots: int, device: torch.device, captured: bool) -> None:
        """`captured`: steps are recorded in CUDA graphs, so that every operation runs for every row."""
        super().__init__(LogitsProcessorList())
        self.tensors_required = 5
        self.do_processing = True
        self._captured = captured
        self._hashed_vocabulary = _mixed(torch.arange(vocabulary, dtype=torch.int32, device=device))
        self._bits = torch.arange(32, dtype=torch.int32, device=device)
        self._allowed = torch.full((slots, (vocabulary + 31) // 32), -1, dtype=torch.int32, device=device)
        self._constrained: list[int] = []
        """Rows of this step that follow a grammar."""
        self._plain: list[int] = []
        """Rows of this step that sample from the whole vocabulary."""
        self._filtered: list[int] = []
        """Rows of this step with top-k or top-p."""
        self._told: dict[str, int] = {}
        """Requests of this step whose logprobs are wanted, and their places in `_told_rows`."""
        self._told_rows: list[int] = []
        self._raw = torch.zeros((slots, vocabulary) if captured else (0, 0), device=device)
        """Scores as the model made them: of those rows; where a CUDA graph keeps them, of all."""
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
        columns = np.zeros((5, len(sequences)), dtype=np.int32)
        floats = columns.view(np.float32)
        for row, sequence in enumerate(sequences):
            generate = sequence.answer.generate
            if generate.temperature < SMALLEST_TEMPERATURE:
                continue
            filtered = generate.top_k > 0 or generate.top_p < 1
            (self._filtered if filtered else self._plain).append(row)
            # Counted from the tokens whose keys are being computed: right also where the last token is not known yet.
            position = sequence.position_offset - len(generate.prompt_ids)
            floats[TEMPERATURE, row], floats[TOP_P, row] = generate.temperature, generate.top_p
            columns[TOP_K, row] = min(generate.top_k, len(self._hashed_vocabulary))
            columns[KEY_LOW:, row] = _key(generate.seed, position)
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
            self._step_logprobs = StepLogprobs(self._raw[self._told_rows] if self._captured else self._raw)
        place = self._told[answer.generate.request_id]
        return self._step_logprobs.of(place, token_id, answer.generate.logprobs or 0)

    def _fill_allowed(self, answers: list[Answer]) -> None:
        if self._captured and self._constrained:
            self._allowed[self._constrained] = -1
        self._constrained = []
        for row, answer in enumerate(answers):
            if answer.constraint is None or answer.error is not None:
                continue
            try:
                allowed = answer.constraint.allowed(answer.generate.max_new_tokens - answer.tokens)
            except InvalidGrammar as error:
                answer.error = f"The grammar failed: {error}"
                continue
            self._allowed[row] = torch.from_numpy(allowed[0])
            self._constrained.append(row)
        if self._constrained and self._allowed.is_cuda:
            # The step runs on a stream of its own, which does not wait for this one.
            torch.cuda.current_stream().synchronize()

    def __call__(
        self, input_ids: torch.Tensor, scores: torch.Tensor, logits_processor_args: torch.Tensor
    ) -> torch.Tensor:
        """Scores of shape (requests, vocabulary) whose arg max is each request's next token; changed in place."""
        if self._captured:
            self._raw[: len(scores)].copy_(scores)
            return self._all_rows(scores, logits_processor_args)
        if self._told_rows:
            self._raw = scores[self._told_rows]
        if self._constrained:
            scores[self._constrained] = self._masked(scores[self._constrained], self._allowed[self._constrained])
        if self._plain:
            arguments = logits_processor_args[:, self._plain]
            scores[self._plain] += _temperature(arguments) * self._noise(arguments)
        if self._filtered:
            arguments = logits_processor_args[:, self._filtered]
            tokens = self._draw_filtered(scores[self._filtered], arguments)
            scores[self._filtered, tokens] = torch.inf
        return scores

    def _masked(self, scores: torch.Tensor, allowed: torch.Tensor) -> torch.Tensor:
        """-inf for each token whose bit is not set."""
        bits = (allowed[:, :, None] >> self._bits) & 1
        return scores.masked_fill(bits.flatten(1)[:, : scores.shape[1]] == 0, -torch.inf)

    def _noise(self, arguments: torch.Tensor, tokens: torch.Tensor | None = None) -> torch.Tensor:
        """Standard Gumbel noise per row and vocabulary entry; of `tokens` alone (rows, n) where given."""
        hashed = self._hashed_vocabulary if tokens is None else self._hashed_vocabulary[tokens]
        bits = _mixed((hashed ^ arguments[KEY_LOW, :, None]) + arguments[KEY_HIGH, :, None])
        # Uniform in (0, 1] from 31 bits: its steps are finest at 0, where the noise that wins comes from.
        uniform = (bits & 0x7FFFFFFF).to(torch.float32).add_(0.5).mul_(2.0**-31)
        return uniform.neg_().log1p_().neg_().log_().neg_()

    def _draw_filtered(self, scores: torch.Tensor, arguments: torch.Tensor) -> torch.Tensor:
        """The token drawn for each row among its top-k and, of those, its top-p most likely."""
        scaled = _scaled(scores, _temperature(arguments))
        normalizer = scaled.logsumexp(-1, keepdim=True)
        count = CANDIDATES
        while True:
            values, tokens = scaled.topk(min(count, scaled.shape[1]))
            kept, enough = _kept(values, normalizer, arguments)
            if enough.all() or count >= scaled.shape[1]:
                break
            count *= 8
        noisy = torch.where(kept, values + self._noise(arguments, tokens), -torch.inf)
        return tokens.gather(1, noisy.argmax(-1, keepdim=True))[:, 0]

    def _all_rows(self, scores: torch.Tensor, arguments: torch.Tensor) -> torch.Tensor:
        """The same for all rows with fixed shapes and no branch on data, as a CUDA graph needs it."""
        count = scores.shape[0]
        scores = self._masked(scores, self._allowed[:count])
        temperature = _temperature(arguments)
        sampled = temperature > 0
        scaled = _scaled(scores, torch.where(sampled, temperature, 1.0))
        values, _ = scaled.topk(min(CAPTURED_CANDIDATES, scaled.shape[1]))
        kept, _ = _kept(values, scaled.logsumexp(-1, keepdim=True), arguments)
        lowest = torch.where(kept, values, torch.inf).amin(-1, keepdim=True)
        top_p = arguments[TOP_P].view(torch.float32)[:, None]
        filtered = sampled & ((arguments[TOP_K, :, None] > 0) | (top_p < 1))
        scaled = scaled.masked_fill(filtered & (scaled < lowest), -torch.inf)
        return torch.where(sampled, scaled + self._noise(arguments), scaled)


def _key(seed: int, position: int) -> NDArray[np.int32]:
    """64 bits that stand for one draw."""
    digest = hashlib.blake2b(b"%d %d" % (seed, position), digest_size=8).digest()
    return np.frombuffer(digest, dtype=np.int32)


def _mixed(bits: torch.Tensor) -> torch.Tensor:
    """A hash of int32 in which every input bit reaches every output bit (Wellons' lowbias32)."""
    bits = (bits ^ ((bits >> 16) & 0xFFFF)) * 0x7FEB352D
    bits = (bits ^ ((bits >> 15) & 0x1FFFF)) * (0x846CA68B - (1 << 32))
    return bits ^ ((bits >> 16) & 0xFFFF)


def _temperature(arguments: torch.Tensor) -> torch.Tensor:
    return arguments[TEMPERATURE].view(torch.float32)[:, None]


def _scaled(scores: torch.Tensor, temperature: torch.Tensor) -> torch.Tensor:
    """Scores over temperature, the best of each row at 0: the quotients of a low temperature would be infinite."""
    return (scores - scores.amax(-1, keepdim=True)) / temperature


def _kept(values: torch.Tensor, normalizer: torch.Tensor, arguments: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Which of the candidates (most likely first) stay, and for which rows the candidates were enough to tell."""
    top_k = arguments[TOP_K, :, None]
    top_p = arguments[TOP_P].view(torch.float32)[:, None]
    within_k = (top_k == 0) | (torch.arange(values.shape[1], device=values.device) < top_k)
    probability = (values - normalizer).exp() * within_k
    mass = torch.where(top_k > 0, probability.sum(-1, keepdim=True), 1.0)
    before = probability.cumsum(-1) - probability
    # The best one always: a top-p next to zero leaves no room for its own probability.
    kept = within_k & ((before < top_p * mass) | (before == 0))
    enough = ((top_k > 0) & (top_k <= values.shape[1])) | (before + probability)[:, -1:].ge(top_p * mass)
    return kept, enough
