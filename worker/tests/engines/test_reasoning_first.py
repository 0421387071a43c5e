import copy
import json
from typing import Any

import llguidance.hf
import numpy as np
import pytest
from llguidance import LLTokenizer
from transformers import PreTrainedTokenizerFast

from testbed.know_nothing import written_by_chance, written_in_circles
from worker.engine_protocol import Grammar, Reasoning
from worker.engines.constraint import InvalidGrammar
from worker.engines.grammar import Grammars
from worker.engines.reasoning_first import ReasoningFirst

DOCUMENT = 'start: /\\n{0,2}/ %json {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}'
OPENED = [
    Reasoning("</think>"),
    Reasoning("</thought>"),
    Reasoning("[/THINK]"),
    Reasoning("\u25c1/think\u25b7"),
]
OWN = [Reasoning("</think>", "<think>"), Reasoning("</thought>", "<thought>"), Reasoning("[/THINK]", "[THINK]")]


@pytest.fixture(scope="module")
def reasoner(smollm2: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """Two of its tags are tokens of their own, as Qwen's and Mistral's are; the others are plain text."""
    tokenizer: Any = copy.deepcopy(smollm2)
    tokenizer.add_tokens(["<think>", "</think>"])
    tokenizer.add_special_tokens({"additional_special_tokens": ["[THINK]", "[/THINK]"]})
    return tokenizer  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def tokens(reasoner: PreTrainedTokenizerFast) -> LLTokenizer:
    return llguidance.hf.from_tokenizer(reasoner)


@pytest.fixture(scope="module")
def grammars(reasoner: PreTrainedTokenizerFast, tokens: LLTokenizer) -> Grammars:
    return Grammars(reasoner, tokens.vocab_size, (tokens.eos_token,))


def held(grammars: Grammars, reasoning: Reasoning, ids: tuple[int, ...] = ()) -> ReasoningFirst:
    constraint, _ = grammars.compile(Grammar("lark", DOCUMENT, reasoning=reasoning), ids)
    assert isinstance(constraint, ReasoningFirst)
    return constraint


def allowed(constraint: ReasoningFirst, remaining: int) -> set[int]:
    mask = constraint.allowed(remaining).view(np.uint8)[0]
    return set(np.flatnonzero(np.unpackbits(mask, bitorder="little")).tolist())


@pytest.mark.parametrize("reasoning", OPENED, ids=str)
def test_what_the_prompt_opened_is_free_until_it_is_closed(
    reasoning: Reasoning, grammars: Grammars, tokens: LLTokenizer
) -> None:
    constraint = held(grammars, reasoning)
    thought = tokens.tokenize_str('So. {"b": [1\n\n caf\u00e9 </thi', parse_special=True)
    for token in [*thought, *tokens.tokenize_str(reasoning.closing, parse_special=True)]:
        possible = allowed(constraint, 200)
        assert token in possible
        assert tokens.eos_token not in possible
        assert not constraint.take(token)
    assert max(map(len, tokens.decode_str(sorted(allowed(constraint, 200))).split())) < 10
    for token in tokens.tokenize_str('\n\n{"a": "b"}'):
        assert token in allowed(constraint, 200)
        ended = constraint.take(token)
    assert ended
    assert constraint.complete


@pytest.mark.parametrize("reasoning", OWN, ids=str)
def test_a_model_that_opens_it_itself_may_leave_it_out(
    reasoning: Reasoning, grammars: Grammars, tokens: LLTokenizer
) -> None:
    for text in (f'{reasoning.opening}So.{reasoning.closing}\n{{"a": "b"}}', '{"a": "b"}'):
        constraint = held(grammars, reasoning)
        for token in tokens.tokenize_str(text, parse_special=True):
            assert token in allowed(constraint, 200)
            ended = constraint.take(token)
        assert ended
    assert tokens.tokenize_str("So")[0] not in allowed(held(grammars, reasoning), 200)


@pytest.mark.parametrize("reasoning", OPENED + OWN, ids=str)
@pytest.mark.parametrize("most", [32, 100])
@pytest.mark.parametrize("loved", ["a", "{", None])
def test_the_answer_comes_to_its_end_however_long_the_model_would_reason(
    reasoning: Reasoning, most: int, loved: str | None, grammars: Grammars, tokens: LLTokenizer
) -> None:
    constraint = held(grammars, reasoning)
    if loved is None:
        text = written_by_chance(constraint, tokens, most, most)
    else:
        text = written_in_circles(constraint, tokens, tokens.tokenize_str(loved)[0], most)
    assert text is not None
    _, closed, document = text.rpartition(reasoning.closing)
    assert json.loads(document).keys() >= {"a"}
    assert closed or reasoning.opening


@pytest.mark.parametrize("reasoning", OPENED, ids=str)
def test_reasoning_gets_half_of_the_tokens_and_no_more(
    reasoning: Reasoning, grammars: Grammars, tokens: LLTokenizer
) -> None:
    constraint, closing = held(grammars, reasoning), tokens.tokenize_str(reasoning.closing, parse_special=True)
    thought = tokens.tokenize_str("a")[0]
    taken = 0
    while thought in allowed(constraint, 100 - taken):
        constraint.take(thought)
        taken += 1
    assert taken + len(closing) == 50
    for token in closing:
        assert allowed(constraint, 100 - taken) == {token}
        constraint.take(token)
        taken += 1
    assert tokens.tokenize_str("{")[0] in allowed(constraint, 100 - taken)


def test_an_attempt_that_takes_over_goes_on_as_the_lost_one_would_have(grammars: Grammars, tokens: LLTokenizer) -> None:
    """Also in the middle of the closing tag, of which the last attempt has written a part because it had to."""
    undisturbed = held(grammars, OPENED[1])
    ids: list[int] = []
    ended = False
    while not ended:
        possible = allowed(undisturbed, 32 - len(ids))
        assert allowed(held(grammars, OPENED[1], tuple(ids)), 32 - len(ids)) == possible
        ids.append(max(possible - {tokens.eos_token}))
        ended = undisturbed.take(ids[-1])


def test_whatever_the_matcher_raises_ends_one_request(grammars: Grammars, monkeypatch: pytest.MonkeyPatch) -> None:
    constraint = held(grammars, OPENED[0])

    def panic(matcher: object, mask: object) -> None:
        raise BaseException("a panic of Rust")

    monkeypatch.setattr("llguidance.numpy.fill_next_token_bitmask", panic)
    with pytest.raises(InvalidGrammar, match="a panic of Rust"):
        constraint.allowed(10)
