"""Grammars that decoding must follow: compiled by llguidance, one matcher per request."""

from typing import TYPE_CHECKING

import llguidance.hf
import llguidance.numpy
import numpy as np
from llguidance import LLMatcher, LLTokenizer
from numpy.typing import NDArray

from worker.engine_protocol import Grammar

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

Bitmask = NDArray[np.int32]
"""Shape (1, vocabulary / 32): bit i of word w allows token 32 w + i."""


class InvalidGrammar(Exception):
    """The grammar cannot be compiled, or the tokens of the earlier attempt do not follow it."""


class Constraint:
    """The state of one request's grammar: which tokens may come next, and whether the document is complete."""

    def __init__(self, matcher: LLMatcher, words: int) -> None:
        self._matcher = matcher
        self._bitmask = llguidance.numpy.allocate_token_bitmask(1, words * 32)

    def allowed(self) -> Bitmask:
        """The tokens that may come next; end-of-sequence alone when the document is complete."""
        llguidance.numpy.fill_next_token_bitmask(self._matcher, self._bitmask)
        if self._matcher.is_error():
            raise InvalidGrammar(self._matcher.get_error())
        return self._bitmask

    def take(self, token_id: int) -> bool:
        """Notes the token; True when nothing but end-of-sequence can follow. Raises `InvalidGrammar`."""
        if not self._matcher.consume_token(token_id) or self._matcher.is_error():
            raise InvalidGrammar(self._matcher.get_error())
        return bool(self._matcher.is_stopped())


class Grammars:
    """Compiles grammars for one tokenizer."""

    def __init__(self, tokenizer: "PreTrainedTokenizerFast", vocabulary: int, eos_token_ids: tuple[int, ...]) -> None:
        self._words = (vocabulary + 31) // 32
        self._tokenizer: LLTokenizer = llguidance.hf.from_tokenizer(
            tokenizer, n_vocab=vocabulary, eos_token=list(eos_token_ids)
        )

    def compile(self, grammar: Grammar, generated_ids: tuple[int, ...] = ()) -> tuple[Constraint, bool]:
        """The constraint behind `generated_ids`, and whether they complete it. Raises `InvalidGrammar`.

        llguidance lets go of the GIL; a large schema takes up to a second.
        """
        try:
            source = _llguidance_grammar(grammar)
        except ValueError as error:
            raise InvalidGrammar(str(error)) from error
        matcher = LLMatcher(self._tokenizer, source, log_level=0)
        if matcher.is_error():
            raise InvalidGrammar(matcher.get_error())
        constraint = Constraint(matcher, self._words)
        complete = bool(matcher.is_stopped())
        for token_id in generated_ids:
            complete = constraint.take(token_id)
        return constraint, complete


def _llguidance_grammar(grammar: Grammar) -> str:
    match grammar.kind:
        case "json_schema":
            # One fixed layout: a model that may choose its whitespace can write nothing else until its tokens run out.
            layout = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
            return str(LLMatcher.grammar_from_json_schema(grammar.source, overrides=layout))
        case "regex":
            return str(LLMatcher.grammar_from_regex(grammar.source))
        case "lark":
            return str(LLMatcher.grammar_from_lark(grammar.source))
