"""What needs no engine: refused requests, and answers that are whole already."""

import dataclasses
import json
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from shared.wire.chat import AssistantMessage, ChatMessage, JsonObjectFormat, SystemMessage, UserMessage
from shared.wire.schemas import FinishReason, InferenceRequest
from worker.engine_protocol import Grammar, Ready, SamplingDefaults
from worker.engines.scripted.prompts import ScriptedPrompts
from worker.tasks.outcomes import Errored
from worker.tasks.prepared import Prepared, prepare
from worker.text.codec import Answer, Codec, Unanswerable
from worker.text.prompt_rendering import PromptRenderer

EOS = 0
EOS_OF_SMOLLM2 = 2
ENGINE = Ready(
    context_length=100,
    revision="r",
    eos_token_ids=(EOS,),
    slots=1,
    device="cpu",
    dtype="none",
    load_seconds=0.0,
    sampling=SamplingDefaults(),
    grammars=True,
    continues_draws=True,
)


class Prompts(ScriptedPrompts):
    """The scripted ones, with a prompt of as many tokens as the text says."""

    def prompt_ids(self, request: InferenceRequest) -> tuple[int, ...]:
        text = request.messages[-1].content
        assert isinstance(text, str)
        if not text.isdigit():
            raise Unanswerable(f"The template does not take {text}.")
        return (5,) * int(text)

    def grammar(self, request: InferenceRequest) -> Grammar | None:
        return Grammar("lark", "start: /x/") if request.response_format else None


def prepared(text: str, engine: Ready = ENGINE, *, max_tokens: int | None = None, json: bool = False) -> object:
    request = InferenceRequest(
        model="m",
        messages=[UserMessage(role="user", content=text)],
        max_tokens=max_tokens,
        response_format=JsonObjectFormat(type="json_object") if json else None,
    )
    return prepare(Codec(Prompts(), (EOS,), stop_loops=False), "task", request, engine, 40)


@pytest.mark.parametrize(
    ("text", "code", "sentence"),
    [
        ("mumble", "invalid_request", "The template does not take mumble."),
        ("0", "invalid_request", "the prompt has no tokens"),
        ("100", "context_too_long", "The prompt has 100 tokens; the model's context of 100 leaves none for an answer."),
        ("5000", "context_too_long", "The prompt has 5000 tokens"),
    ],
)
def test_a_request_that_no_step_can_answer_is_refused_with_its_reason(text: str, code: str, sentence: str) -> None:
    refused = prepared(text)
    assert isinstance(refused, Errored)
    assert refused.code == code
    assert sentence in refused.message


def test_a_form_is_refused_where_the_engine_cannot_hold_an_answer_to_it() -> None:
    assert isinstance(prepared("5", json=True), Prepared)
    refused = prepared("5", dataclasses.replace(ENGINE, grammars=False), json=True)
    assert isinstance(refused, Errored)
    assert (refused.code, "leave out responseFormat" in refused.message) == ("invalid_request", True)
    assert isinstance(prepared("5", dataclasses.replace(ENGINE, grammars=False)), Prepared)


@pytest.mark.parametrize(
    ("length", "asked", "most"),
    [(5, None, 40), (5, 7, 7), (5, 4000, 95), (70, None, 30), (99, None, 1), (99, 1, 1)],
)
def test_an_answer_has_at_most_the_room_behind_its_prompt(length: int, asked: int | None, most: int) -> None:
    request = prepared(str(length), max_tokens=asked)
    assert isinstance(request, Prepared)
    assert (len(request.prompt_ids), request.max_new_tokens) == (length, most)


ZEROS = {"type": "array", "items": {"const": 0}, "minItems": 150, "maxItems": 150}
UNIQUE = {"type": "array", "items": {"type": "integer"}, "uniqueItems": True}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {"xs": UNIQUE}}}}


def of_smollm2(smollm2: PreTrainedTokenizerFast, **fields: Any) -> Answer:
    """The answer to a request, as the packaged model's worker prepares it."""
    codec = Codec(PromptRenderer(smollm2, max_new_tokens=1000), [EOS_OF_SMOLLM2], stop_loops=True)
    asked = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 1000, **fields}
    engine = dataclasses.replace(ENGINE, context_length=2000)
    made = prepare(codec, "task", InferenceRequest.model_validate(asked), engine, 1000)
    assert isinstance(made, Prepared)
    return made.answer


