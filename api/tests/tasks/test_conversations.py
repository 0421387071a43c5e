"""Requests that go on with a stored conversation, and requests that are sent again."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from redis.asyncio import Redis

from shared.cancellation import cancel_and_wait
from shared.store.conversations import Conversations
from shared.store.keys import Keys
from shared.store.task_ledger import TaskLedger
from shared.store.task_lists import TaskLists
from shared.wire.chat import FunctionCall, MessageToolCall
from testbed.api_app import Call, StartApp, rpc
from testbed.api_replica import StartReplica
from testbed.fake_worker import DEFAULT_MODEL, FakeWorker
from testbed.waiting import until

BUSY = -32010
USER = {"role": "user", "content": "What time is it?"}
TOOL = {"type": "function", "function": {"name": "time"}}
CALL = MessageToolCall(id="c1", function=FunctionCall(name="time", arguments="{}"))
RESULT = {"role": "tool", "tool_call_id": "c1", "content": "12:00"}
GOING_ON: dict[str, Any] = {"messages": [RESULT], "tools": [TOOL], "conversationId": "c"}
"""What a client sends when it has run the tool."""


async def accepted(reply: dict[str, Any]) -> str:
    assert "result" in reply, reply
    return str(reply["result"]["taskId"])


async def request_of(ledger: TaskLedger, task_id: str) -> dict[str, Any]:
    """The request as the worker will read it."""
    record = await ledger.get(task_id)
    assert record is not None
    request: dict[str, Any] = json.loads(record.request)
    return request


@pytest.fixture
def conversations(redis: Redis, keys: Keys) -> Conversations:
    return Conversations(redis, keys)


async def test_a_stored_conversation_goes_on_with_a_message(call: Call, worker: FakeWorker, ledger: TaskLedger) -> None:
    first = await accepted(await call("create_message", history=[], message="I am Ada.", conversationId="c"))
    await worker.answer(first, "Hello Ada.")
    second = await accepted(await call("create_message", message="Who am I?", conversationId="c"))
    request = await request_of(ledger, second)
    assert [message["content"] for message in request["messages"]] == ["I am Ada.", "Hello Ada.", "Who am I?"]
    assert request["conversation"] == request["messages"]


async def test_messages_replace_a_stored_conversation(call: Call, worker: FakeWorker, ledger: TaskLedger) -> None:
    first = await accepted(await call("create_message", messages=[USER], conversationId="c"))
    await worker.answer(first, "Noon.")
    second = await accepted(await call("create_message", messages=[USER], conversationId="c"))
    assert len((await request_of(ledger, second))["messages"]) == 1


async def test_results_of_tools_go_on_with_a_stored_conversation(
    call: Call, worker: FakeWorker, ledger: TaskLedger
) -> None:
    await worker.answer(
        await accepted(await call("create_message", messages=[USER], tools=[TOOL], conversationId="c")), "", CALL
    )
    request = await request_of(ledger, await accepted(await call("create_message", **GOING_ON)))
    assert [message["role"] for message in request["messages"]] == ["user", "assistant", "tool"]
    missing = await call("create_message", **GOING_ON | {"conversationId": "another"})
    assert missing["error"]["code"] == -32008


async def test_another_tenants_conversation_is_not_found(start_app: StartApp, worker: FakeWorker) -> None:
    async with start_app(api_keys={"key-a": "a", "key-b": "b"}) as http:
        started = await rpc(http, "create_message", {"messages": [USER], "conversationId": "c"}, key="key-a")
        await worker.answer(await accepted(started), "Noon.")
        going_on = {"message": "?", "conversationId": "c"}
        assert (await rpc(http, "create_message", going_on, key="key-b"))["error"]["code"] == -32008
        assert "result" in await rpc(http, "create_message", going_on, key="key-a")


STARTED: dict[str, Any] = {"history": [], "message": "a", "conversationId": "c"}


@pytest.mark.parametrize(
    "second",
    [STARTED, {"messages": [USER], "conversationId": "c"}, {"message": "b", "conversationId": "c"}, GOING_ON],
    ids=["history", "messages", "message", "tool result"],
)
async def test_a_message_that_comes_before_the_answer_to_the_last_one_is_to_be_sent_again(
    call: Call, worker: FakeWorker, conversations: Conversations, second: dict[str, Any]
) -> None:
    turn = await accepted(await call("create_message", **STARTED))
    error = (await call("create_message", **second))["error"]
    assert error["code"] == BUSY
    assert error["data"] == {"retryable": True, "retryAfterSeconds": 1, "taskId": turn}
    await worker.answer(turn, "A", CALL)
    stored = await conversations.load("default", "c")
    assert stored is not None
    assert len(stored.messages) == 2
    again = await call("create_message", **second)
    assert "result" in again or again["error"]["code"] == -32602, "only `message` cannot follow a tool call"


async def test_a_turn_with_tool_results_keeps_a_message_waiting_instead_of_calling_it_wrong(
    call: Call, worker: FakeWorker
) -> None:
    await worker.answer(await accepted(await call("create_message", **STARTED, tools=[TOOL])), "", CALL)
    await accepted(await call("create_message", **GOING_ON))
    assert (await call("create_message", message="b", conversationId="c"))["error"]["code"] == BUSY


async def test_a_cancelled_turn_leaves_the_conversation_free(call: Call) -> None:
    turn = await accepted(await call("create_message", **STARTED))
    assert (await call("cancel_message", taskId=turn))["result"]["cancelled"]
    assert await accepted(await call("create_message", **STARTED))


async def test_a_refused_message_keeps_nobody_waiting(start_app: StartApp) -> None:
    async with start_app(max_waiting=0) as full:
        assert (await rpc(full, "create_message", STARTED))["error"]["code"] == -32003
    async with start_app() as http:
        assert await accepted(await rpc(http, "create_message", STARTED))


async def test_twenty_messages_at_once_at_two_replicas_are_all_answered_once(
    start_replica: StartReplica, worker: FakeWorker, redis: Redis, keys: Keys, conversations: Conversations
) -> None:
    replicas = [await start_replica(), await start_replica()]
    ledger, lists = worker.ledger, TaskLists(redis, keys)
    async with httpx.AsyncClient(timeout=20) as http:

        async def create(number: int, **params: Any) -> dict[str, Any]:
            body = {"jsonrpc": "2.0", "id": 1, "method": "create_message", "params": params}
            reply: dict[str, Any] = (await http.post(f"{replicas[number % 2].url}/rpc", json=body)).json()
            return reply

        async def send(number: int) -> None:
            while "error" in (reply := await create(number, message=f"m{number}", conversationId="c")):
                assert reply["error"]["code"] == BUSY, reply
                if turn := reply["error"]["data"].get("taskId"):
                    await until(lambda: has_ended(turn))

        async def has_ended(turn: str) -> bool:
            record = await ledger.get(turn)
            return record is not None and record.state == "ended"

        async def answer_all() -> None:
            while True:
                [task_id] = await until(lambda: lists.waiting(DEFAULT_MODEL))
                await worker.answer(task_id, "A")

        answering = asyncio.create_task(answer_all())
        started = await accepted(await create(0, history=[], message="m", conversationId="c"))
        await until(lambda: has_ended(started))
        await asyncio.gather(*(send(number) for number in range(20)))
        await until(lambda: none_waits(lists))
        await cancel_and_wait(answering)
    stored = await conversations.load("default", "c")
    assert stored is not None
    assert [message.role for message in stored.messages] == ["user", "assistant"] * 21
    asked = [message.content for message in stored.messages[2::2]]
    assert sorted(map(str, asked)) == sorted(f"m{number}" for number in range(20))


async def none_waits(lists: TaskLists) -> bool:
    return (await lists.load(DEFAULT_MODEL)).work == 0


@pytest.fixture
async def memory_limit(redis: Redis) -> AsyncIterator[None]:
    """A bound of Redis's memory, far away."""
    await redis.config_set("maxmemory", 10**12)
    yield
    await redis.config_set("maxmemory", 0)


