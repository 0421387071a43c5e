"""How likely tokens are by the scores that the model gave, before anything of a request's changes them."""

from collections.abc import Sequence

import torch

from worker.engine_protocol import Logprobs


class StepLogprobs:
    """The log-probabilities of one step's rows."""

    def __init__(self, scores: torch.Tensor) -> None:
        """`scores`: as the model made them; shape (rows, vocabulary)."""
        self._scores = scores.float()

    def of(self, row: int, token_id: int, alternatives: int) -> Logprobs:
        """Of one token in its row, and of so many likeliest ones there."""
        return self._told([row], [token_id], alternatives)[0]

    def of_each(self, token_ids: Sequence[int], alternatives: int) -> list[Logprobs]:
        """Of one token for each row."""
        return self._told(list(range(len(token_ids))), token_ids, alternatives)

    def _told(self, rows: list[int], token_ids: Sequence[int], alternatives: int) -> list[Logprobs]:
        scores = self._scores[rows]
        # Of the rows that are asked for: how a sum over the vocabulary is split depends on how many there are.
        normalizer = scores.logsumexp(-1, keepdim=True)
        own = scores.gather(1, torch.tensor(token_ids, device=scores.device)[:, None]) - normalizer
        values, best = scores.topk(min(alternatives, scores.shape[1]))
        tops = zip(best.tolist(), (values - normalizer).tolist(), strict=True)
        return [
            Logprobs(alone, tuple(zip(ids, logprobs, strict=True)))
            for alone, (ids, logprobs) in zip(own[:, 0].tolist(), tops, strict=True)
        ]
