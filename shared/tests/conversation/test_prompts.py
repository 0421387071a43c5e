import json
from typing import Any

import pytest

from shared.conversation.loop_prevention import LoopPolicy, ToolLoop
from shared.conversation.prompts import assemble, with_tool_prompt
from shared.conversation.rules import InvalidConversation, Place
from shared.wire.schemas import CreateMessageParams

USER = {"role": "user", "content": "Weather in Paris?"}
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


def call(call_id: str = "c1", arguments: str = '{"city": "Paris"}', name: str = "weather") -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def asks(*calls: dict[str, Any]) -> dict[str, Any]:
    return {"role": "assistant", "content": None, "tool_calls": list(calls)}


def answers(call_id: str = "c1", content: str = "18 degrees") -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": call_id, "content": content}


def params(**fields: Any) -> CreateMessageParams:
    return CreateMessageParams.model_validate(fields)


def said(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def test_messages_and_history_with_message_say_the_same() -> None:
    one = assemble(params(messages=[USER, said("18"), USER]), LoopPolicy())
    other = assemble(params(history=[USER, said("18")], message=USER["content"]), LoopPolicy())
    assert one.messages == other.messages == one.conversation
    assert one.guard is None


def test_a_message_goes_behind_the_stored_conversation() -> None:
    stored = assemble(params(messages=[USER, said("18"), USER]), LoopPolicy()).messages[:2]
    assembled = assemble(params(message="And Rome?"), LoopPolicy(), stored)
    assert [m.content for m in assembled.messages] == ["Weather in Paris?", "18", "And Rome?"]


def test_tool_results_go_behind_the_stored_conversation() -> None:
    whole = assemble(params(messages=[USER, asks(call()), answers()]), LoopPolicy()).messages
    assembled = assemble(params(messages=[answers()]), LoopPolicy(), whole[:2])
    assert assembled.messages == whole


def test_no_tools_mean_no_tool_choice_and_tools_mean_auto() -> None:
    assert assemble(params(message="hi"), LoopPolicy()).tool_choice == "none"
    assert assemble(params(message="hi", tools=[TOOL]), LoopPolicy()).tool_choice == "auto"


DEEP: dict[str, Any] = {"type": "object"}
for _ in range(60):
    DEEP = {"type": "object", "properties": {"x": DEEP}}


def with_schema(schema: dict[str, Any]) -> dict[str, Any]:
    return {"message": "hi", "tools": [{"type": "function", "function": {"name": "f", "parameters": schema}}]}


ARGUMENTS = "tool_calls", 0, "function", "arguments"
PARAMETERS = "tools", 0, "function", "parameters"


@pytest.mark.parametrize(
    ("fields", "place", "reason"),
    [
        ({}, (), "there is no message"),
        ({"history": [USER]}, (), "`history` needs a `message`"),
        ({"messages": [USER], "message": "hi"}, (), "not both"),
        ({"messages": [USER], "history": []}, (), "not both"),
        ({"messages": [USER, {"role": "system", "content": "x"}]}, ("messages", 1), "a system message"),
        ({"messages": [{"role": "developer", "content": "x"}]}, (), "no user message"),
        ({"messages": [USER, said("x")]}, ("messages", 1), "the last message"),
        ({"messages": [USER, answers()]}, ("messages", 1), "no assistant message right before it makes the call 'c1'"),
        ({"messages": [USER, asks(call()), answers("c2")]}, ("messages", 2), "no assistant message"),
        (
            {"messages": [USER, asks(call()), USER]},
            ("messages", 2),
            "a tool message is missing for the call weather (c1)",
        ),
        ({"messages": [USER, asks(call(), call("c2")), answers()]}, ("messages", 2), "a tool message is missing"),
        ({"messages": [USER, asks(call()), answers(), answers()]}, ("messages", 3), "the call 'c1' is answered twice"),
        (
            {"messages": [USER, asks(call(), call()), answers()]},
            ("messages", 1, "tool_calls", 1),
            "the id 'c1' is used twice",
        ),
        (
            {"messages": [USER, asks(call(arguments="{x}")), answers()]},
            ("messages", 1, *ARGUMENTS),
            "is not the JSON text of an object",
        ),
        (
            {"messages": [USER, asks(call(arguments="[1]")), answers()]},
            ("messages", 1, *ARGUMENTS),
            "not a JSON object",
        ),
        (
            {"messages": [USER, asks(call(arguments="[" * 90_000)), answers()]},
            ("messages", 1, *ARGUMENTS),
            "nested too deeply",
        ),
        (
            {"messages": [USER, asks(call(arguments='{"x": NaN}')), answers()]},
            ("messages", 1, *ARGUMENTS),
            "NaN is not JSON (in x)",
        ),
        *(
            ({"messages": [USER, asks(call(arguments=text)), answers()]}, ("messages", 1, *ARGUMENTS), reason)
            for text, reason in [
                ('{"x": [-Infinity]}', "out of range"),
                ('{"x": [0, 1e999]}', "(in x[1])"),
                ('{"x": "a \\ud83d b"}', "half a surrogate pair, which is no character (in x,"),
                ('{"x": ' * 201 + "1" + "}" * 201, "beyond 200 levels (in x.x.x"),
            ]
        ),
        ({"messages": [USER, asks(call()), answers(), USER, answers()]}, ("messages", 4), "no assistant message"),
        ({"history": [said("x"), answers()], "message": "hi"}, ("history", 1), "no assistant message"),
        ({"history": [USER, asks(call())], "message": "hi"}, ("message",), "a tool message is missing"),
        ({"messages": [USER] * 2_001}, (), "2000 are allowed"),
        ({"message": "hi", "tools": [TOOL, TOOL]}, ("tools", 1), "the name 'weather' is used twice"),
        ({"message": "hi", "toolChoice": "required"}, ("tool_choice",), "there are no `tools`"),
        (
            {"message": "hi", "tools": [TOOL], "toolChoice": {"type": "function", "function": {"name": "other"}}},
            ("tool_choice",),
            "'other', which is not in `tools`",
        ),
        (with_schema({"type": "string"}), PARAMETERS, 'must have "type": "object"'),
        (with_schema({"type": "object", "properties": {"x": {"type": "text"}}}), PARAMETERS, "$.properties.x.type"),
        (
            with_schema({"type": "object", "properties": {"x": {"$ref": "http://localhost/x"}}}),
            PARAMETERS,
            "outside the schema",
        ),
        (with_schema({"type": "object", "properties": {"x": {"$ref": "#/$defs/x"}}}), PARAMETERS, "leads nowhere"),
        (with_schema({"type": "object", "properties": {"x": {"pattern": "("}}}), PARAMETERS, "is not a 'regex'"),
        (with_schema(DEEP), PARAMETERS, "nested more than"),
        (
            {
                "message": "hi",
                "responseFormat": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "text"}}},
            },
            ("response_format", "json_schema", "schema"),
            "is not a usable schema",
        ),
    ],
)
def test_a_faulty_request_is_refused_with_the_place_of_the_fault(
    fields: dict[str, Any], place: Place, reason: str
) -> None:
    with pytest.raises(InvalidConversation) as refused:
        assemble(params(**fields), LoopPolicy())
    assert refused.value.place == place
    assert reason in refused.value.reason
    assert not place or place[0] in CreateMessageParams.model_fields


