"""The five methods, against a real ledger and a stand-in for the worker."""

import asyncio
import base64
import json
from typing import Any

import httpx
from redis.asyncio import Redis

from api.rpc.methods import METHODS
from api.settings import Settings
from shared.celery_app import TASK_NAME, queue_for
from shared.store.event_stream import EventStream
from shared.store.keys import Keys
from shared.store.task_ledger import TaskLedger
from shared.store.worker_registry import WorkerRegistry
from shared.wire.schemas import (
    ErrorEvent,
    ModelCard,
    Timings,
    ToolCall,
    ToolCallsEvent,
    Usage,
)
from testbed.api_app import Call, StartApp
from testbed.fake_worker import FakeWorker

MODEL = "smollm2-135m-instruct"
TOOL = {"type": "function", "function": {"name": "time", "parameters": {"type": "object", "properties": {}}}}
USER = {"role": "user", "content": "What time is it?"}
CALL = {"id": "c1", "type": "function", "function": {"name": "time", "arguments": "{}"}}


async def stored(ledger: TaskLedger, task_id: str) -> dict[str, Any]:
    """The request as the worker will read it."""
    record = await ledger.get(task_id)
    assert record is not None
    request: dict[str, Any] = json.loads(record.request)
    return request


async def test_create_message_answers_with_the_id_of_a_task_that_waits_and_whose_message_is_sent(
    call: Call, ledger: TaskLedger, redis: Redis, keys: Keys
) -> None:
    reply = await call("create_message", message="hi")
    assert set(reply) == {"jsonrpc", "id", "result"}
    task_id = reply["result"]["taskId"]
    record = await ledger.get(task_id)
    assert record is not None
    assert (record.state, record.model, record.tenant, record.priority) == ("waiting", MODEL, "default", "normal")
    messages = await redis.lrange(keys.prefix + queue_for(MODEL, "normal"), 0, -1)
    assert len(messages) == 1
    message = json.loads(messages[0])
    assert (message["headers"]["id"], message["headers"]["task"]) == (task_id, TASK_NAME)
    args, kwargs, _ = json.loads(base64.b64decode(message["body"]))
    assert (args, kwargs) == ([task_id], {})


async def test_history_and_message_give_the_same_conversation_as_messages(call: Call, ledger: TaskLedger) -> None:
    history = [{"role": "system", "content": "Be brief."}, USER, {"role": "assistant", "content": "Noon."}]
    by_history = await call("create_message", history=history, message="Sure?")
    by_messages = await call("create_message", messages=[*history, {"role": "user", "content": "Sure?"}])
    requests = [await stored(ledger, reply["result"]["taskId"]) for reply in (by_history, by_messages)]
    assert requests[0] == requests[1]
    assert [message["content"] for message in requests[0]["messages"]] == [
        "Be brief.",
        "What time is it?",
        "Noon.",
        "Sure?",
    ]


async def test_every_parameter_reaches_the_worker(call: Call, ledger: TaskLedger, redis: Redis, keys: Keys) -> None:
    reply = await call(
        "create_message",
        message="hi",
        tools=[TOOL],
        toolChoice={"type": "function", "function": {"name": "time"}},
        model=MODEL,
        maxTokens=7,
        temperature=0.5,
        topP=0.9,
        topK=3,
        stop=["\n"],
        seed=-5,
        responseFormat={"type": "json_object"},
        priority="high",
        timeoutSeconds=12.5,
        metadata={"team": "a"},
        cancelOnDisconnect=True,
    )
    task_id = reply["result"]["taskId"]
    request = await stored(ledger, task_id)
    assert request["tools"][0]["function"]["name"] == "time"
    expected = {
        "toolChoice": {"type": "function", "function": {"name": "time"}},
        "maxTokens": 7,
        "temperature": 0.5,
        "topP": 0.9,
        "topK": 3,
        "stop": ["\n"],
        "seed": -5,
        "responseFormat": {"type": "json_object"},
        "priority": "high",
        "metadata": {"team": "a"},
        "cancelOnDisconnect": True,
    }
    assert {name: request[name] for name in expected} == expected
    record = await ledger.get(task_id)
    assert record is not None
    assert record.deadline - record.accepted_at == 12_500
    assert await redis.llen(keys.prefix + queue_for(MODEL, "high")) == 1


