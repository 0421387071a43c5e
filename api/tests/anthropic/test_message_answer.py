"""Events of a task become what Anthropic's own client reads."""

from typing import Any

from anthropic.types import Message, RawMessageStreamEvent
from pydantic import TypeAdapter

from api.anthropic.message_answer import MessageEvents, message
from api.anthropic.messages import named
from testbed.oracle import DOORS

EVENT: TypeAdapter[RawMessageStreamEvent] = TypeAdapter(RawMessageStreamEvent)
USAGE = {"promptTokens": 7, "completionTokens": 5, "cachedTokens": 3}
CALL = {"id": "call_1", "name": "get_weather", "arguments": {"city": "Köln"}}


def final(text: str, reason: str = "stop", **more: Any) -> dict[str, Any]:
    return {"type": "final_text", "text": text, "finishReason": reason, "usage": USAGE, **more}


def calls(text: str = "") -> dict[str, Any]:
    return {"type": "tool_calls", "toolCalls": [CALL], "text": text, "usage": USAGE, "finishReason": "stop"}


def streamed(*events: dict[str, Any]) -> list[dict[str, Any]]:
    answer = MessageEvents("task", "m")
    judged = DOORS["/v1/messages"].stream("POST", "/v1/messages")
    made = []
    for one in (one for event in events for one in answer.of_event(event)):
        EVENT.validate_python(one)
        assert list(judged.feed(named(one))) == []
        made.append(one)
    return made


def test_a_text_answer_is_one_block_between_start_and_stop() -> None:
    made = streamed({"type": "token", "text": "Hel", "index": 1}, {"type": "token", "text": "lo"}, final("Hello"))
    assert [one["type"] for one in made] == [
        "message_start", "content_block_start", "content_block_delta", "content_block_delta", "content_block_stop",
        "message_delta", "message_stop",
    ]  # fmt: skip
    assert (made[-2]["delta"]["stop_reason"], made[-2]["delta"]["stop_sequence"]) == ("end_turn", None)
    assert made[-2]["usage"]["input_tokens"] == 4
    assert made[-2]["usage"]["cache_read_input_tokens"] == 3


def test_thoughts_text_and_each_call_are_blocks_of_their_own() -> None:
    both = calls("Look") | {"toolCalls": [CALL, CALL | {"id": "call_2"}]}
    made = streamed({"type": "token", "text": "", "reasoning": "hm"}, {"type": "token", "text": "Look"}, both)
    starts = [one for one in made if one["type"] == "content_block_start"]
    assert [one["content_block"]["type"] for one in starts] == ["thinking", "text", "tool_use", "tool_use"]
    assert [one["index"] for one in starts] == [0, 1, 2, 3]
    stops = [one["index"] for one in made if one["type"] == "content_block_stop"]
    assert stops == [0, 1, 2, 3]
    assert made[-2]["delta"]["stop_reason"] == "tool_use"


def test_an_empty_answer_still_has_a_block() -> None:
    assert [one["type"] for one in streamed(final(""))][1:3] == ["content_block_start", "content_block_stop"]


def test_a_whole_message_is_what_the_client_knows() -> None:
    whole = Message.model_validate(message("task", "m", calls("Look")))
    assert [block.type for block in whole.content] == ["text", "tool_use"]
    assert whole.stop_reason == "tool_use"
    cut = Message.model_validate(message("task", "m", final("x", "length")))
    assert cut.stop_reason == "max_tokens"
    stopped = Message.model_validate(message("task", "m", final("x", "stop_sequence", stopSequence="END")))
    assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", "END")
    calls_cut = Message.model_validate(message("task", "m", calls() | {"finishReason": "length"}))
    assert calls_cut.stop_reason == "max_tokens"


def test_what_loop_prevention_did_is_told() -> None:
    guard = {"toolsWithheld": True}
    assert Message.model_validate(message("task", "m", final("x", guard=guard))).to_dict()["guard"] == guard
    start, *_ = streamed({"type": "status", "state": "PENDING", "guard": guard}, final("x"))
    assert start["message"]["guard"] == guard
