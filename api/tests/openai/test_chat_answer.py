"""Events of a task become what OpenAI's own client reads."""

from typing import Any

import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from api.openai.answer import Identity
from api.openai.chat_answer import ChatChunks, chat_completion
from api.openai.framing import data
from shared.store.task_id import new_task_id
from testbed.oracle import DOORS

IDENTITY = Identity(new_task_id(), "m", "revision-1")
USAGE = {"promptTokens": 7, "completionTokens": 5, "cachedTokens": 3}
TIMINGS = {"queued": 0.1, "total": 1.0}
CALL = {"id": "call_1", "name": "get_weather", "arguments": {"city": "Köln"}}


def token(text: str, index: int, **more: Any) -> dict[str, Any]:
    return {"type": "token", "taskId": IDENTITY.task_id, "text": text, "index": index, **more}


def final(text: str, reason: str = "stop", **more: Any) -> dict[str, Any]:
    return {
        "type": "final_text", "taskId": IDENTITY.task_id, "text": text, "finishReason": reason, "usage": USAGE,
        "timings": TIMINGS, **more,
    }  # fmt: skip


def calls(text: str = "") -> dict[str, Any]:
    return {
        "type": "tool_calls", "taskId": IDENTITY.task_id, "toolCalls": [CALL], "text": text, "usage": USAGE,
        "timings": TIMINGS, "finishReason": "stop",
    }  # fmt: skip


def streamed(*events: dict[str, Any], include_usage: bool = False) -> list[ChatCompletionChunk]:
    chunks = ChatChunks(IDENTITY, include_usage=include_usage)
    judged = DOORS["/v1/"].stream("POST", "/v1/chat/completions")
    made = []
    for chunk in (chunk for event in events for chunk in chunks.of_event(event)):
        assert list(judged.feed(data(chunk))) == []
        made.append(ChatCompletionChunk.model_validate(chunk))
    return made


def test_a_text_answer_comes_as_role_contents_and_finish() -> None:
    chunks = streamed(token("Hel", 1), token("lo", 2), final("Hello"))
    assert [chunk.choices[0].delta.role for chunk in chunks] == ["assistant", None, None, None]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "Hello"
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None, None, None, "stop"]
    assert len({(chunk.id, chunk.created, chunk.model, chunk.system_fingerprint) for chunk in chunks}) == 1
    assert all("usage" not in chunk.model_fields_set for chunk in chunks)


def test_usage_comes_last_and_alone_where_it_was_asked_for() -> None:
    *before, last = streamed(token("Hi", 1), final("Hi"), include_usage=True)
    assert all(chunk.usage is None and "usage" in chunk.model_fields_set for chunk in before)
    assert last.choices == []
    assert last.usage is not None
    assert (last.usage.prompt_tokens, last.usage.completion_tokens, last.usage.total_tokens) == (7, 5, 12)
    assert last.usage.prompt_tokens_details is not None
    assert last.usage.prompt_tokens_details.cached_tokens == 3


def test_the_name_and_id_of_a_call_come_once_and_its_arguments_behind_them() -> None:
    role, head, arguments, end = streamed(calls())
    assert role.choices[0].delta.content is None
    assert head.choices[0].delta.to_dict() == {
        "tool_calls": [
            {"index": 0, "id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": ""}}
        ]
    }
    assert arguments.choices[0].delta.to_dict() == {
        "tool_calls": [{"index": 0, "function": {"arguments": '{"city": "Köln"}'}}]
    }
    assert end.choices[0].finish_reason == "tool_calls"


@pytest.mark.parametrize(("ours", "theirs"), [("stop_sequence", "stop"), ("loop", "stop"), ("length", "length")])
def test_reasons_that_openai_does_not_know_are_stop(ours: str, theirs: str) -> None:
    assert streamed(final("x", ours))[-1].choices[0].finish_reason == theirs


def test_reasoning_is_told_apart_under_both_names() -> None:
    chunks = streamed(token("", 1, reasoning="hmm"), token("4", 2), final("4", reasoning="hmm"))
    assert chunks[1].choices[0].delta.to_dict() == {"reasoning": "hmm", "reasoning_content": "hmm"}
    whole = ChatCompletion.model_validate(chat_completion(IDENTITY, final("4", reasoning="hmm")))
    assert whole.choices[0].message.to_dict()["reasoning_content"] == "hmm"


def test_a_whole_answer_reads_as_its_chunks_do() -> None:
    whole = ChatCompletion.model_validate(chat_completion(IDENTITY, calls()))
    assert whole.object == "chat.completion"
    assert whole.choices[0].message.content is None
    assert whole.choices[0].message.tool_calls is not None
    assert whole.choices[0].message.tool_calls[0].to_dict() == {
        "id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Köln"}'}
    }  # fmt: skip
    assert whole.id == streamed(calls())[0].id


def test_an_event_that_shows_nothing_makes_no_chunk() -> None:
    assert streamed({"type": "status", "state": "STARTED", "attempt": 1}, token("", 3)) == []


def test_calls_that_were_cut_short_end_as_length() -> None:
    cut = calls() | {"finishReason": "length"}
    assert streamed(cut)[-1].choices[0].finish_reason == "length"
    assert chat_completion(IDENTITY, cut)["choices"][0]["finish_reason"] == "length"  # type: ignore[index, call-overload]


def test_a_token_that_is_a_part_of_a_character_has_its_bytes() -> None:
    part = {"token": "\\xf0\\x9f", "bytes": [0xF0, 0x9F], "logprob": -1.0, "topLogprobs": []}
    [_, chunk] = streamed(token("", 1, logprobs=[part]))
    assert chunk.choices[0].logprobs is not None
    assert chunk.choices[0].logprobs.content is not None
    assert chunk.choices[0].logprobs.content[0].bytes == [0xF0, 0x9F]
