"""`/v1/conversations` as OpenAI's own client calls it: made, gone on with one turn at a time, changed, deleted."""

import asyncio
from collections import Counter
from typing import Any

import httpx
import openai
import pytest
from openai.types.responses import Response

from api.tenants.key_file import sha256_of
from shared.wire.schemas import ToolCall
from testbed.api_app import rpc
from testbed.api_replica import Replica, StartReplica
from testbed.fake_worker import DEFAULT_MODEL, FakeWorker
from testbed.waiting import until


def sdk(replica: Replica, *, api_key: str = "none") -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{replica.url}/v1", max_retries=0, timeout=20, api_key=api_key)


async def turn(
    client: openai.AsyncOpenAI, replica: Replica, worker: FakeWorker, said: str, conversation: str
) -> Response:
    """A message to the conversation, answered in capitals."""
    asked = asyncio.create_task(client.responses.create(model=DEFAULT_MODEL, input=said, conversation=conversation))

    async def waits() -> list[str]:
        return await replica.backend.lists.waiting(DEFAULT_MODEL)

    [task_id] = await until(waits, 5, "the task waits")
    await worker.claim(task_id)
    await worker.complete(task_id, said.upper())
    return await asked


async def texts(client: openai.AsyncOpenAI, conversation: str) -> list[str]:
    listed = [item async for item in client.conversations.items.list(conversation, order="asc")]
    return [item.content[0].text for item in listed if item.type == "message"]  # type: ignore[union-attr]


async def test_a_conversation_grows_turn_by_turn(start_replica: StartReplica, worker: FakeWorker) -> None:
    replica = await start_replica()
    async with sdk(replica) as client:
        first = {"type": "message", "role": "user", "content": "hello"}
        made = await client.conversations.create(items=[first], metadata={"topic": "greetings"})  # type: ignore[list-item]
        assert made.id.startswith("conv_")
        assert made.metadata == {"topic": "greetings"}
        answer = await turn(client, replica, worker, "one", made.id)
        assert answer.conversation is not None
        assert answer.conversation.id == made.id
        await turn(client, replica, worker, "two", made.id)
        assert await texts(client, made.id) == ["hello", "one", "ONE", "two", "TWO"]
        assert (await client.conversations.retrieve(made.id)).created_at == made.created_at
        other = await client.conversations.update(made.id, metadata={"topic": "numbers"})
        assert other.metadata == {"topic": "numbers"}


async def test_it_is_the_conversation_that_create_message_names(
    start_replica: StartReplica, worker: FakeWorker
) -> None:
    replica = await start_replica()
    async with sdk(replica) as client:
        made = await client.conversations.create()
        await turn(client, replica, worker, "one", made.id)
        async with httpx.AsyncClient(base_url=replica.url) as http:
            reply = await rpc(http, "create_message", {"conversationId": made.id, "message": "two"})
        task_id = reply["result"]["taskId"]
        await worker.claim(task_id)
        await worker.complete(task_id, "TWO")
        assert await texts(client, made.id) == ["one", "ONE", "two", "TWO"]


async def test_pages_of_items_follow_each_other(start_replica: StartReplica) -> None:
    replica = await start_replica()
    async with sdk(replica) as client:
        made = await client.conversations.create()
        said: Any = [{"role": "user", "content": f"{number}"} for number in range(45)]
        added = await client.conversations.items.create(made.id, items=said)
        assert len(added.data) == 45
        first = await client.conversations.items.list(made.id)
        assert len(first.data) == 20
        assert first.has_more
        assert await texts(client, made.id) == [f"{number}" for number in range(45)]
        with pytest.raises(openai.BadRequestError, match="limit"):
            await client.conversations.items.list(made.id, limit=1000)
        with pytest.raises(openai.BadRequestError, match="after"):
            await client.conversations.items.list(made.id, after="msg_1")


