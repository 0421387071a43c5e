"""A finished answer is judged by all that was demanded of it."""

from typing import Any

import pytest

from shared.wire.schemas import FinalTextEvent, FinishReason, InferenceRequest, Timings, ToolCall, ToolCallsEvent, Usage
from worker.text.finished_document import unmet

UNIQUE = {"type": "array", "items": {"type": "integer"}, "uniqueItems": True}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
CALL = '<tool_call>{"name": "f", "arguments": {"xs": [1, 1]}}</tool_call>'
USED: dict[str, Any] = {
    "usage": Usage(prompt_tokens=1, completion_tokens=1),
    "timings": Timings(queued=0, first_token=0, total=0),
}


def asked(**fields: Any) -> InferenceRequest:
    return InferenceRequest.model_validate({"model": "m", "messages": [{"role": "user", "content": "hi"}], **fields})


def wanted(schema: dict[str, Any], **fields: Any) -> InferenceRequest:
    document = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
    return asked(response_format=document, **fields)


def answer(text: str, reason: FinishReason = "stop") -> FinalTextEvent:
    return FinalTextEvent(task_id="t", text=text, finish_reason=reason, **USED)


def calls(text: str = "", reason: FinishReason = "tool_calls") -> ToolCallsEvent:
    call = ToolCall(id="call_1", name="f", arguments={})
    return ToolCallsEvent(task_id="t", tool_calls=[call], text=text, finish_reason=reason, **USED)


def test_what_no_grammar_enforces_is_told_when_it_is_not_met() -> None:
    assert unmet(wanted(UNIQUE), answer("[1, 2]")) == ""
    assert "schema" in unmet(wanted(UNIQUE), answer("[1, 1]"))


@pytest.mark.parametrize("text", ["", "no JSON", "[1, ", "NaN"])
def test_an_answer_that_is_no_document_does_not_meet_a_schema(text: str) -> None:
    assert unmet(wanted({}), answer(text))
    assert unmet(asked(response_format={"type": "json_object"}), answer(text))


def test_an_answer_that_was_cut_short_says_so_itself_and_free_text_is_not_judged() -> None:
    assert unmet(wanted(UNIQUE), answer("[1, 1", "length")) == ""
    assert unmet(asked(response_format={"type": "text"}), answer("hello")) == ""
    assert unmet(asked(), answer("hello")) == ""
    assert unmet(asked(tools=[TOOL]), calls("I would like to know.")) == ""


def test_a_demanded_call_that_its_schema_refuses_is_none() -> None:
    demanded = asked(tools=[TOOL], tool_choice="required")
    assert unmet(demanded, calls()) == ""
    assert "call" in unmet(demanded, answer(CALL))
    assert "call" in unmet(demanded, calls(CALL))
    assert unmet(demanded, calls(CALL, "length")) == ""


def test_with_tools_on_offer_the_answer_is_a_document_or_calls() -> None:
    either = wanted(UNIQUE, tools=[TOOL])
    assert unmet(either, calls()) == unmet(either, answer("[1, 2]")) == ""
    assert unmet(either, answer(CALL))
    assert unmet(either, calls(CALL))
