import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.wire.chat import Tool
from worker.text.answer_stream import AnswerStream, parse_answer


def tool(name: str, schema: dict[str, Any]) -> Tool:
    return Tool.model_validate({"type": "function", "function": {"name": name, "parameters": schema}})


TOOLS = [
    tool(
        "weather",
        {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer"}, "exact": {"type": "boolean"}},
            "required": ["city"],
            "additionalProperties": False,
        },
    ),
    tool("clock", {"type": "object", "properties": {}}),
    tool("write", {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}),
]

PARIS = '{"name": "weather", "arguments": {"city": "Paris"}}'
ROME = '{"name": "weather", "arguments": {"city": "Rome"}}'


def parsed(text: str, *, complete: bool = True) -> tuple[str, list[tuple[str, dict[str, Any]]]]:
    answer = parse_answer(text, TOOLS, "task", complete=complete)
    return answer.text, [(call.name, dict(call.arguments)) for call in answer.tool_calls]


PARIS_CALL = ("weather", {"city": "Paris"})
ROME_CALL = ("weather", {"city": "Rome"})
CLOCK_CALL = ("clock", dict[str, Any]())

CALLS = {
    f"<tool_call>\n{PARIS}\n</tool_call>": ("", [PARIS_CALL]),
    f"Let me look.\n\n<tool_call>{PARIS}</tool_call>\n": ("Let me look.", [PARIS_CALL]),
    f"<tool_call>{PARIS}</tool_call>\n<tool_call>\n{ROME}\n</tool_call>": ("", [PARIS_CALL, ROME_CALL]),
    f"<tool_call>{PARIS}</tool_call> and so on": ("and so on", [PARIS_CALL]),
    f"<tool_call>{PARIS}": ("", [PARIS_CALL]),
    f"<tool_call>{PARIS}</tool": ("", [PARIS_CALL]),
    f"<tool_call>{PARIS}\n<tool_call>{ROME}": ("", [PARIS_CALL, ROME_CALL]),
    f"<tool_call>{PARIS}\n{ROME}</tool_call>": ("", [PARIS_CALL, ROME_CALL]),
    f"<tool_call>{PARIS} is what I do": ("is what I do", [PARIS_CALL]),
    f"<tool_call>{PARIS[:-1]}</tool_call>": ("", [PARIS_CALL]),
    f"<tool_call>{PARIS[:-2]}": ("", [PARIS_CALL]),
    f"<tool_call>{PARIS}}}</tool_call>": ("", [PARIS_CALL]),
    "<tool_call>{'name': 'weather', 'arguments': {'city': 'Paris',}}</tool_call>": ("", [PARIS_CALL]),
    '<tool_call>{"name": "write", "arguments": {"text": "</tool_call> \\" {"}}</tool_call>': (
        "",
        [("write", {"text": '</tool_call> " {'})],
    ),
    '<tool_call>{"name": "clock"}</tool_call>': ("", [CLOCK_CALL]),
    '<tool_call>{"type": "function", "function": {"name": "clock", "arguments": "{}"}}</tool_call>': ("", [CLOCK_CALL]),
    f"[TOOL_CALLS][{PARIS}, {ROME}]": ("", [PARIS_CALL, ROME_CALL]),
    f"Sure. [TOOL_CALLS] [{PARIS}]": ("Sure.", [PARIS_CALL]),
    '[TOOL_CALLS]weather[ARGS]{"city": "Paris"}[TOOL_CALLS]clock[ARGS]{}': ("", [PARIS_CALL, CLOCK_CALL]),
    '[TOOL_CALLS]weather[CALL_ID]a1b2c3d4e[ARGS]{"city": "Paris"}': ("", [PARIS_CALL]),
    '[TOOL_CALLS]weather{"city": "Paris"}': ("", [PARIS_CALL]),
    '<|python_tag|>{"name": "weather", "parameters": {"city": "Paris"}}': ("", [PARIS_CALL]),
    f"<|python_tag|>{PARIS}; {ROME}": ("", [PARIS_CALL, ROME_CALL]),
    '{"name": "weather", "parameters": {"city": "Paris"}}': ("", [PARIS_CALL]),
    f" \n[{PARIS}, {ROME}]\n": ("", [PARIS_CALL, ROME_CALL]),
    '{"type": "function", "name": "weather", "parameters": {"city": "Paris"}}': ("", [PARIS_CALL]),
    '<tool_call>{"name": "weather", "arguments": {"city": "Paris", "days": "3", "exact": "True"}}</tool_call>': (
        "",
        [("weather", {"city": "Paris", "days": 3, "exact": True})],
    ),
    '<tool_call>{"name": "weather", "arguments": {"city": 75001, "days": null}}</tool_call>': (
        "",
        [("weather", {"city": "75001"})],
    ),
}


@pytest.mark.parametrize("text", CALLS)
def test_a_call_is_understood(text: str) -> None:
    assert parsed(text) == CALLS[text]


