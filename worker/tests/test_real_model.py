import json
from typing import Any

import pytest

from shared.wire.chat import FunctionDefinition, Tool
from shared.wire.schemas import ErrorEvent
from testbed.real_engine import TRAINED
from testbed.task_client import TaskClient
from testbed.worker_process import StartWorker
from worker.engine_options import PACKAGED_MODEL

WEATHER = Tool(
    type="function",
    function=FunctionDefinition(
        name="get_weather",
        description="The weather in a city",
        parameters={"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    ),
)
ZEROS: dict[str, Any] = {"type": "array", "items": {"const": 0}, "minItems": 100, "maxItems": 100}
DAYS: dict[str, Any] = {
    "type": "array",
    "items": {"enum": ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"]},
    "minItems": 4,
    "maxItems": 4,
    "uniqueItems": True,
}


def demanded(schema: dict[str, Any]) -> dict[str, Any]:
    """A `response_format`."""
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}


async def test_the_packaged_model_answers_calls_tools_and_goes_on_where_an_attempt_stopped(
    client: TaskClient, start_worker: StartWorker
) -> None:
    """One test, because a worker with a model takes seconds to start."""
    await start_worker(
        engine=TRAINED, model_source=PACKAGED_MODEL, engine_stall_seconds=60, threads=2, startup_seconds=240
    )

    question = await client.submit("What is the capital of France?")
    called = await client.submit("What is the weather in Paris?", tools=[WEATHER], tool_choice="required")
    endless = await client.submit("Tell me a story.", temperature=0, max_tokens=60)
    too_long = await client.submit("word " * 9000)
    zeros = await client.submit(
        "Zeros.", temperature=0, max_tokens=600, response_format=demanded(ZEROS), timeout_seconds=240
    )
    days = await client.submit("Pick a weekday.", temperature=0, seed=1, response_format=demanded(DAYS))

    assert "Paris" in (await client.result(question, 120))["cleaned_response_text"]
    call = (await client.result(called, 120))["tool_calls"][0]
    assert call["name"] == "get_weather"
    assert isinstance(call["arguments"]["city"], str)
    whole = await client.result(endless, 120)
    with pytest.raises(Exception, match="tokens"):
        await client.result(too_long, 120)
    record = await client.ended(too_long)
    assert ErrorEvent.model_validate_json(record.outcome).code == "context_too_long"

    # Longer than what the watch over loops lets pass.
    assert json.loads((await client.result(zeros, 240))["cleaned_response_text"]) == [0] * 100
    # Greedily it writes the same day four times, which no grammar of seven values forbids.
    picked = json.loads((await client.result(days, 120))["cleaned_response_text"])
    assert len(set(picked)) == len(picked) == 4
    record = await client.ended(days)
    assert (record.wire_state, record.redraws) == ("SUCCESS", 1)
    texts = [entry.data for entry in await client.stream.read(days) if entry.type == "token" and entry.data]
    assert len(texts) == 1, "nothing of the refused document was shown"

    again = await client.submit("Tell me a story.", temperature=0, max_tokens=60)
    await client.streaming(again, 10, 120)
    requeued = await client.take_from_live(again)
    await client.send(again, "handover")
    continued = await client.result(again, 120)

    assert requeued == "requeued"
    assert (await client.ended(again)).attempt == 2
    assert continued["cleaned_response_text"] == whole["cleaned_response_text"]
    entries = await client.stream.read(again)
    assert client.text(entries) == whole["cleaned_response_text"]
