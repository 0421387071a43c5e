"""The state of a request whose model may reason before its grammar begins."""

import contextlib
import json
from collections.abc import Iterator

import llguidance.numpy
import numpy as np
from llguidance import LLMatcher, LLTokenizer

from worker.engine_protocol import Reasoning
from worker.engines.constraint import SLACK, Constraint, InvalidGrammar, reason_of
from worker.engines.token_kinds import Bitmask, TokenKinds, holds, only
from worker.panics import LEAVING


class ReasoningFirst:
    """The same face as the Constraint of the answer, which begins behind the closing tag.

    Reasoning gets at most half of the tokens, and none that the shortest answer needs: then the closing tag is all that
    may come. Which half that is follows from the tokens alone, so that it is the same for every attempt.
    """

    def __init__(self, answer: Constraint, reasoning: Reasoning, tokens: TokenKinds) -> None:
        self._answer = answer
        self._tokens = tokens
        self._shortest = answer.shortest() + SLACK
        self._closing = _ids_of(reasoning.closing, tokens.tokenizer)
        self._matcher = LLMatcher(tokens.tokenizer, _grammar(reasoning, tokens.tokenizer), log_level=0)
        if self._matcher.is_error():
            raise InvalidGrammar(reason_of(self._matcher))
        self._may_be_left_out = bool(reasoning.opening)
        """Nothing was written: the first token says whether the model reasons."""
        self._over = False
        self._taken: list[int] = []

    @property
    def complete(self) -> bool:
        """Whether nothing but end-of-sequence can follow."""
        return self._over and self._answer.complete

    def allowed(self, remaining: int) -> Bitmask:
        """The tokens that may come next when `remaining` may still be generated. Raises InvalidGrammar."""
        if self._over:
            return self._answer.allowed(remaining)
        kept = max((remaining + len(self._taken)) // 2, self._shortest)
        spare = remaining - len(self._closing) - kept
        if self._may_be_left_out:
            answer = self._answer.allowed(remaining)
            return answer | self._mask() if spare > 0 else answer
        mask = self._mask()
        following = self._closing[self._closed()]
        # Half a character is ended first.
        return only(following, mask) if spare <= 0 and holds(mask, following) else mask

    def take(self, token_id: int) -> bool:
        """Notes the token; True when nothing but end-of-sequence can follow. Raises InvalidGrammar."""
        if not self._over and self._may_be_left_out:
            self._may_be_left_out = False
            self._over = not holds(self._mask(), token_id)
        if self._over:
            return self._answer.take(token_id)
        self._taken.append(token_id)
        with _guarded(self._matcher):
            self._matcher.consume_token(token_id)
            self._over = self._matcher.is_stopped()
        return False

    def _mask(self) -> Bitmask:
        mask = np.empty_like(self._tokens.closing)
        with _guarded(self._matcher):
            llguidance.numpy.fill_next_token_bitmask(self._matcher, mask)
        return mask

    def _closed(self) -> int:
        """Tokens of the closing tag that are written."""
        lengths = range(len(self._closing) - 1, 0, -1)
        return next((n for n in lengths if self._taken[-n:] == self._closing[:n]), 0)


AnswerConstraint = Constraint | ReasoningFirst
"""Of a request whose answer has a grammar."""


@contextlib.contextmanager
def _guarded(matcher: LLMatcher) -> Iterator[None]:
    """Whatever a step of the matcher fails with is one request's."""
    try:
        yield
    except LEAVING:
        raise
    except BaseException as error:
        raise InvalidGrammar(str(error)) from error
    if matcher.is_error():
        raise InvalidGrammar(reason_of(matcher))


def _grammar(reasoning: Reasoning, tokenizer: LLTokenizer) -> str:
    """Lark: any text up to the closing tag, which may be a token of its own."""
    closing = _ids_of(reasoning.closing, tokenizer)
    if any(map(tokenizer.is_special_token, closing)):
        free = f"free: /(?s:.*)/ {_written(closing, tokenizer)}"
    else:
        free = f"free[suffix={json.dumps(reasoning.closing)}]: /(?s:.*)/"
    opening = _written(_ids_of(reasoning.opening, tokenizer), tokenizer)
    return str(LLMatcher.grammar_from_lark(f"start: {opening} free\n{free}"))


def _ids_of(text: str, tokenizer: LLTokenizer) -> list[int]:
    return tokenizer.tokenize_str(text, parse_special=True)


def _written(ids: list[int], tokenizer: LLTokenizer) -> str:
    """A Lark expression for these tokens; those of plain text in any form."""
    parts: list[str] = []
    plain: list[int] = []
    for token_id in [*ids, None]:
        if token_id is not None and not tokenizer.is_special_token(token_id):
            plain.append(token_id)
            continue
        if plain:
            parts.append(json.dumps(tokenizer.decode_str(plain)))
            plain = []
        if token_id is not None:
            parts.append(f"<[{token_id}]>")
    return " ".join(parts)
