"""A finished document is judged by the whole schema."""

from typing import Any

import pytest

from shared.wire.chat import JsonSchema, JsonSchemaFormat, ResponseFormat, TextFormat
from shared.wire.schemas import FinalTextEvent, FinishReason, Timings, Usage
from worker.text.finished_document import unmet

UNIQUE = {"type": "array", "items": {"type": "integer"}, "uniqueItems": True}


def wanted(schema: dict[str, Any]) -> ResponseFormat:
    return JsonSchemaFormat(type="json_schema", json_schema=JsonSchema(name="a", schema_=schema))


def answer(text: str, reason: FinishReason = "stop") -> FinalTextEvent:
    return FinalTextEvent(
        task_id="t",
        text=text,
        finish_reason=reason,
        usage=Usage(prompt_tokens=1, completion_tokens=1),
        timings=Timings(queued=0, first_token=0, total=0),
    )


def test_what_no_grammar_enforces_is_told_when_it_is_not_met() -> None:
    assert unmet(wanted(UNIQUE), answer("[1, 2]")) == ""
    assert "schema" in unmet(wanted(UNIQUE), answer("[1, 1]"))


@pytest.mark.parametrize("text", ["", "no JSON", "[1, ", "NaN"])
def test_an_answer_that_is_no_document_does_not_meet_a_schema(text: str) -> None:
    assert unmet(wanted({}), answer(text))


def test_an_answer_that_was_cut_short_says_so_itself_and_free_text_is_not_judged() -> None:
    assert unmet(wanted(UNIQUE), answer("[1, 1", "length")) == ""
    assert unmet(TextFormat(type="text"), answer("hello")) == ""
    assert unmet(None, answer("hello")) == ""
