"""What a model wrote as a call, before the judge; how it is found in an answer is test_answer_stream.py's."""

import json
from typing import Any

import pytest

from shared.wire.chat import Tool
from shared.wire.schemas import InferenceRequest
from worker.text.tool_calls import NamedCall, OfferedTools, call_id, numbered, offered_tools


def tool(name: str, properties: dict[str, Any], **schema: Any) -> Tool:
    parameters = {"type": "object", "properties": properties, **schema}
    return Tool.model_validate({"type": "function", "function": {"name": name, "parameters": parameters}})


OFFERED = OfferedTools(
    [
        tool("weather", {"city": {"type": "string"}, "days": {"type": "integer"}}, required=["city"]),
        tool(
            "set",
            {
                "flag": {"type": "boolean"},
                "many": {"type": ["array", "null"]},
                "text": {"type": "string"},
                "any": {},
                "price": {"type": "number"},
            },
        ),
    ]
)
PARIS = NamedCall("weather", {"city": "Paris"})


def arguments(**given: Any) -> list[dict[str, Any]]:
    """What becomes of the arguments of `set`."""
    return [call.arguments for call in OFFERED.calls_in(json.dumps({"name": "set", "arguments": given}))]


@pytest.mark.parametrize(
    "value",
    [
        {"name": "weather", "arguments": {"city": "Paris"}},
        {"name": "weather", "parameters": {"city": "Paris"}},
        {"name": "weather", "arguments": '{"city": "Paris"}'},
        {"function": "weather", "arguments": {"city": "Paris"}},
        {"type": "function", "function": {"name": "weather", "arguments": {"city": "Paris"}}},
        {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Paris"}'}},
    ],
)
@pytest.mark.parametrize("bare", [False, True])
def test_a_call_is_known_in_every_usual_spelling(value: dict[str, Any], bare: bool) -> None:
    assert OFFERED.call_of(value, bare=bare) == PARIS


@pytest.mark.parametrize(
    "value",
    [
        {"name": "nosuch", "arguments": {}},
        {"name": "weather"},
        {"name": "weather", "arguments": {"city": "Paris", "days": "soon"}},
        {"name": "weather", "arguments": ["Paris"]},
        {"name": "weather", "arguments": "Paris"},
        {"name": ["weather"], "arguments": {"city": "Paris"}},
        {"arguments": {"city": "Paris"}},
        ["weather"],
        "weather",
        None,
    ],
)
def test_anything_else_is_no_call(value: object) -> None:
    assert OFFERED.call_of(value) is None


def test_without_a_marker_an_object_must_look_like_nothing_else() -> None:
    other = {"name": "weather", "arguments": {"city": "Paris"}, "population": 2}
    assert OFFERED.call_of(other) == PARIS
    assert OFFERED.call_of(other, bare=True) is None
    assert OFFERED.call_of({"name": "set"}) == NamedCall("set", {})
    assert OFFERED.call_of({"name": "set"}, bare=True) is None


def test_one_invalid_call_makes_none_of_the_text() -> None:
    good, bad = '{"name": "weather", "arguments": {"city": "Paris"}}', '{"name": "weather", "arguments": {}}'
    assert OFFERED.calls_in(f"[{good}, {good}]") == [PARIS, PARIS]
    assert OFFERED.calls_in(f"{good}\n{good}") == [PARIS, PARIS]
    assert OFFERED.calls_in(f"[{good}, {bad}]") == []
    assert OFFERED.calls_in("no JSON at all") == []


def test_a_name_may_stand_outside_of_the_arguments() -> None:
    assert OFFERED.named_call("weather", '{"city": "Paris"}') == [PARIS]
    assert OFFERED.named_call("weather", '{"city": "Paris"} {"city": "Rome"}') == []
    assert OFFERED.named_call("nosuch", "{}") == []


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        ({"flag": "True"}, {"flag": True}),
        ({"flag": " false "}, {"flag": False}),
        ({"many": "[1, 2]"}, {"many": [1, 2]}),
        ({"price": "19.99"}, {"price": 19.99}),
        ({"text": 3}, {"text": "3"}),
        ({"text": None}, {}),
        ({"many": None}, {"many": None}),
        ({"any": "3"}, {"any": "3"}),
        ({"any": None}, {"any": None}),
        ({"unknown": "3"}, {"unknown": "3"}),
    ],
)
def test_arguments_are_coerced_where_nothing_is_lost(given: dict[str, Any], taken: dict[str, Any]) -> None:
    assert arguments(**given) == [taken]


@pytest.mark.parametrize("given", [{"flag": "maybe"}, {"flag": 1}, {"text": [1]}, {"text": True}, {"price": "a lot"}])
def test_what_would_have_to_be_guessed_is_no_argument(given: dict[str, Any]) -> None:
    assert arguments(**given) == []


def test_ids_are_those_of_the_task_and_the_place() -> None:
    first, second = numbered("t1", [PARIS, PARIS])
    assert (first.id, second.id) == (call_id("t1", 0), call_id("t1", 1))
    assert len({first.id, second.id, call_id("t2", 0)}) == 3
    assert (first.name, first.arguments) == ("weather", {"city": "Paris"})


@pytest.mark.parametrize(("choice", "offered"), [(None, True), ("auto", True), ("required", True), ("none", False)])
def test_with_tool_choice_none_no_tool_is_offered(choice: str | None, offered: bool) -> None:
    request: dict[str, Any] = {
        "model": "m",
        "messages": [{"role": "user", "content": "hi"}],
        "tools": [tool("set", {}).model_dump(mode="json", exclude_none=True)],
    }
    if choice is not None:
        request["tool_choice"] = choice
    assert bool(OfferedTools(offered_tools(InferenceRequest.model_validate(request)))) is offered
