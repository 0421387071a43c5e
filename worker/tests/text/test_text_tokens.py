"""Tokens are told with the text that is made of them."""

from collections.abc import Sequence

import pytest
from transformers import PreTrainedTokenizerFast

from shared.wire.chat import FunctionDefinition, Tool
from shared.wire.schemas import TokenLogprob
from worker.engine_protocol import Logprobs
from worker.text.answer_stream import AnswerStream
from worker.text.codec import Answer
from worker.text.detokenizer import Detokenizer, skipped_ids
from worker.text.text_tokens import TextTokens
from worker.text.token_texts import TokenTexts

TOOL = Tool(type="function", function=FunctionDefinition(name="add", parameters={"type": "object"}))
CALL = '<tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>'


def answer_of(tokenizer: PreTrainedTokenizerFast, tools: Sequence[Tool] = (), stop: Sequence[str] = ()) -> Answer:
    reader = AnswerStream(tools, "t")
    skip = skipped_ids(tokenizer.backend_tokenizer, reader.special_tokens)
    detokenizer = Detokenizer(tokenizer.backend_tokenizer, stop=stop, skip=skip)
    return Answer(detokenizer, reader, None, stop=stop, tokens=TextTokens(specials=False))


Step = tuple[str, list[int]]
"""What a token adds: text, and the tokens that are told with it."""


def steps_of(tokenizer: PreTrainedTokenizerFast, answer: Answer, text: str) -> list[Step]:
    """Of each token of the text and, where none ends it, of the end of the answer."""
    steps = []
    for token_id in tokenizer.encode(text, add_special_tokens=False):
        said, finish = answer.add([token_id], [TokenLogprob(token=str(token_id))])
        steps.append((said.text, taken(answer)))
        if finish:
            break
    return [*steps, (answer.finish(complete=True).text, taken(answer))]


def taken(answer: Answer) -> list[int]:
    return [int(logprob.token) for logprob in answer.told() if logprob is not None]


PLAIN = "The capital of France is Paris."


@pytest.mark.parametrize(
    ("text", "tools", "stop", "of_text"),
    [
        (PLAIN, [], [], PLAIN),
        (PLAIN, [TOOL], [], PLAIN),
        (f"Let me see. {CALL}", [TOOL], [], "Let me see."),
        (f"{CALL} Then this.", [TOOL], [], " Then this."),
        ("<think>Paris, Paris</think>\n\nParis", [], [], "Paris"),
        ("It is <b>bold</b>, a < b, <tool_cal or <tool_call> no JSON", [TOOL], [], None),
        ("one two STOP three", [], [" STOP"], "one two"),
        ("a ST b STO c", [], ["STOP"], "a ST b STO c"),
        ("Grüße 🦊🦊 ok", [], [], "Grüße 🦊🦊 ok"),
    ],
)
def test_the_tokens_that_are_told_are_those_of_the_text_and_in_step_with_it(
    smollm2: PreTrainedTokenizerFast, text: str, tools: list[Tool], stop: list[str], of_text: str | None
) -> None:
    answer = answer_of(smollm2, tools, stop)
    texts = TokenTexts(smollm2.backend_tokenizer)
    shown, told = "", b""
    for said, token_ids in steps_of(smollm2, answer, text):
        shown, told = shown + said, told + b"".join(map(texts.spelled, token_ids))
        assert told.decode(errors="ignore").strip().startswith(shown.strip())
        assert not token_ids or said, "tokens come with their text"
    assert not answer.untold
    assert told.decode().strip() == (text if of_text is None else of_text).strip() == shown.strip()


def test_a_token_of_a_held_text_waits_for_it(smollm2: PreTrainedTokenizerFast) -> None:
    answer = answer_of(smollm2, stop=[" never"])
    first, *_ = smollm2.encode(" ne", add_special_tokens=False)
    assert answer.add([first], [TokenLogprob(token="7")])[0].text == ""
    assert (answer.told(), answer.untold) == ([], True)
    assert answer.finish(complete=True).text == " ne"
    assert taken(answer) == [7]


def test_the_text_of_tokens_alone_is_that_of_the_tokens_together(smollm2: PreTrainedTokenizerFast) -> None:
    texts = TokenTexts(smollm2.backend_tokenizer)
    text = "  Grüße, 東京 🦊\n\tdef f(x): return 'é'"
    ids = smollm2.encode(text, add_special_tokens=False)
    assert b"".join(map(texts.spelled, ids)).decode() == text
    parts = [texts.of(token_id) for token_id in ids]
    assert any(part.bytes for part in parts)
    for part, token_id in zip(parts, ids, strict=True):
        assert bytes(part.bytes or part.token.encode()) == texts.spelled(token_id)
    assert texts.of(2).token == "<|im_end|>"
    assert texts.of(10**6).token == ""


def test_what_json_cannot_say_is_told_as_openai_does(smollm2: PreTrainedTokenizerFast) -> None:
    texts = TokenTexts(smollm2.backend_tokenizer)
    [told] = texts.told([100], [Logprobs(float("-inf"), ((101, -0.123456789),))])
    assert told.logprob == -9999
    assert told.top_logprobs[0].logprob == -0.123457
    assert texts.told([100], [Logprobs(None)])[0].logprob is None
