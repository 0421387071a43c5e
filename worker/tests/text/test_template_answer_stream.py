import itertools
from time import thread_time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from shared.wire.chat import Tool
from worker.engines.checkpoint.tokenizer import time_patterns
from worker.text.reading_time import SECONDS, SECONDS_PER_CHARACTER
from worker.text.reasoning import Said, joined
from worker.text.template_answer_stream import TemplateAnswerStream

TEMPLATE = {
    "version": 1,
    "start_anchor": "<bot>",
    "defaults": {"role": "assistant"},
    "fields": {
        "content": {},
        "thinking": {"open": "<think>", "close": "</think>"},
        "tool_calls": {
            "open": "<call>",
            "close": "</call>",
            "content": "json",
            "repeats": True,
            "transform": {"type": "function", "function": "{content}"},
        },
    },
}
TOOLS = [
    Tool.model_validate(
        {
            "type": "function",
            "function": {
                "name": "weather",
                "parameters": {"type": "object", "properties": {"days": {"type": "integer"}}, "required": ["days"]},
            },
        }
    )
]
GOOD = '<call>{"name": "weather", "arguments": {"days": 3}}</call>'


@pytest.fixture(scope="module", autouse=True)
def _timed() -> None:
    """As when a worker loads such a model."""
    time_patterns()


def stream(prompt: str = "<user>hi<bot>", template: dict[str, Any] = TEMPLATE) -> TemplateAnswerStream:
    wrap: Any = PreTrainedTokenizerFast  # has no types
    tokenizer: PreTrainedTokenizerFast = wrap(tokenizer_object=Tokenizer(models.BPE()), response_template=template)
    return TemplateAnswerStream(tokenizer, prompt, TOOLS, "task")


def parsed(text: str, *, complete: bool = True, prompt: str = "<bot>") -> tuple[str, list[dict[str, Any]]]:
    said, calls = told_apart(text, complete=complete, prompt=prompt)
    return said.text, calls


def told_apart(text: str, *, complete: bool = True, prompt: str = "<bot>") -> tuple[Said, list[dict[str, Any]]]:
    one = stream(prompt)
    said = one.add(text)
    rest, calls = one.finish(complete=complete)
    return joined([said, rest]), [dict(call.arguments) for call in calls]


@pytest.mark.parametrize(
    ("text", "shown", "calls"),
    [
        ("Hello", "Hello", []),
        (f"<think>hm</think>Look.{GOOD}{GOOD}", "Look.", [{"days": 3}, {"days": 3}]),
        (GOOD.replace("3", '"3"'), "", [{"days": 3}]),
        (GOOD.replace("3", '"soon"') + "x", '{"name": "weather", "arguments": {"days": "soon"}}x', []),
        ("<call>{no json}</call> and more", "{no json} and more", []),
    ],
)
def test_the_response_template_takes_the_answer_apart(text: str, shown: str, calls: list[dict[str, Any]]) -> None:
    assert parsed(text) == (shown, calls)


def test_thinking_is_reasoning_and_no_call_in_it_counts() -> None:
    thought = f"hm {GOOD}"
    assert told_apart(f"<think>\n{thought}\n</think>\n\nYes") == (Said("Yes", thought), [])
    assert told_apart(f"<think>{thought}</think>{GOOD}") == (Said("", thought), [{"days": 3}])
    assert told_apart(f"<think>{thought}", complete=False) == (Said("", thought), [])


def test_thinking_that_the_prompt_opened_is_reasoning() -> None:
    assert told_apart("hm</think>Yes", prompt="<bot><think>\n") == (Said("Yes", "hm"), [])
    assert stream("<bot><think>\n").in_reasoning
    assert not stream("<bot>").in_reasoning
    assert not stream("<bot><think></think>").in_reasoning


def test_a_call_that_was_cut_short_is_text() -> None:
    assert parsed(f"Look.{GOOD[:30]}", complete=False) == (f"Look.{GOOD[6:30]}", [])


def test_a_stop_string_may_eat_the_end_of_a_whole_call() -> None:
    assert parsed(GOOD.removesuffix("</call>"), complete=False) == ("", [{"days": 3}])


