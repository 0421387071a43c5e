"""What an answer's text becomes: the events of its stream, the result, the conversation."""

import json
from typing import Any

import pytest

from shared.wire.chat import AssistantMessage, FunctionDefinition, Tool, UserMessage
from testbed.live_worker import StartLive
from testbed.task_client import TaskClient
from worker.tasks.outcomes import Answered

ADD = Tool(type="function", function=FunctionDefinition(name="add", parameters={"type": "object"}))


@pytest.mark.parametrize(
    ("answer", "options", "finish", "calls"),
    [
        ('<tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>', {"stop": "</tool_call>"}, "stop_sequence", 1),
        ('<tool_call>{"name": "add", "arguments": {"a": [1, 2]}}</tool_call>', {"stop": ["]"]}, "stop_sequence", 0),
        ('<tool_call>{"name": "add", "arguments": {"xs": [' + "0," * 800, {}, "loop", 0),
        ('<tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>' + " la" * 800, {}, "loop", 1),
        ('<tool_call>{"name": "add", "arguments": {"a": 1', {"max_tokens": 45}, "length", 0),
    ],
)
async def test_only_a_call_that_was_finished_before_the_cut_is_one(
    answer: str, options: dict[str, Any], finish: str, calls: int, client: TaskClient, start_live: StartLive
) -> None:
    worker = await start_live(model_source="scripted:?token_ms=0", stop_loops=True)
    task_id = await client.accept(f"!say {answer}", tools=[ADD], **options)

    verdict = await worker.runner.run(task_id)

    assert isinstance(verdict, Answered)
    assert len(verdict.result.tool_calls) == calls
    assert verdict.result.finish_reason == finish
    outcome = json.loads((await client.stream.read(task_id))[-3].data)
    assert (outcome["type"], outcome["finishReason"]) == ("tool_calls" if calls else "final_text", finish)


@pytest.mark.parametrize("value", ["NaN", "[1, -Infinity]", "1e999", '"a \\ud83d b"', "[" * 300 + "]" * 300])
async def test_arguments_that_json_cannot_hold_are_an_answer_like_any_other(
    value: str, client: TaskClient, start_live: StartLive
) -> None:
    worker = await start_live(model_source="scripted:?token_ms=0")
    asked = [UserMessage(role="user", content="add")]
    call = f'<tool_call>{{"name": "add", "arguments": {{"a": {value}}}}}</tool_call>'
    task_id = await client.accept(f"!say {call}", tools=[ADD], conversation_id="c1", conversation=asked)

    verdict = await worker.runner.run(task_id)

    assert isinstance(verdict, Answered)
    assert (verdict.result.cleaned_response_text, verdict.result.tool_calls) == (call, [])
    assert json.loads((await client.stream.read(task_id))[-3].data)["text"] == call
    stored = await client.conversations.load("tenant", "c1")
    assert stored is not None
    assert stored.messages == [*asked, AssistantMessage(role="assistant", content=call)]
