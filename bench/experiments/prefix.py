"""Target 7: the second turn of a long conversation finds the first one's keys and values in the cache."""

import json
import random
from typing import Any

from bench.experiments import Scale
from bench.http_connection import HttpConnection
from bench.interleave import interleaved
from bench.load import closed_loop
from bench.measures import Metrics, Timeline, ratio
from bench.results_file import Result
from bench.servers import Server, headrace
from bench.trace import TOOL, WORDS, Turn, stories
from shared.wire.task_view import TaskView


async def prefix(scale: Scale) -> Result:
    """Time to first token of turn one (2,000 tokens, nothing cached), of turn two, and of a tool's result."""
    result = Result("prefix", "python -m bench run prefix")
    async with headrace() as server:
        await closed_loop(server.ask, stories("warm", 2, 8), 1)
        found = await interleaved({"conversation": lambda n: _conversation(server, n)}, scale.repetitions)
    turns = found["conversation"]
    result.add_arm("conversation of 2,000 tokens", turns)
    for name, metric in (("second turn", "second_ms"), ("tool round", "tool_ms")):
        share = ratio([{"x": t[metric]} for t in turns], [{"x": t["first_ms"]} for t in turns], "x")
        result.add_ratio(f"first token of the {name} over that of the first turn", share, 0.2, at_least=False)
    return result


async def _conversation(server: Server, number: int) -> Metrics:
    text = " ".join(random.Random(number).choices(WORDS, k=1900))
    messages: list[dict[str, Any]] = [{"role": "user", "content": f"Remember this text: {text}"}]
    first, answer, prompt, _ = await _turn(server, Turn(messages, 16, tools=[TOOL]))
    messages += [{"role": "assistant", "content": answer}, {"role": "user", "content": "Which word was the first?"}]
    second, answer, _, cached = await _turn(server, Turn(messages, 16, tools=[TOOL]))
    call = {"id": "call_1", "type": "function", "function": {"name": "look_up", "arguments": '{"thing": "it"}'}}
    messages += [
        {"role": "assistant", "content": answer, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "It is a word of the text."},
    ]
    tool, _, _, tool_cached = await _turn(server, Turn(messages, 16, tools=[TOOL]))
    return {
        "prompt_tokens": prompt,
        "first_ms": round(1000 * first.first_token, 1),
        "second_ms": round(1000 * second.first_token, 1),
        "second_cached_tokens": cached,
        "tool_ms": round(1000 * tool.first_token, 1),
        "tool_cached_tokens": tool_cached,
    }


async def _turn(server: Server, turn: Turn) -> tuple[Timeline, str, int, int]:
    """The timeline, the answer, and how many prompt tokens there were and how many of them were cached."""
    connection = HttpConnection("127.0.0.1", server.port)
    timeline = await server.ask(turn)
    assert not timeline.error, timeline.error
    call = {"jsonrpc": "2.0", "id": 1, "method": "get_message", "params": {"taskId": timeline.task_id}}
    _, reply = await connection.request("POST", "/rpc", json.dumps(call).encode())
    connection.close()
    result = TaskView.model_validate(json.loads(reply)["result"]).result
    assert result is not None, reply
    return timeline, result.text or "Yes.", result.usage.prompt_tokens, result.usage.cached_tokens
