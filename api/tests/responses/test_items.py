"""Items of OpenAI's clients and messages of ours, in both directions."""

from typing import Any

import pytest

from api.errors import InvalidParams
from api.responses.items import items_of, messages_of, without
from api.responses.requests import Item
from shared.wire.chat import AssistantMessage, ChatMessage, FunctionCall, MessageToolCall, ToolMessage, UserMessage


def messages(*items: dict[str, Any]) -> list[dict[str, Any]]:
    said = messages_of([Item.model_validate(item) for item in items])
    return [message.model_dump(exclude_none=True, exclude_defaults=True) for message in said.messages]


def call(number: int) -> dict[str, Any]:
    return {"type": "function_call", "call_id": f"c{number}", "name": "f", "arguments": "{}"}


def result(number: int) -> dict[str, Any]:
    return {"type": "function_call_output", "call_id": f"c{number}", "output": [{"type": "input_text", "text": "1"}]}


def test_a_run_of_calls_is_one_round_with_what_was_said_before() -> None:
    said = messages(
        {"role": "user", "content": "Hi"},
        {"type": "reasoning", "id": "rs_1", "summary": []},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Well"}]},
        call(1),
        call(2),
        result(2),
        result(1),
        call(3),
        result(3),
    )
    assert [message["role"] for message in said] == ["user", "assistant", "tool", "tool", "assistant", "tool"]
    assert said[1]["content"] == "Well"
    assert [one["id"] for one in said[1]["tool_calls"]] == ["c1", "c2"]


def test_thousands_of_calls_are_read_in_no_time() -> None:
    [message] = messages(*[call(number) for number in range(20_000)])
    assert len(message["tool_calls"]) == 20_000


def test_a_void_message_is_left_out() -> None:
    assert messages({"role": "user", "content": "a"}, {"role": "assistant", "content": []}) == [
        {"role": "user", "content": "a"}
    ]


def test_a_place_is_that_of_the_clients_item() -> None:
    said = messages_of(
        [Item.model_validate(item) for item in ({"type": "reasoning"}, {"role": "user", "content": "a"})]
    )
    assert said.place(("messages", 0, "content")) == ("input", 1, "content")
    assert said.place(("tools", 0)) == ("tools", 0)


@pytest.mark.parametrize(
    ("item", "place"),
    [
        ({"content": "a"}, ("input", 0, "role")),
        ({"role": "user"}, ("input", 0, "content")),
        ({"role": "tool", "content": "a"}, ("input", 0, "role")),
        ({"type": "function_call", "name": "f"}, ("input", 0, "call_id")),
        ({"type": "function_call", "call_id": "c"}, ("input", 0, "name")),
        ({"type": "function_call_output", "call_id": "c"}, ("input", 0, "output")),
        ({"type": "image_generation_call"}, ("input", 0, "type")),
    ],
)
def test_what_is_no_item_of_this_server_is_refused_by_its_place(item: dict[str, Any], place: tuple[Any, ...]) -> None:
    with pytest.raises(InvalidParams) as refused:
        messages(item)
    assert refused.value.place == place


def conversation() -> list[ChatMessage]:
    calls = [MessageToolCall(id=name, function=FunctionCall(name="f", arguments="{}")) for name in ("a", "b")]
    return [
        UserMessage(role="user", content="Hi"),
        AssistantMessage(role="assistant", content="Well", tool_calls=calls),
        ToolMessage(role="tool", tool_call_id="a", content="1"),
        ToolMessage(role="tool", tool_call_id="b", content="2"),
        UserMessage(role="user", content="Hi"),
    ]


def test_items_keep_their_ids_while_others_come_and_go() -> None:
    before = items_of(conversation())
    assert [item.item["type"] for item in before] == [
        *["message"] * 2, *["function_call"] * 2, *["function_call_output"] * 2, "message",
    ]  # fmt: skip
    assert len({item.id for item in before}) == 7
    for gone in before[1:6]:
        after = items_of(without(conversation(), gone))
        assert [item.id for item in after] == [item.id for item in before if item is not gone]


def test_items_are_read_as_what_they_were_made_of() -> None:
    items = [Item.model_validate(entry.item) for entry in items_of(conversation())]
    assert messages_of(items).messages == conversation()
