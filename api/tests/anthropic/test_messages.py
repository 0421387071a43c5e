"""`POST /v1/messages` as Anthropic's own client calls it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anthropic
import httpx
import pytest

from testbed.api_replica import Replica, StartReplica
from testbed.fake_worker import DEFAULT_MODEL, FakeWorker
from testbed.waiting import until

HELLO: dict[str, Any] = {
    "model": DEFAULT_MODEL, "max_tokens": 10, "messages": [{"role": "user", "content": "Hello"}]
}  # fmt: skip


@asynccontextmanager
async def sdk(replica: Replica, **options: Any) -> AsyncIterator[anthropic.AsyncAnthropic]:
    options = {"max_retries": 0, "timeout": 20} | options
    async with anthropic.AsyncAnthropic(base_url=replica.url, api_key="none", **options) as client:
        yield client


async def the_task(replica: Replica) -> str:
    """The id of the one that waits."""
    [task_id] = await until(lambda: replica.backend.lists.waiting(DEFAULT_MODEL), 5, "a task waits")
    return task_id


async def test_a_stream_has_the_tokens_as_they_come(start_replica: StartReplica, worker: FakeWorker) -> None:
    replica = await start_replica(comment_seconds=0.2)
    async with sdk(replica) as client, client.messages.stream(**HELLO) as stream:
        task_id = await the_task(replica)
        await worker.claim(task_id)
        await worker.think(task_id, "hm")
        await worker.say(task_id, "Hel")
        texts = aiter(stream.text_stream)
        assert await anext(texts) == "Hel"
        await worker.say(task_id, "lo")
        assert await anext(texts) == "lo"
        await worker.end(task_id)
        whole = await stream.get_final_message()
    assert [block.type for block in whole.content] == ["thinking", "text"]
    assert whole.stop_reason == "end_turn"


async def test_an_answer_comes_whole_where_no_stream_is_asked_for(
    start_replica: StartReplica, worker: FakeWorker
) -> None:
    replica = await start_replica()
    async with sdk(replica) as client:
        asked = asyncio.create_task(client.messages.create(**HELLO))
        task_id = await the_task(replica)
        await worker.claim(task_id)
        await worker.end(task_id)
        answer = await asked
    assert answer.id == f"msg_{task_id.replace('-', '')}"
    assert answer.usage.output_tokens == 1


async def test_a_replica_that_stops_never_ends_half_an_answer_cleanly(
    start_replica: StartReplica, worker: FakeWorker
) -> None:
    replica = await start_replica()
    async with sdk(replica) as client, client.messages.stream(**HELLO) as stream:
        task_id = await the_task(replica)
        await worker.claim(task_id)
        await worker.say(task_id, "half")
        texts = aiter(stream.text_stream)
        assert await anext(texts) == "half"
        await replica.stop()
        with pytest.raises(anthropic.APIError, match="replica of the API stops"):
            await anext(texts)


@pytest.mark.parametrize(
    ("change", "status", "kind"),
    [
        ({"model": "claude"}, 404, "not_found_error"),
        ({"max_tokens": 0}, 400, "invalid_request_error"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, 400, "invalid_request_error"),
    ],
)
async def test_what_cannot_be_done_is_refused_as_anthropic_does(
    start_replica: StartReplica, change: dict[str, Any], status: int, kind: str
) -> None:
    replica = await start_replica()
    async with httpx.AsyncClient(timeout=20) as http:
        reply = await http.post(f"{replica.url}/v1/messages", json=HELLO | change)
    assert (reply.status_code, reply.json()["error"]["type"]) == (status, kind)
    assert reply.headers["x-request-id"]
