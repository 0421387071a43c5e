"""A model that knows nothing: it writes any token that a grammar allows, each as likely."""

import random
from collections.abc import Callable

import numpy as np
from llguidance import LLMatcher, LLTokenizer

from worker.engine_protocol import Grammar
from worker.engines.reasoning_first import AnswerConstraint


def allows(grammar: Grammar | None, text: str, vocabulary: LLTokenizer) -> bool:
    """Whether the text is a whole answer of the grammar."""
    assert grammar is not None
    matcher = LLMatcher(vocabulary, LLMatcher.grammar_from_lark(grammar.source), log_level=0)
    assert not matcher.is_error(), matcher.get_error()
    ids = vocabulary.tokenize_str(text)
    return matcher.try_consume_tokens(ids) == len(ids) and matcher.is_accepting()


def written_by_chance(constraint: AnswerConstraint, vocabulary: LLTokenizer, seed: int, most: int) -> str | None:
    """An answer of at most `most` tokens; None if it did not end."""
    draw = random.Random(seed)
    return _written(constraint, vocabulary, draw.choice, most)


def written_in_circles(constraint: AnswerConstraint, vocabulary: LLTokenizer, loved: int, most: int) -> str | None:
    """The same of a model that writes one token whenever it may."""
    return _written(constraint, vocabulary, lambda allowed: loved if loved in allowed else allowed[0], most)


def _written(
    constraint: AnswerConstraint, vocabulary: LLTokenizer, choose: Callable[[list[int]], int], most: int
) -> str | None:
    written: list[int] = []
    while len(written) < most:
        mask = constraint.allowed(most - len(written)).view(np.uint8)[0]
        token = choose(np.flatnonzero(np.unpackbits(mask, bitorder="little")).tolist())
        if token == vocabulary.eos_token:
            return vocabulary.decode_str(written)
        written.append(token)
        if constraint.take(token):
            return vocabulary.decode_str(written)
    return None