async def test_items_are_looked_at_and_taken_out(start_replica: StartReplica) -> None:
    replica = await start_replica()
    async with sdk(replica) as client:
        made = await client.conversations.create()
        said: Any = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
        one, two = (await client.conversations.items.create(made.id, items=said)).data
        assert await client.conversations.items.retrieve(one.id or "", conversation_id=made.id) == one
        await client.conversations.items.delete(one.id or "", conversation_id=made.id)
        assert [item async for item in client.conversations.items.list(made.id)] == [two]
        with pytest.raises(openai.NotFoundError):
            await client.conversations.items.retrieve(one.id or "", conversation_id=made.id)


async def test_under_an_open_turn_nothing_but_the_metadata_changes(
    start_replica: StartReplica, worker: FakeWorker
) -> None:
    replica = await start_replica()
    async with sdk(replica) as client:
        made = await client.conversations.create()
        open_turn = await client.responses.create(
            model=DEFAULT_MODEL, input="one", conversation=made.id, background=True
        )
        new: Any = [{"role": "user", "content": "two"}]
        for refused in (
            client.conversations.items.create(made.id, items=new),
            client.conversations.delete(made.id),
            client.responses.create(model=DEFAULT_MODEL, input="two", conversation=made.id),
        ):
            with pytest.raises(openai.ConflictError) as busy:
                await refused
            assert int(busy.value.response.headers["retry-after"]) >= 1
            assert busy.value.response.headers["x-should-retry"] == "true"
        assert (await client.conversations.update(made.id, metadata={"a": "b"})).metadata == {"a": "b"}
        await client.responses.cancel(open_turn.id)
        await client.conversations.delete(made.id)
        with pytest.raises(openai.NotFoundError):
            await client.conversations.retrieve(made.id)


async def test_of_many_messages_at_once_one_wins_each_round_and_none_is_lost(
    start_replica: StartReplica, worker: FakeWorker
) -> None:
    replicas = [await start_replica(), await start_replica()]
    refused = Counter[bool]()
    done = asyncio.Event()

    async def answering() -> None:
        while not done.is_set():
            for task_id in await replicas[0].backend.lists.waiting(DEFAULT_MODEL):
                await worker.claim(task_id)
                await worker.complete(task_id, "yes")
            await asyncio.sleep(0.01)

    async def send(client: openai.AsyncOpenAI, number: int) -> None:
        while True:
            try:
                await client.responses.create(model=DEFAULT_MODEL, input=f"{number}", conversation=made.id)
                return
            except openai.ConflictError as busy:
                refused["retry-after" in busy.response.headers] += 1
                await asyncio.sleep(0.02)

    async with sdk(replicas[0]) as client, sdk(replicas[1]) as other:
        made = await client.conversations.create()
        worker_task = asyncio.create_task(answering())
        await asyncio.gather(*(send((client, other)[number % 2], number) for number in range(20)))
        done.set()
        await worker_task
        said = await texts(client, made.id)
    assert said[1::2] == ["yes"] * 20
    assert sorted(map(int, said[::2])) == list(range(20))
    assert refused[True] >= 19
    assert not refused[False]


async def test_a_turn_that_fails_leaves_the_conversation_as_it_was(
    start_replica: StartReplica, worker: FakeWorker
) -> None:
    replica = await start_replica()
    async with sdk(replica) as client:
        made = await client.conversations.create()
        await turn(client, replica, worker, "one", made.id)
        gone = await client.responses.create(model=DEFAULT_MODEL, input="x", conversation=made.id, background=True)
        await client.responses.cancel(gone.id)
        await turn(client, replica, worker, "two", made.id)
        assert await texts(client, made.id) == ["one", "ONE", "two", "TWO"]


async def test_what_one_conversation_holds_is_bounded(start_replica: StartReplica) -> None:
    replica = await start_replica(max_conversation_bytes=1024)
    async with sdk(replica) as client:
        made = await client.conversations.create()
        long: Any = [{"role": "user", "content": "x" * 600}]
        await client.conversations.items.create(made.id, items=long)
        with pytest.raises(openai.BadRequestError, match="at most 1024 are kept"):
            await client.conversations.items.create(made.id, items=long)
        with pytest.raises(openai.BadRequestError, match="at most 1024 are kept"):
            await client.responses.create(model=DEFAULT_MODEL, input="x" * 600, conversation=made.id)
        with pytest.raises(openai.BadRequestError, match="at most 1024 are kept"):
            await client.responses.create(model=DEFAULT_MODEL, input="x" * 1600)