def test_a_stored_conversation_takes_neither_history_nor_assistant_messages() -> None:
    stored = assemble(params(message="hi"), LoopPolicy()).messages
    with pytest.raises(InvalidConversation, match="it has one"):
        assemble(params(history=[USER], message="hi"), LoopPolicy(), stored)
    with pytest.raises(InvalidConversation, match="only tool and user") as refused:
        assemble(params(messages=[said("x"), USER]), LoopPolicy(), stored)
    assert refused.value.place == ("messages", 0)


def test_a_fault_of_the_stored_conversation_is_told_as_its_own() -> None:
    stored = assemble(params(messages=[USER, asks(call()), answers()]), LoopPolicy()).messages
    with pytest.raises(InvalidConversation) as refused:
        assemble(params(message="hi"), LoopPolicy(), [stored[0], stored[2]])
    assert refused.value.place == ("conversation", 1)


def test_results_are_shown_in_the_order_of_their_calls_round_by_round() -> None:
    messages = [
        USER,
        asks(call("a"), call("b", "{}"), call("c", '{"city": "Rome"}')),
        *(answers(call_id, f"first {call_id}") for call_id in "cab"),
        asks(call("b"), call("a", "{}")),
        *(answers(call_id, f"second {call_id}") for call_id in "ab"),
    ]
    assembled = assemble(params(messages=messages), LoopPolicy(enabled=False))
    shown = [message.content for message in assembled.messages if message.role == "tool"]
    assert shown == ["first a", "first b", "first c", "second b", "second a"]
    assert [message.content for message in assembled.conversation if message.role == "tool"] == [
        "first c", "first a", "first b", "second a", "second b"
    ]  # fmt: skip


