"""Grammars that decoding must follow: compiled by llguidance, one matcher per request."""

from typing import TYPE_CHECKING

import llguidance.hf
import llguidance.numpy
import numpy as np
from llguidance import LLMatcher, LLTokenizer
from numpy.typing import NDArray

from worker.engine_protocol import Grammar

if TYPE_CHECKING:
    from llguidance._lib import JsonCompileOptions
    from transformers import PreTrainedTokenizerBase

Bitmask = NDArray[np.int32]
"""Shape (1, vocabulary / 32): bit i of word w allows token 32 w + i."""

JSON_LAYOUT: "JsonCompileOptions" = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""One fixed layout: a model that may choose its whitespace can write nothing else until its tokens run out."""

CLOSING_WINDOW = 32
"""Tokens before the end at which the length of the rest is looked at, besides twice the shortest document."""
CLOSING_SLACK = 8
"""Tokens kept back beyond the shortest rest: the model may close in smaller tokens than the estimate."""
LONGEST_CLOSING = 256
"""Where the estimate gives up; a document that needs more ends in its middle."""


class InvalidGrammar(Exception):
    """The grammar cannot be compiled, or the tokens of the earlier attempt do not follow it."""


class Constraint:
    """The state of one request's grammar: which tokens may come next, and whether the document is complete."""

    def __init__(self, matcher: LLMatcher, closing: Bitmask) -> None:
        self._matcher = matcher
        self._closing = closing
        self._shortest = self._tokens_to_close()

    def allowed(self, remaining: int) -> Bitmask:
        """The tokens that may come next when `remaining` may still be generated. Raises `InvalidGrammar`.

        End-of-sequence alone when the document is complete. Where the remaining tokens just suffice to end the
        document, only tokens that close something, as long as there are any.
        """
        mask = self._mask(self._matcher)
        if remaining <= 2 * self._shortest + CLOSING_WINDOW and remaining <= self._tokens_to_close() + CLOSING_SLACK:
            closing = mask & self._closing
            if closing.any():
                return closing
        return mask

    def take(self, token_id: int) -> bool:
        """Notes the token; True when nothing but end-of-sequence can follow. Raises `InvalidGrammar`."""
        if not self._matcher.consume_token(token_id) or self._matcher.is_error():
            raise InvalidGrammar(_reason(self._matcher))
        return bool(self._matcher.is_stopped())

    def _tokens_to_close(self) -> int:
        """About how many tokens the shortest end of the document takes."""
        matcher = self._matcher.deep_copy()
        count = 0
        while not matcher.is_stopped() and count < LONGEST_CLOSING:
            tokens = matcher.compute_ff_tokens()
            if not tokens:
                mask = self._mask(matcher)
                closing = mask & self._closing
                tokens = [_first(closing if closing.any() else mask)]
            if not matcher.consume_tokens(tokens):
                break
            count += len(tokens)
        return count

    def _mask(self, matcher: LLMatcher) -> Bitmask:
        mask = np.empty_like(self._closing)
        llguidance.numpy.fill_next_token_bitmask(matcher, mask)
        if matcher.is_error():
            raise InvalidGrammar(_reason(matcher))
        return mask


class Grammars:
    """Compiles grammars for one tokenizer."""

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", vocabulary: int, eos_token_ids: tuple[int, ...]) -> None:
        """Raises `InvalidGrammar` for a tokenizer that llguidance cannot read."""
        try:
            self._tokenizer: LLTokenizer = llguidance.hf.from_tokenizer(
                tokenizer,  # type: ignore[arg-type]  # its own check, for a ValueError
                n_vocab=vocabulary,
                eos_token=list(eos_token_ids),
            )
        except ValueError as error:
            raise InvalidGrammar(f"the model's tokenizer cannot be used for grammars: {error}") from error
        closing = np.zeros((vocabulary + 31) // 32 * 32, dtype=np.uint8)
        closing[[i for token, i in tokenizer.get_vocab().items() if i < vocabulary and set(token) <= set('"}]')]] = 1
        closing[list(eos_token_ids)] = 1
        self._closing = np.packbits(closing, bitorder="little").view(np.int32)[None]

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
            raise InvalidGrammar(_reason(matcher))
        constraint = Constraint(matcher, self._closing)
        complete = bool(matcher.is_stopped())
        for token_id in generated_ids:
            complete = constraint.take(token_id)
        return constraint, complete


def _llguidance_grammar(grammar: Grammar) -> str:
    match grammar.kind:
        case "json_schema":
            return str(LLMatcher.grammar_from_json_schema(grammar.source, overrides=JSON_LAYOUT))
        case "regex":
            return str(LLMatcher.grammar_from_regex(grammar.source))
        case "lark":
            return str(LLMatcher.grammar_from_lark(grammar.source))


def _reason(matcher: LLMatcher) -> str:
    """llguidance's own words, without its dump of the parser's state."""
    return str(matcher.get_error()).partition("\n")[0]


def _first(mask: Bitmask) -> int:
    word = int(np.flatnonzero(mask[0])[0])
    bits = int(mask[0, word]) & 0xFFFFFFFF
    return word * 32 + (bits & -bits).bit_length() - 1