async def test_a_conversation_expires_after_its_last_change(start_replica: StartReplica) -> None:
    replica = await start_replica(conversation_seconds=0.3)
    async with sdk(replica) as client:
        made = await client.conversations.create()

        async def is_gone() -> bool:
            try:
                await client.conversations.retrieve(made.id)
            except openai.NotFoundError:
                return True
            return False

        await until(is_gone, 5, "the conversation expires")


async def test_another_tenants_conversation_is_as_unknown_as_none(start_replica: StartReplica) -> None:
    replica = await start_replica(api_keys={"a": "ann", "b": "bob"})
    async with sdk(replica, api_key="a") as ann, sdk(replica, api_key="b") as bob:
        made = await ann.conversations.create()
        new: Any = [{"role": "user", "content": "two"}]
        for refused in (
            bob.conversations.retrieve(made.id),
            bob.conversations.update(made.id, metadata={}),
            bob.conversations.items.create(made.id, items=new),
            bob.conversations.delete(made.id),
            bob.responses.create(model=DEFAULT_MODEL, input="x", conversation=made.id),
        ):
            with pytest.raises(openai.NotFoundError):
                await refused
        assert await ann.conversations.retrieve(made.id) == made


async def test_calls_and_results_are_items(start_replica: StartReplica, worker: FakeWorker) -> None:
    replica = await start_replica()
    async with sdk(replica) as client:
        made = await client.conversations.create()
        asked = await client.responses.create(
            model=DEFAULT_MODEL,
            input="weather?",
            conversation=made.id,
            background=True,
            tools=[{"type": "function", "name": "f", "parameters": {}, "strict": False}],
        )
        [task_id] = await replica.backend.lists.waiting(DEFAULT_MODEL)
        await worker.claim(task_id)
        await worker.complete(task_id, "", ToolCall(id="c1", name="f", arguments={"a": 1}))
        assert (await client.responses.retrieve(asked.id)).status == "completed"
        with pytest.raises(openai.BadRequestError, match="a tool message is missing"):
            await client.responses.create(model=DEFAULT_MODEL, input="?", conversation=made.id)
        result: Any = {"type": "function_call_output", "call_id": "c1", "output": "1"}
        await client.responses.create(model=DEFAULT_MODEL, input=[result], conversation=made.id, background=True)
        listed = [item.type async for item in client.conversations.items.list(made.id, order="asc")]
        assert listed == ["message", "function_call"]


async def test_a_key_that_may_only_ask_hears_what_its_own_requests_did(start_replica: StartReplica) -> None:
    key = {"id": "a", "tenant": "ann", "sha256": sha256_of("hr_a"), "policy": {"scopes": ["ask"]}}
    replica = await start_replica(api_keys={"keys": [key]})
    said: Any = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    async with sdk(replica, api_key="hr_a") as client:
        made = await client.conversations.create(items=said, metadata={"topic": "letters"})
        assert made.metadata == {"topic": "letters"}
        one, two = (await client.conversations.items.create(made.id, items=said)).data
        assert await client.conversations.items.delete(one.id or "", conversation_id=made.id) == made
        assert (await client.conversations.update(made.id, metadata={"a": "b"})).created_at == made.created_at
        asked: Any = {"model": DEFAULT_MODEL, "input": "one", "background": True}
        first, again = [
            await client.responses.create(**asked, extra_headers={"x-stainless-retry-count": retry})
            for retry in ("0", "1")
        ]
        assert (first.id, first.status) == (again.id, "queued")
        for refused in (
            client.conversations.retrieve(made.id),
            client.conversations.items.list(made.id),
            client.responses.retrieve(first.id),
        ):
            with pytest.raises(openai.PermissionDeniedError):
                await refused
        for unknown in (
            client.conversations.update("conv_1", metadata={}),
            client.conversations.items.delete(two.id or "", conversation_id="conv_1"),
        ):
            with pytest.raises(openai.NotFoundError):
                await unknown
        await client.conversations.delete(made.id)
