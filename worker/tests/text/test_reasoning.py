import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.wire.chat import Tool
from worker.text.answer_stream import AnswerStream, ParsedAnswer, parse_answer
from worker.text.reasoning import COMMON, Said, Tags, opened_by, tags_known_to

TOOL = Tool.model_validate(
    {"type": "function", "function": {"name": "go", "parameters": {"type": "object", "required": ["to"]}}}
)
CALL = '<tool_call>{"name": "go", "arguments": {"to": "Rome"}}</tool_call>'
DRAFT = CALL.replace("Rome", "Paris")
THINK = COMMON[0]


def told_apart(text: str, *, tools: bool = True, complete: bool = True, **options: Any) -> tuple[str, str, list[Any]]:
    """Text, reasoning, and where the calls go."""
    stream = AnswerStream([TOOL] if tools else [], "task", **options)
    said = stream.add(text)
    rest, calls = stream.finish(complete=complete)
    return said.text + rest.text, said.reasoning + rest.reasoning, [call.arguments["to"] for call in calls]


@pytest.mark.parametrize("tools", [True, False])
@pytest.mark.parametrize("tags", COMMON, ids=lambda tags: tags.opening)
def test_what_stands_between_the_tags_is_reasoning(tags: Tags, tools: bool) -> None:
    answer = f"{tags.opening}\nWhat do I\nknow?\n{tags.closing}\n\nParis."
    assert told_apart(answer, tools=tools) == ("Paris.", "What do I\nknow?", [])
    assert told_apart(f" \n{answer}", tools=tools) == ("Paris.", "What do I\nknow?", [])


@pytest.mark.parametrize("tags", COMMON, ids=lambda tags: tags.opening)
@pytest.mark.parametrize("tools", [True, False])
def test_reasoning_that_the_prompt_opened_ends_with_the_closing_tag_alone(tags: Tags, tools: bool) -> None:
    assert told_apart(f"Hm.{tags.closing}\nParis.", tools=tools, opened=tags) == ("Paris.", "Hm.", [])
    assert told_apart("Hm, and cut sh", tools=tools, opened=tags, complete=False) == ("", "Hm, and cut sh", [])


@pytest.mark.parametrize("tags", COMMON, ids=lambda tags: tags.opening)
def test_no_call_in_reasoning_counts(tags: Tags) -> None:
    thought = f"Maybe {DRAFT}? Or\n{DRAFT}"
    assert told_apart(f"{tags.opening}{thought}{tags.closing}{CALL}") == ("", thought, ["Rome"])
    assert told_apart(f"{tags.opening}{thought}{tags.closing}No.") == ("No.", thought, [])
    assert told_apart(f"{tags.opening}{thought}") == ("", thought, [])
    assert told_apart(f"{thought}{tags.closing}{CALL}", opened=tags) == ("", thought, ["Rome"])
    assert told_apart(f"{thought}", opened=tags) == ("", thought, [])
    assert told_apart(f"So: {tags.opening}{thought}{tags.closing}{CALL}") == ("So:", thought, ["Rome"])


@pytest.mark.parametrize("call", [DRAFT, '[TOOL_CALLS][{"name": "go", "arguments": {"to": "Paris"}}]'])
def test_calls_before_a_closing_tag_that_nothing_opened_were_drafts(call: str) -> None:
    assert told_apart(f"{call}</think>{CALL}") == ("", call, ["Rome"])
    assert told_apart(f"{call}\n{call}</think>\n\nNo.") == ("No.", f"{call}\n{call}", [])
    assert told_apart(f"I see. {call}</think>{CALL}") == ("I see.", call, ["Rome"])


def test_a_closing_tag_at_the_very_beginning_is_no_text() -> None:
    assert told_apart("\n</think>\n\nParis.") == ("Paris.", "", [])
    assert told_apart(f"</think>{CALL}") == ("", "", ["Rome"])


@pytest.mark.parametrize(
    "call", ['{"name": "go", "parameters": {"to": "Rome"}}', f"<|python_tag|>{CALL[11:-12]}", CALL]
)
def test_every_form_of_call_counts_behind_reasoning(call: str) -> None:
    assert told_apart(f"<think>Hm.</think>\n\n{call}") == ("", "Hm.", ["Rome"])
    assert told_apart(f"[THINK]Hm.[/THINK]{call}") == ("", "Hm.", ["Rome"])
    assert told_apart(f"<think></think>{call}") == ("", "", ["Rome"])