TEXTS = [
    "Hello",
    "  spaces stay \n",
    "a < b and c[0] <tool",
    "<tool_call> is how a call begins",
    "<tool_call>",
    "<tool_call>\n",
    f"<tool_call>{PARIS.replace('weather', 'whether')}</tool_call>",
    '<tool_call>{"name": "weather", "arguments": {}}</tool_call>',
    '<tool_call>{"name": "weather", "arguments": {"city": "Paris", "days": "soon"}}</tool_call>',
    '<tool_call>{"name": "weather", "arguments": {"city": "Paris", "more": 1}}</tool_call>',
    '<tool_call>{"name": "weather", "arguments": {"city": "Par',
    "<tool_call>{</tool_call> {",
    '{"name": "weather"}',
    '{"name": "Paris", "population": 2000000}',
    '{"name": "weather", "arguments": {"city": "Paris"}, "comment": "x"}',
    f"{PARIS} is a call of the tool.",
    '{"city": "Paris"}',
    "[1, 2, 3]",
    "[TOOL_CALLS] are made like this",
    "[TOOL_CALLS][]",
    "[TOOL_CALLS][1, 2]",
    '[TOOL_CALLS]nosuch[ARGS]{"city": "Paris"}',
    "<|python_tag|>print(1)",
    "{" * 50,
    "[" * 3_000,
    '{"name": ' * 2_000,
]


@pytest.mark.parametrize("text", TEXTS)
def test_text_that_only_looks_like_a_call_stays_text(text: str) -> None:
    assert parsed(text) == (text, [])


@pytest.mark.parametrize(
    "text", [f"<tool_call>{PARIS[:-1]}", f"[TOOL_CALLS][{PARIS}", '<|python_tag|>{"name": "clock", "parameters": {']
)
def test_a_call_that_was_cut_short_is_not_made_up(text: str) -> None:
    assert parsed(text, complete=False) == (text, [])
    assert parsed(text, complete=True)[1]


def test_a_whole_call_before_the_cut_counts() -> None:
    assert parsed(f"<tool_call>{PARIS}</tool_call>\n<tool_call>{ROME[:20]}", complete=False) == (
        f"\n<tool_call>{ROME[:20]}".lstrip(),
        [PARIS_CALL],
    )
    assert parsed(f"<tool_call>{PARIS}", complete=False) == ("", [PARIS_CALL])


def test_an_invalid_call_between_two_valid_ones_stays_text() -> None:
    bad = '<tool_call>{"name": "nosuch", "arguments": {}}</tool_call>'
    assert parsed(f"<tool_call>{PARIS}</tool_call>{bad}<tool_call>{ROME}</tool_call>") == (bad, [PARIS_CALL, ROME_CALL])


def test_an_unescaped_quote_ends_with_the_first_closing_tag() -> None:
    broken = '<tool_call>{"name": "nosuch", "arguments": {"text": "a "b" c}}</tool_call>'
    assert parsed(f"{broken}\n<tool_call>{ROME}</tool_call>") == (broken, [ROME_CALL])


def test_without_tools_everything_passes_at_once() -> None:
    stream = AnswerStream([], "task")
    assert stream.add(f"<tool_call>{PARIS}") == f"<tool_call>{PARIS}"
    assert stream.finish() == ("", [])


def test_text_is_shown_as_soon_as_it_cannot_be_a_call() -> None:
    stream = AnswerStream(TOOLS, "task")
    assert stream.add("Look: <too") == "Look:"
    assert stream.add("l") == ""
    assert stream.add("s> [") == " <tools>"
    assert stream.add("0] ") == " [0]"
    assert stream.add("<tool_call>\nno") == " <tool_call>\nno"


def test_a_json_answer_that_is_no_call_is_not_held_back() -> None:
    stream = AnswerStream(TOOLS, "task")
    assert stream.add('{"ci') == '{"ci'
    assert stream.add('ty": "Paris", "name') == 'ty": "Paris", "name'


def test_ids_are_those_of_the_task_and_the_place() -> None:
    text = f"<tool_call>{PARIS}</tool_call><tool_call>{PARIS}</tool_call>"
    first = parse_answer(text, TOOLS, "task").tool_calls
    assert first == parse_answer(text, TOOLS, "task").tool_calls
    assert len({call.id for call in [*first, *parse_answer(text, TOOLS, "other").tool_calls]}) == 4
    assert all(call.id.startswith("call_") and len(call.id) == 29 for call in first)


pieces = st.sampled_from(
    [
        *CALLS,
        *(text for text in TEXTS if len(text) < 100),
        *[
            "<tool_call>",
            "</tool_call>",
            "[TOOL_CALLS]",
            "[ARGS]",
            "<|python_tag|>",
            PARIS,
            "weather",
            " ",
            "\n",
            '"',
            "{",
            "}",
            "<",
        ],
    ]
)


@given(st.lists(pieces, max_size=5).map("".join), st.data())
def test_the_result_does_not_depend_on_the_deltas(text: str, data: st.DataObject) -> None:
    complete = data.draw(st.booleans())
    whole = parse_answer(text, TOOLS, "task", complete=complete)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    stream = AnswerStream(TOOLS, "task")
    shown = "".join([stream.add(text[a:b]) for a, b in itertools.pairwise([0, *cuts, len(text)])])
    rest, calls = stream.finish(complete=complete)
    assert (shown + rest, calls) == (whole.text, whole.tool_calls)
    if not calls:
        assert whole.text == text
    for call in calls:
        json.dumps(call.arguments)


@given(st.text(alphabet='{}[]":;,< >tolca_/\\n', max_size=80))
def test_no_text_is_lost_or_added(text: str) -> None:
    assert parsed(text) == (text, [])