def test_what_is_new_behind_a_stored_call_is_shown_in_its_order() -> None:
    stored = assemble(
        params(messages=[USER, asks(call("a"), call("b", "{}")), answers("a"), answers("b")]), LoopPolicy()
    )
    assembled = assemble(params(messages=[answers("b", "B"), answers("a", "A")]), LoopPolicy(), stored.conversation[:2])
    assert [message.content for message in assembled.messages[2:]] == ["A", "B"]


def test_results_of_one_round_may_come_in_any_order_and_ids_may_return_in_a_later_round() -> None:
    messages = [USER, asks(call("a"), call("b", "")), answers("b"), answers("a"), asks(call("a", "{}")), answers("a")]
    assert len(assemble(params(messages=messages), LoopPolicy()).conversation) == 6


LOOPING = [USER, asks(call()), answers(), asks(call()), answers(), asks(call()), answers()]


def test_a_loop_withholds_the_tools_and_keeps_the_client_s_conversation() -> None:
    assembled = assemble(params(messages=LOOPING, tools=[TOOL]), LoopPolicy())
    assert assembled.tools == []
    assert assembled.tool_choice == "none"
    assert len(assembled.conversation) == 7
    assert len(assembled.messages) == 3
    assert assembled.guard is not None


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "weather"}}])
def test_a_demanded_call_in_a_loop_is_a_tool_loop(choice: Any) -> None:
    with pytest.raises(ToolLoop) as loop:
        assemble(params(messages=LOOPING, tools=[TOOL], toolChoice=choice), LoopPolicy())
    assert loop.value.guard.tools_withheld


def test_the_tool_prompt_declares_tools_and_turns_calls_and_results_into_text() -> None:
    messages = [{"role": "system", "content": "Be kind."}, USER, asks(call("a"), call("b")), answers("a"), answers("b")]
    assembled = assemble(params(messages=messages, tools=[TOOL]), LoopPolicy(enabled=False))
    turns = with_tool_prompt(assembled.messages, assembled.tools, "auto")
    assert [turn["role"] for turn in turns] == ["system", "user", "assistant", "user"]
    assert turns[0]["content"].startswith("Be kind.\n\n")
    declared = turns[0]["content"].split("<tools>\n")[1].split("\n</tools>")[0]
    assert json.loads(declared)["function"]["name"] == "weather"
    one_call = '<tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}\n</tool_call>'
    assert turns[2]["content"] == f"{one_call}\n{one_call}"
    assert turns[3]["content"].count("<tool_response>\n18 degrees\n</tool_response>") == 2


def test_the_tool_prompt_of_a_longer_conversation_starts_with_that_of_the_shorter() -> None:
    messages = assemble(params(messages=[USER, asks(call()), answers(), USER]), LoopPolicy()).messages
    tools = assemble(params(message="x", tools=[TOOL]), LoopPolicy()).tools
    whole = with_tool_prompt(messages, tools, "auto")
    assert with_tool_prompt(messages[:1], tools, "required") == whole[:2]
    assert with_tool_prompt(messages[:3], tools, "auto") == whole[:4]


def test_with_tool_choice_none_no_tools_are_shown() -> None:
    assembled = assemble(params(message="hi", tools=[TOOL], toolChoice="none"), LoopPolicy())
    assert with_tool_prompt(assembled.messages, assembled.tools, "none") == [{"role": "user", "content": "hi"}]


def test_a_request_may_switch_loop_prevention_off_or_name_the_tools_that_poll() -> None:
    allowed: list[Any] = ["off", {"pollingTools": ["weather"]}]
    for wanted in allowed:
        assembled = assemble(params(messages=LOOPING, tools=[TOOL], loopPrevention=wanted), LoopPolicy())
        assert (len(assembled.messages), len(assembled.tools), assembled.guard) == (7, 1, None)
    for wanted in (None, {"pollingTools": list[str]()}):
        assert assemble(params(messages=LOOPING, tools=[TOOL], loopPrevention=wanted), LoopPolicy()).tools == []


def test_a_polling_tool_that_nobody_knows_is_a_slip_of_the_pen() -> None:
    request = params(message="hi", tools=[TOOL], loopPrevention={"pollingTools": ["weather", "wether"]})
    with pytest.raises(InvalidConversation) as refused:
        assemble(request, LoopPolicy())
    assert refused.value.place == ("loop_prevention", "pollingTools", 1)
    called_before = params(messages=LOOPING, loopPrevention={"pollingTools": ["weather"]})
    assert assemble(called_before, LoopPolicy()).guard is None