def test_several_stretches_of_reasoning_are_paragraphs() -> None:
    answer = "<think>One.</think>\nFirst. <think>Two.</think>\nSecond.<think> </think>"
    assert told_apart(answer) == ("First. Second.", "One.\n\nTwo.", [])


@pytest.mark.parametrize(
    "text",
    [
        "DeepSeek writes `<think>` first and `</think>` last.",
        "The tag '<think>' opens it, \"</think>\" closes it.",
        "So: a <think> without an end is text",
        "a < b <thin [THIN ◁think▷ <thought>",
        "It ends with </think>, they say.",
        "So: <think>and cut sh",
    ],
)
@pytest.mark.parametrize("complete", [True, False])
@pytest.mark.parametrize("tools", [True, False])
def test_text_about_tags_stays_text(text: str, tools: bool, complete: bool) -> None:
    assert told_apart(text, tools=tools, complete=complete) == (text, "", [])


def test_tags_inside_of_a_call_belong_to_its_arguments() -> None:
    call = CALL.replace("Rome", "<think>a</think> [THINK]")
    assert told_apart(call) == ("", "", ["<think>a</think> [THINK]"])


def test_an_answer_that_a_grammar_forces_has_no_reasoning() -> None:
    document = '{"a": "<think>b</think>"}'
    assert told_apart(document, tools=False, known=()) == (document, "", [])


def test_reasoning_at_the_beginning_is_shown_as_it_comes() -> None:
    stream = AnswerStream([TOOL], "task")
    assert stream.add("<think>\nOne") == Said("", "One")
    assert stream.in_reasoning
    assert stream.add(" two. </th") == Said("", " two.")
    assert stream.add("e</think") == Said("", " </the")
    assert stream.add(">\n") == Said()
    assert not stream.in_reasoning
    assert stream.add("\nSo") == Said("So")


def test_text_passes_as_it_comes() -> None:
    stream = AnswerStream([], "task")
    deltas = ["Text", " as", " it\n", "comes", " < ", "and [0] ", "ends\n"]
    assert [stream.add(delta).text for delta in deltas] == deltas


def test_rarer_tags_are_those_of_the_template() -> None:
    known = tags_known_to("...{% if %}<thought>\n{% endif %}...")
    assert told_apart("<thought>Hm.</thought>Yes", known=known) == ("Yes", "Hm.", [])
    assert told_apart("<thought>Hm.</thought>Yes") == ("<thought>Hm.</thought>Yes", "", [])
    assert tags_known_to("<|im_start|>") == COMMON


def test_the_prompt_says_whether_the_answer_begins_in_reasoning() -> None:
    assert opened_by("<|im_start|>assistant\n<think>\n", COMMON) == THINK
    assert opened_by("<|im_start|>assistant\n<think>\n\n</think>\n\n", COMMON) is None
    assert opened_by("user: what is <think>?\nassistant:", COMMON) is None
    assert opened_by("[INST]x[/INST][THINK]", COMMON) == COMMON[2]


TAGS = [tag for tags in COMMON for tag in (tags.opening, tags.closing)]
pieces = st.sampled_from(
    [*TAGS, CALL, DRAFT, "</th", "[", "<", " ", "\n", "a", "b c", "`", CALL[11:-12], "</tool_call>"]
)


@given(st.lists(pieces, max_size=8).map("".join), st.booleans(), st.booleans(), st.data())
def test_the_result_does_not_depend_on_the_deltas(text: str, opened: bool, tools: bool, data: st.DataObject) -> None:
    options: dict[str, Any] = {"opened": THINK if opened else None}
    whole = told_apart(text, tools=tools, **options)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    stream = AnswerStream([TOOL] if tools else [], "task", **options)
    parts = [stream.add(text[a:b]) for a, b in itertools.pairwise([0, *cuts, len(text)])]
    rest, calls = stream.finish()
    parts.append(rest)
    said = "".join(part.text for part in parts), "".join(part.reasoning for part in parts)
    assert (*said, [call.arguments["to"] for call in calls]) == whole


@given(st.lists(pieces, max_size=8).map("".join))
def test_no_letter_is_lost(text: str) -> None:
    answer = parse_answer(text, [], "task")
    assert isinstance(answer, ParsedAnswer)
    for letters in ("a", "b c", "Rome"):
        assert (answer.text + answer.reasoning).count(letters) == text.count(letters)