def test_the_positional_form_keeps_its_order() -> None:
    assert METHODS["create_message"].parameters == (
        *("messages", "history", "message", "tools", "toolChoice", "model", "conversationId"),
        *("maxTokens", "temperature", "topP", "topK", "stop", "seed"),
        *("responseFormat", "priority", "timeoutSeconds", "idempotencyKey", "metadata", "cancelOnDisconnect"),
        *("loopPrevention", "parallelToolCalls", "logprobs", "topLogprobs", "prompt", "echo", "store"),
    )
    assert METHODS["get_message"].parameters == METHODS["cancel_message"].parameters == ("taskId",)
    assert METHODS["tool_list"].parameters == METHODS["model_list"].parameters == ()


async def test_parameters_by_position_follow_the_documented_order(http: httpx.AsyncClient, ledger: TaskLedger) -> None:
    params = [None, [], "hi", [TOOL], "none", MODEL, None, 9]
    body = {"jsonrpc": "2.0", "id": 1, "method": "create_message", "params": params}
    request = await stored(ledger, (await http.post("/rpc", json=body)).json()["result"]["taskId"])
    assert (request["toolChoice"], request["maxTokens"]) == ("none", 9)


async def test_what_loop_prevention_did_is_stored_and_stands_in_the_first_event(
    call: Call, ledger: TaskLedger, redis: Redis, keys: Keys
) -> None:
    messages = [USER]
    for number in range(3):
        messages.append({"role": "assistant", "tool_calls": [CALL | {"id": f"c{number}"}]})  # type: ignore[dict-item]
        messages.append({"role": "tool", "tool_call_id": f"c{number}", "content": "12:00"})
    task_id = (await call("create_message", messages=messages, tools=[TOOL]))["result"]["taskId"]
    request = await stored(ledger, task_id)
    assert request["guard"]["toolsWithheld"] is True
    assert (request["tools"], request["toolChoice"]) == ([], "none")
    [entry, *_] = await EventStream(redis, keys).read(task_id)
    assert json.loads(entry.data)["guard"]["repeatedCallsRemoved"] == 2


async def test_the_same_idempotency_key_gives_the_same_task(call: Call, redis: Redis, keys: Keys) -> None:
    first, second = await asyncio.gather(*(call("create_message", message="hi", idempotencyKey="k") for _ in range(2)))
    assert first["result"] == second["result"]
    assert await redis.llen(keys.prefix + queue_for(MODEL, "normal")) == 1
    other = await call("create_message", message="hi", idempotencyKey="another")
    assert other["result"] != first["result"]


async def test_a_large_request_is_accepted_beside_small_ones(call: Call, ledger: TaskLedger) -> None:
    history = [USER, {"role": "assistant", "content": "Noon."}] * 900
    reply = await call("create_message", history=history, message="x" * 500_000, metadata={"a": "b"})
    assert len((await stored(ledger, reply["result"]["taskId"]))["messages"]) == 1801


async def test_get_message_tells_the_place_in_the_queue(call: Call, worker: FakeWorker) -> None:
    first, second = await worker.accept(), await worker.accept()
    reply = await call("get_message", taskId=second)
    assert reply["result"] == {"taskId": second, "state": "PENDING", "position": 2, "text": "", "index": 0}
    await worker.claim(first)
    assert (await call("get_message", taskId=second))["result"]["position"] == 1


async def test_get_message_tells_the_result(call: Call, worker: FakeWorker) -> None:
    task_id = await worker.begin()
    await worker.say(task_id, "do", "ne")
    await worker.end(task_id)
    result = (await call("get_message", taskId=task_id))["result"]
    assert (result["state"], result["text"], result["index"]) == ("SUCCESS", "done", 1)
    assert result["result"] == {
        "text": "done",
        "finishReason": "stop",
        "usage": {"promptTokens": 1, "completionTokens": 1, "cachedTokens": 0},
        "timings": {"queued": 0.0, "total": 0.0, "firstToken": 0.0},
    }
    assert "error" not in result


