"""Grammars that decoding must follow, compiled by llguidance for one tokenizer."""

import logging
from typing import TYPE_CHECKING

import llguidance.hf
from llguidance import LLMatcher, LLTokenizer

from worker.engine_protocol import Grammar
from worker.engines.constraint import Constraint, InvalidGrammar, reason_of
from worker.engines.reasoning_first import AnswerConstraint, ReasoningFirst
from worker.engines.token_kinds import TokenKinds

if TYPE_CHECKING:
    from llguidance._lib import JsonCompileOptions
    from transformers import PreTrainedTokenizerBase

log = logging.getLogger(__name__)

JSON_LAYOUT: "JsonCompileOptions" = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""One fixed layout: a model that may choose its whitespace can write nothing else until its tokens run out."""


def grammars_of(
    tokenizer: "PreTrainedTokenizerBase", vocabulary: int, eos_token_ids: tuple[int, ...]
) -> "Grammars | None":
    """None for a tokenizer that llguidance cannot read, which the log says."""
    try:
        return Grammars(tokenizer, vocabulary, eos_token_ids)
    except InvalidGrammar as error:
        log.warning("Requests with a grammar will fail: %s", error)
        return None


class Grammars:
    """Compiles grammars for one tokenizer."""

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", vocabulary: int, eos_token_ids: tuple[int, ...]) -> None:
        """Raises `InvalidGrammar` for a tokenizer that llguidance cannot read."""
        try:
            compiled: LLTokenizer = llguidance.hf.from_tokenizer(
                tokenizer,  # type: ignore[arg-type]  # its own check, for a ValueError
                n_vocab=vocabulary,
                eos_token=list(eos_token_ids),
            )
        except ValueError as error:
            raise InvalidGrammar(f"the model's tokenizer cannot be used for grammars: {error}") from error
        self._tokens = TokenKinds.of(compiled, vocabulary, eos_token_ids)

    def compile(self, grammar: Grammar, generated_ids: tuple[int, ...] = ()) -> tuple[AnswerConstraint, bool]:
        """The constraint behind `generated_ids`, and whether they complete it. Raises `InvalidGrammar`.

        llguidance lets go of the GIL; a large schema takes up to a second.
        """
        answer = self._constraint(grammar)
        constraint = ReasoningFirst(answer, grammar.reasoning, self._tokens) if grammar.reasoning else answer
        for token_id in generated_ids:
            constraint.take(token_id)
        return constraint, constraint.complete

    def _constraint(self, grammar: Grammar) -> Constraint:
        wider = (lambda: self._matcher(Grammar(grammar.kind, grammar.wider))) if grammar.wider else None
        try:
            return Constraint(self._matcher(grammar), self._tokens, grammar.largest_part, wider)
        except InvalidGrammar:
            if wider is None:
                raise
            return Constraint(wider(), self._tokens, grammar.largest_part)

    def _matcher(self, grammar: Grammar) -> LLMatcher:
        try:
            source = _llguidance_grammar(grammar)
        except ValueError as error:
            raise InvalidGrammar(str(error)) from error
        matcher = LLMatcher(self._tokens.tokenizer, source, log_level=0)
        if matcher.is_error():
            raise InvalidGrammar(reason_of(matcher))
        return matcher


def _llguidance_grammar(grammar: Grammar) -> str:
    match grammar.kind:
        case "json_schema":
            return str(LLMatcher.grammar_from_json_schema(grammar.source, overrides=JSON_LAYOUT))
        case "regex":
            return str(LLMatcher.grammar_from_regex(grammar.source))
        case "lark":
            return str(LLMatcher.grammar_from_lark(grammar.source))
