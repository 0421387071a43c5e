"""Our grammars as vLLM's scheduler asks for them."""

import torch
from vllm.v1.structured_output.backend_types import StructuredOutputGrammar

from worker.engines.constraint import InvalidGrammar
from worker.engines.reasoning_first import AnswerConstraint


class RequestGrammar(StructuredOutputGrammar):  # type: ignore[misc]  # vLLM is not where types are checked
    """The constraint of one request, behind the tokens of earlier attempts. It never fails: the batch reads `error`."""

    def __init__(self, constraint: AnswerConstraint, remaining: int, eos_token_ids: tuple[int, ...]) -> None:
        """`remaining`: tokens that may still be generated."""
        self._constraint = constraint
        self._remaining = remaining
        self._eos_token_ids = eos_token_ids
        self.complete = False
        """Whether nothing but end-of-sequence can follow."""
        self.error: str | None = None

    def fill_bitmask(self, bitmask: torch.Tensor, batch_index: int) -> None:
        """Writes the tokens that may come next."""
        try:
            allowed = self._constraint.allowed(self._remaining)
        except InvalidGrammar as error:
            self.error = f"The grammar failed: {error}"
            bitmask[batch_index].fill_(-1)  # anything: the request ends with this step
        else:
            bitmask[batch_index].copy_(torch.from_numpy(allowed[0]))

    def accept_tokens(self, request_id: str, tokens: list[int]) -> bool:
        """Notes what was chosen."""
        for token in tokens:
            self._remaining -= 1
            if self.error is None and token not in self._eos_token_ids:
                try:
                    self.complete = self._constraint.take(token)
                except InvalidGrammar as error:
                    self.error = f"The grammar failed: {error}"
        return True

    def is_terminated(self) -> bool:
        """Never: the batch ends a request whose document is complete."""
        return False

    def validate_tokens(self, tokens: list[int]) -> list[int]:
        """For speculative decoding, which is off."""
        raise NotImplementedError

    def rollback(self, num_tokens: int) -> None:
        """For speculative decoding, which is off."""
        raise NotImplementedError

    def reset(self) -> None:
        """Nothing of vLLM's asks for it."""
        raise NotImplementedError