@pytest.mark.parametrize("value", ["NaN", "1e999", "[" * 5_000, '"\\ud83d"'])
def test_a_call_that_cannot_be_read_or_judged_is_text(value: str) -> None:
    call = GOOD.replace('"days": 3', f'"days": 3, "x": {value}')
    shown, calls = parsed(call)
    assert (shown.removesuffix(">").removesuffix("</call"), calls) == (call[6:-7], [])


def test_whatever_the_parser_raises_leaves_the_answer_as_text(monkeypatch: pytest.MonkeyPatch) -> None:
    one = stream()
    process = one._parser._process

    def planted(events: list[Any], eos: bool) -> None:
        if one._parser._buffer.endswith("!"):
            raise KeyError("!")
        process(events, eos)

    monkeypatch.setattr(one._parser, "_process", planted)
    said = one.add(f"One! {GOOD}")
    assert joined([said, one.finish()[0]]) == Said(f"One! {GOOD}")


@given(st.sampled_from([f"a <think>b</think> c{GOOD} d", f"{GOOD}<call>oops</call> x <ca"]), st.data())
def test_the_result_does_not_depend_on_the_deltas(text: str, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=5)))
    one = stream("<bot>")
    parts = [one.add(text[a:b]) for a, b in itertools.pairwise([0, *cuts, len(text)])]
    rest, calls = one.finish()
    assert (joined([*parts, rest]), [dict(call.arguments) for call in calls]) == told_apart(text)


SLOW = "(a|a)*b"
BAIT = "a" * 40 + "cb"
"""What SLOW takes 2^40 steps for."""


def with_call(**field: Any) -> dict[str, Any]:
    call = {"open": "<call>", "close": "</call>", "content": "json", "repeats": True, **field}
    return {**TEMPLATE, "fields": {"content": {}, "tool_calls": call}}


def bounded(characters: int) -> float:
    """Seconds of CPU that an answer of that length may take in all; pure Python takes some too."""
    return 2 * (SECONDS + characters * SECONDS_PER_CHARACTER) + 0.5


OPENED_BY_PATTERN = {**TEMPLATE, "fields": {"content": {}, "thinking": {"open_pattern": SLOW}}}
CLOSED_BY_PATTERN = {**TEMPLATE, "fields": {"content": {}, "thinking": {"open": "<think>", "close_pattern": SLOW}}}


@pytest.mark.parametrize(
    ("template", "text", "shown"),
    [
        (OPENED_BY_PATTERN, BAIT, BAIT),
        (CLOSED_BY_PATTERN, f"<think>{BAIT} so", f"{BAIT} so"),
        (
            with_call(content="xml-inline", content_args={"tag_pattern": f"(?P<key>{SLOW})(?P<value>)"}),
            f"<call>{BAIT}</call> so",
            f"{BAIT} so",
        ),
    ],
    ids=["an opening", "an end", "a call's parts"],
)
def test_patterns_that_take_too_long_leave_the_answer_as_text(template: dict[str, Any], text: str, shown: str) -> None:
    one = stream("<bot>", template)
    began = thread_time()
    said = one.add(text)
    rest, calls = one.finish(complete=True)
    assert thread_time() - began < bounded(len(text))
    assert (joined([said, rest]).text, calls) == (shown, [])


def test_an_anchor_that_takes_too_long_is_told() -> None:
    began = thread_time()
    with pytest.raises(TimeoutError):
        stream(BAIT, {"version": 1, "start_anchor_pattern": SLOW, "fields": {"content": {}}})
    assert thread_time() - began < bounded(0)


def test_many_slow_matches_of_one_answer_are_slow_together() -> None:
    """Each of them is within the time that there is; all are not."""
    one = stream("<bot>", OPENED_BY_PATTERN)
    text = ("a" * 15 + "c") * 100
    began = thread_time()
    said = one.add(text)
    assert joined([said, one.finish(complete=True)[0]]).text == text
    assert thread_time() - began < bounded(len(text))
