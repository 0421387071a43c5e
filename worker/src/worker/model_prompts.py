"""How a real model is spoken to: its tokenizer, its chat template, its way of writing tool calls."""

from typing import TYPE_CHECKING

from shared.schemas import InferenceRequest, ModelAbilities
from worker.answer_grammars import call_syntax, grammar_for
from worker.engine_protocol import EngineOptions, Grammar
from worker.prompt_rendering import PromptRenderer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


class ModelPrompts:
    """The prompts of one tokenizer."""

    def __init__(self, tokenizer: "PreTrainedTokenizerFast") -> None:
        self._renderer = PromptRenderer(tokenizer)
        self._syntax = call_syntax(tokenizer, self._renderer.abilities.call_form)
        self.tokenizer = tokenizer.backend_tokenizer
        self.abilities = ModelAbilities(tools=self._renderer.style)
        self.stop = self._renderer.stop

    @classmethod
    def load(cls, options: EngineOptions) -> "ModelPrompts":
        """Blocking: reads the tokenizer from disk. Raises ModelUnavailable."""
        from worker.model import load_tokenizer

        return cls(load_tokenizer(options))

    def prompt_ids(self, request: InferenceRequest) -> tuple[int, ...]:
        return self._renderer.prompt_ids(request)

    def grammar(self, request: InferenceRequest, max_new_tokens: int) -> Grammar | None:
        return grammar_for(request, self._syntax, max_new_tokens)