@pytest.mark.parametrize(
    ("settings_now", "refusal"),
    [
        ({"tenant_rate": "1/hour"}, -32004),
        ({"max_waiting": 0}, -32003),
        ({"max_tenant_tasks": 1}, -32004),
        ({"memory_threshold": 1e-9}, -32007),
        ({"models": ("another",)}, -32005),
        ({"max_timeout_seconds": 1.0}, -32602),
    ],
    ids=lambda settings: next(iter(settings)) if isinstance(settings, dict) else "",
)
async def test_a_request_that_was_accepted_is_answered_with_its_task_whatever_has_changed_since(
    start_app: StartApp,
    worker: FakeWorker,
    redis: Redis,
    keys: Keys,
    settings_now: dict[str, Any],
    refusal: int,
    memory_limit: None,
) -> None:
    with_key = GOING_ON | {"idempotencyKey": "k", "timeoutSeconds": 30, "model": DEFAULT_MODEL}
    async with start_app() as http:
        first = await rpc(http, "create_message", {"messages": [USER], "tools": [TOOL], "conversationId": "c"})
        await worker.answer(await accepted(first), "", CALL)
        task_id = await accepted(await rpc(http, "create_message", with_key))
        assert await accepted(await rpc(http, "create_message", with_key)) == task_id
        await worker.answer(task_id, "It is noon.")
        await accepted(await rpc(http, "create_message", {"message": "another one that waits"}))
    async with start_app(**settings_now) as http:
        for _ in range(3):
            assert await accepted(await rpc(http, "create_message", with_key)) == task_id
        await redis.delete(keys.conversation("default", "c"))
        assert await accepted(await rpc(http, "create_message", with_key)) == task_id
        new = {"message": "new", "model": DEFAULT_MODEL, "timeoutSeconds": 30}
        assert [(await rpc(http, "create_message", new)).get("error", {}).get("code") for _ in range(2)][1] == refusal
        other = await rpc(http, "create_message", with_key | {"temperature": 1})
        assert other["error"]["data"]["errors"][0]["path"] == "idempotencyKey"