def document(schema: dict[str, Any]) -> dict[str, Any]:
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}}


@pytest.mark.parametrize(
    ("asked", "loops"),
    [
        (document(ZEROS), False),
        ({"response_format": {"type": "json_object"}}, False),
        ({"tools": [TOOL], "tool_choice": "required"}, False),
        ({}, True),
        ({"tools": [TOOL]}, True),
    ],
)
def test_an_answer_that_a_grammar_brings_to_its_end_is_not_watched_for_loops(
    smollm2: PreTrainedTokenizerFast, asked: dict[str, Any], loops: bool
) -> None:
    zeros = json.dumps([0] * 150)
    ids = smollm2.encode(zeros)
    assert len(ids) > 256, "the watch waits for so many"
    answer = of_smollm2(smollm2, **asked)
    assert answer.add(ids)[1] == ("loop" if loops else None)
    answer.finish(complete=True)
    assert answer.text == zeros


@pytest.mark.parametrize(
    ("asked", "held"),
    [
        (document(ZEROS), False),
        (document(UNIQUE), True),
        ({**document(ZEROS), "tools": [TOOL]}, True),
        ({"response_format": {"type": "json_object"}}, False),
        ({"tools": [TOOL], "tool_choice": "required"}, True),
        ({"tools": [TOOL], "tool_choice": "none"}, False),
        ({}, False),
    ],
)
def test_text_is_held_back_where_something_is_left_to_judge(
    smollm2: PreTrainedTokenizerFast, asked: dict[str, Any], held: bool
) -> None:
    answer = of_smollm2(smollm2, **asked)
    text = "[0, 0, 0]"
    shown = answer.add(smollm2.encode(text))[0].text
    rest = answer.finish(complete=True).text
    assert (shown + rest, answer.text) == (text, text)
    assert (shown == "") is held


@pytest.mark.parametrize(
    ("generated", "finish"),
    [
        ([], None),
        ([7, 8], None),
        ([7, EOS], "stop"),
        ([EOS, 7], None),
        ([7, 8, 9, 7, 8], "length"),
        ([7, 8, 9, 7, EOS], "stop"),
        ([7, 8, 9, 7, 8, 9], "length"),
    ],
)
def test_tokens_of_earlier_attempts_may_be_the_whole_answer(generated: list[int], finish: FinishReason | None) -> None:
    request = prepared("5", max_tokens=5)
    assert isinstance(request, Prepared)
    assert request.complete(generated, ENGINE.eos_token_ids) == finish


def test_a_conversation_that_may_be_cut_loses_the_fewest_turns() -> None:
    messages: list[ChatMessage] = [SystemMessage(role="system", content="be brief")]
    for number in range(10):
        messages.append(UserMessage(role="user", content=f"question {number}"))
        messages.append(AssistantMessage(role="assistant", content=f"answer {number}"))
    messages.append(UserMessage(role="user", content="last"))
    codec = Codec(ScriptedPrompts(), (EOS,), stop_loops=False)

    def of(context: int, max_tokens: int | None = None, *, truncate: bool = True) -> object:
        request = InferenceRequest(model="m", messages=messages, max_tokens=max_tokens, truncate=truncate)
        return prepare(codec, "task", request, dataclasses.replace(ENGINE, context_length=context), 40)

    whole = of(1000)
    assert isinstance(whole, Prepared)
    assert whole.dropped_messages == 0
    tokens = len(whole.prompt_ids)
    turn = len("user: question 0\nassistant: answer 0\n")
    cut = of(tokens, max_tokens=2 * turn)
    assert isinstance(cut, Prepared)
    assert (cut.dropped_messages, len(cut.prompt_ids)) == (4, tokens - 2 * turn)
    quarter = of(tokens)
    assert isinstance(quarter, Prepared)
    assert tokens * 3 / 4 - turn <= len(quarter.prompt_ids) <= tokens * 3 / 4
    assert isinstance(of(tokens, truncate=False), Errored)
    least = of(60)
    assert isinstance(least, Prepared)
    assert least.dropped_messages == 20
    assert isinstance(of(20), Errored)
