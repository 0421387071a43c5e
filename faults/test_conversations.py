"""One stored conversation that many clients use at once, through two replicas, while workers die."""

import asyncio
from functools import partial
from typing import Any

import pytest
from redis.asyncio import Redis

from shared.store.conversations import Conversations
from shared.store.keys import Keys
from testbed.stack import Stack
from testbed.waiting import until

MESSAGES = 20
WORKER = "scripted:?token_ms=5"


@pytest.mark.slow
async def test_no_message_of_a_shared_conversation_is_lost_when_its_workers_are_killed(
    headrace: Stack, redis: Redis, keys: Keys
) -> None:
    await headrace.start_api()
    await headrace.start_worker(WORKER)
    await headrace.start_worker(WORKER)
    answered: list[int] = []

    async def ended(task_id: str) -> bool:
        reply = await headrace.rpc("get_message", {"taskId": task_id})
        return reply["result"]["state"] in ("SUCCESS", "FAILURE", "REVOKED")

    async def send(number: int, **more: Any) -> None:
        said = f"!say This is the answer number {number}."
        params: dict[str, Any] = {"conversationId": "c", "timeoutSeconds": 60, "message": said, **more}
        while "error" in (reply := await headrace.rpc("create_message", params, replica=number % 2)):
            assert reply["error"]["code"] == -32010, reply
            if turn := reply["error"]["data"].get("taskId"):
                await until(lambda: ended(turn), 60, f"the end of {turn}")
        task_id = reply["result"]["taskId"]
        await until(lambda: ended(task_id), 60, f"the end of {task_id}")
        answered.append(number)

    def have_been_answered(count: int) -> bool:
        return len(answered) >= count

    await send(0, history=[])
    async with asyncio.TaskGroup() as group:
        for number in range(1, MESSAGES + 1):
            group.create_task(send(number))
        for killed, victim in enumerate(list(headrace.workers), 1):
            await until(partial(have_been_answered, 5 * killed), 60, "five more answers")
            victim.kill()
            await headrace.start_worker(WORKER)

    stored = await Conversations(redis, keys).load("default", "c")
    assert stored is not None
    assert [message.role for message in stored.messages] == ["user", "assistant"] * (MESSAGES + 1)
    said = [str(message.content) for message in stored.messages]
    assert said[::2] == [f"!say {answer}" for answer in said[1::2]]
    assert sorted(said[1::2]) == sorted(f"This is the answer number {number}." for number in range(MESSAGES + 1))
