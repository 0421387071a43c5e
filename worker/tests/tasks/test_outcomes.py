"""What an answer's text becomes: the events of its stream, the result, the conversation."""

import asyncio
import json
from dataclasses import replace
from typing import Any

import pytest

from shared.wire.chat import AssistantMessage, FunctionDefinition, Tool, UserMessage
from shared.wire.schemas import TokenEvent, ToolCallsEvent
from testbed.live_worker import StartLive
from testbed.lone_attempt import attempt_at, spelled
from testbed.task_client import TaskClient
from worker.engine_protocol import Output
from worker.engines.scripted.script import EOS
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
    result = await client.answer(task_id)
    assert len(result.tool_calls) == calls
    assert result.finish_reason == finish
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
    result = await client.answer(task_id)
    assert (result.cleaned_response_text, result.tool_calls) == (call, [])
    assert json.loads((await client.stream.read(task_id))[-3].data)["text"] == call
    stored = await client.conversations.load("tenant", "c1")
    assert stored is not None
    assert stored.messages == [*asked, AssistantMessage(role="assistant", content=call)]


CALL = '<tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>'
THOUGHT = f"Shall I? {CALL} Yes."
REASONING_TOKENS = len(f">\n{THOUGHT}\n</think>")
"""One a byte, from the one that makes the opening tag whole."""
ANSWER = f"<think>\n{THOUGHT}\n</think>\n\nHere:{CALL}"


async def test_reasoning_is_beside_the_text_everywhere_and_in_no_conversation(
    client: TaskClient, start_live: StartLive
) -> None:
    worker = await start_live(model_source="scripted:?token_ms=0")
    asked = [UserMessage(role="user", content="add")]
    task_id = await client.accept(f"!say {ANSWER}", tools=[ADD], conversation_id="c1", conversation=asked)

    verdict = await worker.runner.run(task_id)

    assert isinstance(verdict, Answered)
    result = await client.result(task_id)
    assert (result["cleaned_response_text"], result["reasoning"]) == ("Here:", THOUGHT)
    assert result["raw_response_text"] == ANSWER
    assert [call["arguments"] for call in result["tool_calls"]] == [{"a": 1}]
    assert result["usage"]["reasoning_tokens"] == REASONING_TOKENS
    entries = await client.stream.read(task_id)
    tokens = [json.loads(entry.data) for entry in entries if entry.type == "token" and entry.data]
    assert "".join(token["text"] for token in tokens) == "Here:"
    assert "".join(token.get("reasoning", "") for token in tokens) == THOUGHT
    outcome = json.loads(entries[-3].data)
    assert (outcome["text"], outcome["reasoning"]) == ("Here:", THOUGHT)
    stored = await client.conversations.load("tenant", "c1")
    assert stored is not None
    said = stored.messages[-1]
    assert isinstance(said, AssistantMessage)
    assert (said.content, len(said.tool_calls or [])) == ("Here:", 1)


async def test_what_has_no_reasoning_does_not_speak_of_it(client: TaskClient, start_live: StartLive) -> None:
    worker = await start_live(model_source="scripted:?token_ms=0")
    task_id = await client.accept("!say Paris.")

    verdict = await worker.runner.run(task_id)

    assert isinstance(verdict, Answered)
    assert "reasoning" not in await client.result(task_id)
    assert b"reasoning" not in b"".join(entry.data for entry in await client.stream.read(task_id))


async def test_an_attempt_goes_on_from_any_place_in_the_reasoning(client: TaskClient) -> None:
    tokens = spelled(ANSWER)
    for cut in range(1, len(tokens), 3):
        first, second = [await attempt_at(client, "hello", tools=[ADD]) for _ in range(2)]
        told = []
        for token in tokens[:cut]:
            first.take(Output(first.request_id, (token,)))
            told.append(first.writer.take())
        entries = [write.entry for write in told if write is not None]
        # The last entry of a worker that died has its tokens, but maybe not the text that they made visible.
        entries[-1] = replace(entries[-1], data=b"")
        second.resume(entries, [EOS])
        second.take(Output(second.request_id, (*tokens[cut:], EOS), "stop"))
        outcome = second.outcome("stop")
        rest = second.writer.take()
        events = [
            TokenEvent.model_validate_json(entry.data)
            for entry in [*entries, *([rest.entry] if rest else [])]
            if entry.data
        ]
        assert "".join(event.text for event in events) == outcome.text == "Here:"
        assert "".join(event.reasoning or "" for event in events) == outcome.reasoning == THOUGHT
        assert isinstance(outcome, ToolCallsEvent)
        assert outcome.usage.reasoning_tokens == REASONING_TOKENS


def doubling(levels: int) -> dict[str, Any]:
    twice = {f"a{at}": {"anyOf": [{"$ref": f"#/$defs/a{at + 1}"}] * 2} for at in range(levels)}
    return {"properties": {"a": {"$ref": "#/$defs/a0"}}, "$defs": {**twice, f"a{levels}": {"type": "string"}}}


NAMED_PART = {"$id": "T", "type": "object", "properties": {"n": {"$ref": "#/$defs/U"}}}
HOSTILE: list[tuple[dict[str, Any], str]] = [
    ({"properties": {"a": {"$ref": "#/$defs/T"}}, "$defs": {"T": NAMED_PART, "U": {}}}, '{"a": {"n": "x"}}'),
    ({"properties": {"a": {"$dynamicRef": "#nowhere"}}}, '{"a": 1}'),
    ({"properties": {"a": {"$ref": "#/required"}}, "required": ["a"]}, '{"a": 1}'),
    ({"properties": {"a": {"multipleOf": 0.01}}}, '{"a": NaN}'),
    ({"properties": {"a": {"pattern": r"^(\w+\s?)*$"}}}, '{"a": "' + "a" * 31 + '!"}'),
    ({"properties": {"a": {"pattern": r"^(?!x)(\w+\s?)*\1$"}}}, '{"a": "' + "a" * 300 + '!"}'),
    (doubling(60), '{"a": 7}'),
]


@pytest.mark.parametrize(("schema", "arguments"), HOSTILE)
async def test_a_call_that_cannot_be_judged_is_text_and_its_neighbours_miss_nothing(
    schema: dict[str, Any], arguments: str, client: TaskClient, start_live: StartLive
) -> None:
    worker = await start_live(model_source="scripted:?token_ms=0")
    reference = await client.accept("!tokens 60", seed=7)
    assert isinstance(await worker.runner.run(reference), Answered)
    undisturbed = await client.answer(reference)
    tool = Tool(type="function", function=FunctionDefinition(name="add", parameters={"type": "object", **schema}))
    call = f'<tool_call>{{"name": "add", "arguments": {arguments}}}</tool_call>'
    before = await client.accept("!tokens 60", seed=7)
    hostile = await client.accept(f"!say {call} That was it.", tools=[tool])
    behind = [await client.accept("!tokens 60", seed=7) for _ in range(5)]

    first, verdict, *others = await asyncio.gather(*map(worker.runner.run, [before, hostile, *behind]))

    assert isinstance(verdict, Answered)
    result = await client.answer(hostile)
    assert (result.cleaned_response_text, result.tool_calls) == (f"{call} That was it.", [])
    assert [first, *others] == [Answered()] * 6
    for task_id in (before, *behind):
        assert client.text(await client.stream.read(task_id)) == undisturbed.cleaned_response_text