async def test_get_message_tells_tool_calls(call: Call, worker: FakeWorker, ledger: TaskLedger) -> None:
    task_id = await worker.begin()
    event = ToolCallsEvent(
        task_id=task_id,
        tool_calls=[ToolCall(id="c1", name="time", arguments={"zone": None})],
        text="",
        usage=Usage(prompt_tokens=1, completion_tokens=5),
        timings=Timings(queued=0, first_token=0, total=0),
    )
    await ledger.end(task_id, 1, "SUCCESS", event)
    result = (await call("get_message", taskId=task_id))["result"]
    assert result["index"] == 5
    assert result["result"]["toolCalls"][0]["id"] == "c1"


async def test_get_message_tells_the_error(call: Call, worker: FakeWorker, ledger: TaskLedger) -> None:
    task_id = await worker.begin()
    await worker.say(task_id, "Hel")
    await ledger.end(
        task_id, 1, "FAILURE", ErrorEvent(task_id=task_id, code="internal", message="Oh.", retryable=False)
    )
    assert (await call("get_message", taskId=task_id))["result"] == {
        "taskId": task_id,
        "state": "FAILURE",
        "text": "Hel",
        "index": 1,
        "error": {"code": "internal", "message": "Oh.", "retryable": False},
    }


async def test_cancel_message_tells_whether_the_task_is_cancelled_and_its_state(call: Call, worker: FakeWorker) -> None:
    waiting, ended = await worker.accept(), await worker.begin()
    await worker.end(ended)
    assert (await call("cancel_message", taskId=waiting))["result"] == {"cancelled": True, "state": "REVOKED"}
    assert (await call("cancel_message", taskId=ended))["result"] == {"cancelled": False, "state": "SUCCESS"}


async def test_tool_list_is_the_catalogue(call: Call, start_app: StartApp, settings: Settings) -> None:
    assert (await call("tool_list"))["result"] == []
    catalogue = type(settings)(redis_url=settings.redis_url, tool_catalogue=json.dumps([TOOL])).tool_catalogue
    async with start_app(tool_catalogue=catalogue) as http:
        reply = await http.post("/rpc", json={"jsonrpc": "2.0", "id": 1, "method": "tool_list"})
    assert reply.json()["result"] == [TOOL]


async def test_model_list_tells_the_models_and_their_abilities(
    call: Call, registry: WorkerRegistry, card: ModelCard
) -> None:
    await registry.announce("w1", card)
    assert (await call("model_list"))["result"]["models"] == [
        {
            "name": MODEL,
            "default": True,
            "ready": True,
            "readyWorkers": 1,
            "waiting": 0,
            "running": 0,
            "detail": None,
            "contextLength": 100,
            "abilities": {"tools": "prompt", "responseFormat": True, "seeds": True, "vision": False},
            "sampling": {"temperature": 0.0, "topP": 1.0, "topK": 0},
        },
    ]


async def test_a_conversation_is_looked_at_and_deleted(call: Call, worker: FakeWorker) -> None:
    reply = await call("create_message", conversationId="c", history=[], message="hi")
    task_id = reply["result"]["taskId"]
    opened = (await call("get_conversation", conversationId="c"))["result"]
    assert opened == {"conversationId": "c", "messages": [], "openTurn": task_id, "metadata": {}}
    busy = await call("delete_conversation", conversationId="c")
    assert (busy["error"]["code"], busy["error"]["data"]["taskId"]) == (-32010, task_id)
    await worker.answer(task_id, "hello")
    stored = (await call("get_conversation", conversationId="c"))["result"]
    assert [message["content"] for message in stored["messages"]] == ["hi", "hello"]
    assert "openTurn" not in stored
    assert (await call("delete_conversation", conversationId="c"))["result"] == {"deleted": True}
    assert (await call("delete_conversation", conversationId="c"))["result"] == {"deleted": False}
    assert (await call("get_conversation", conversationId="c"))["error"]["code"] == -32008
