import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.wire.chat import Tool
from worker.text.answer_stream import AnswerStream, ParsedAnswer, parse_answer
from worker.text.call_regions import Region, RegionEnd
from worker.text.reasoning import Said


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


@pytest.mark.parametrize(
    "text",
    [
        f"<tool_call>{PARIS}\n",
        f"<tool_call>{PARIS}</tool",
        '[TOOL_CALLS]weather[ARGS]{"city": "Paris"}',
        f"<|python_tag|>{PARIS}; ",
        PARIS,
    ],
)
def test_a_stop_string_may_eat_what_stands_behind_a_whole_call(text: str) -> None:
    assert parsed(text, complete=False) == ("", [PARIS_CALL])


@pytest.mark.parametrize(
    "call",
    [
        PARIS[:-1],
        PARIS.replace('"', "'"),
        PARIS.replace("}}", ",}}"),
        '{"name": "weather", "arguments": {"city": "Paris", "exact": True}}',
        '{"name": "write", "arguments": {"text": "a"}, "parameters": [0, 0, 0',
    ],
)
def test_a_call_that_was_cut_short_is_not_repaired(call: str) -> None:
    assert parsed(f"<tool_call>{call}", complete=False) == (f"<tool_call>{call}", [])


def test_what_was_cut_short_behind_a_whole_call_in_one_region_is_text() -> None:
    assert parsed(f"<tool_call>{PARIS}\n{ROME[:19]}", complete=False) == (ROME[:19], [PARIS_CALL])


NUMBERS = [tool("sum", {"type": "object", "properties": {"x": {}}, "additionalProperties": False})]


@pytest.mark.parametrize(
    "value",
    [
        "NaN",
        "-Infinity",
        "1e999",
        '[1, {"y": Infinity}]',
        "1e-999",
        "9" * 5_000,
        '"a \\ud83d b"',
        '{"\\udc00": 1}',
        "[" * 128 + "]" * 128,
        "[" * 5_000 + "]" * 5_000,
        '"a", "x": "b"',
    ],
)
def test_arguments_that_no_json_reader_takes_are_text(value: str) -> None:
    text = f'<tool_call>{{"name": "sum", "arguments": {{"x": {value}}}}}</tool_call>'
    assert parse_answer(text, NUMBERS, "task") == ParsedAnswer(text, [])


@pytest.mark.parametrize(
    "value", ["0", "-0.5", "1e300", "1.5E-7", str(2**70), "19.99", '"\\ud83d\\ude00"', "[" * 127 + "]" * 127]
)
def test_arguments_that_json_can_hold_are_kept(value: str) -> None:
    text = f'<tool_call>{{"name": "sum", "arguments": {{"x": {value}}}}}</tool_call>'
    (call,) = parse_answer(text, NUMBERS, "task").tool_calls
    assert call.arguments == {"x": json.loads(value)}
    assert json.loads(call.model_dump_json())["arguments"] == {"x": json.loads(value)}


def test_a_number_becomes_its_text_as_it_was_written() -> None:
    call = '<tool_call>{"name": "write", "arguments": {"text": 3.10}}</tool_call>'
    assert parsed(call) == ("", [("write", {"text": "3.10"})])


def test_text_in_a_place_of_other_types_is_only_read_as_a_whole_value() -> None:
    tools = [tool("set", {"type": "object", "properties": {"x": {"type": ["boolean", "object"]}}})]

    def arguments(given: str) -> list[dict[str, Any]]:
        text = json.dumps({"name": "set", "arguments": {"x": given}})
        return [call.arguments for call in parse_answer(text, tools, "task").tool_calls]

    assert arguments(" True ") == [{"x": True}]
    assert arguments('{"Key": "Value"}') == [{"x": {"Key": "Value"}}]
    assert arguments("NaN") == arguments("1") == arguments('{"a": 1e999}') == []


def test_the_work_for_one_answer_grows_with_its_length(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = 0
    take = Region.take

    def counted(region: Region, char: str) -> RegionEnd | None:
        nonlocal taken
        taken += 1
        return take(region, char)

    monkeypatch.setattr(Region, "take", counted)
    # In each of these regions the quotes are such that it reads on to the end of the answer.
    hostile = '<tool_call>{"\\"</tool_call>' * 500
    assert parsed(hostile) == (hostile, [])
    assert taken < 40 * len(hostile)


def test_an_invalid_call_between_two_valid_ones_stays_text() -> None:
    bad = '<tool_call>{"name": "nosuch", "arguments": {}}</tool_call>'
    assert parsed(f"<tool_call>{PARIS}</tool_call>{bad}<tool_call>{ROME}</tool_call>") == (bad, [PARIS_CALL, ROME_CALL])


def test_an_unescaped_quote_ends_with_the_first_closing_tag() -> None:
    broken = '<tool_call>{"name": "nosuch", "arguments": {"text": "a "b" c}}</tool_call>'
    assert parsed(f"{broken}\n<tool_call>{ROME}</tool_call>") == (broken, [ROME_CALL])


def test_without_tools_everything_passes_at_once() -> None:
    stream = AnswerStream([], "task")
    assert stream.add(f"<tool_call>{PARIS}").text == f"<tool_call>{PARIS}"
    assert stream.finish() == (Said(), [])


def test_text_is_shown_as_soon_as_it_cannot_be_a_call() -> None:
    stream = AnswerStream(TOOLS, "task")
    assert stream.add("Look: <too").text == "Look:"
    assert stream.add("l").text == ""
    assert stream.add("s> [").text == " <tools>"
    assert stream.add("0] ").text == " [0]"
    assert stream.add("<tool_call>\nno").text == " <tool_call>\nno"


def test_a_json_answer_that_is_no_call_is_not_held_back() -> None:
    stream = AnswerStream(TOOLS, "task")
    assert stream.add('{"ci').text == '{"ci'
    assert stream.add('ty": "Paris", "name').text == 'ty": "Paris", "name'


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
            *("<think>", "</think>", "[THINK]", "[/THINK]", "<thinking>", "`", "</thi"),
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
    parts = [stream.add(text[a:b]) for a, b in itertools.pairwise([0, *cuts, len(text)])]
    rest, calls = stream.finish(complete=complete)
    parts.append(rest)
    said = "".join(part.text for part in parts), "".join(part.reasoning for part in parts)
    assert (*said, calls) == (whole.text, whole.reasoning, whole.tool_calls)
    if not calls and "think" not in text.lower():
        assert whole.text == text
    for call in calls:
        json.dumps(call.arguments)


@given(st.text(alphabet='{}[]":;,< >tolca_/\\n', max_size=80))
def test_no_text_is_lost_or_added(text: str) -> None:
    assert parsed(text) == (text, [])
