"""`POST /v1/completions` as OpenAI's own client and harnesses call it: each prompt is one task and one choice."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import openai
import pytest

from shared.store.task_lists import TaskLists
from shared.wire.schemas import ErrorEvent
from testbed.api_replica import Replica, StartReplica
from testbed.fake_worker import DEFAULT_MODEL, FakeWorker
from testbed.waiting import until

FOX: dict[str, Any] = {"model": DEFAULT_MODEL, "prompt": "The quick brown"}


@asynccontextmanager
async def sdk(replica: Replica) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{replica.url}/v1", api_key="none", max_retries=0, timeout=20) as client:
        yield client


async def requests(replica: Replica, worker: FakeWorker, count: int) -> dict[str, dict[str, Any]]:
    """What waits for a worker, by task and in the order of acceptance, once there is so much."""
    lists: TaskLists = replica.backend.lists
    tasks: list[str] = []

    async def there() -> bool:
        tasks[:] = await lists.waiting(DEFAULT_MODEL)
        return len(tasks) >= count

    await until(there, 5, f"{count} tasks wait")
    records = {task_id: await worker.ledger.get(task_id) for task_id in sorted(tasks)}
    return {task_id: json.loads(record.request) for task_id, record in records.items() if record is not None}


async def post(replica: Replica, body: dict[str, Any], *, retry: int = 0) -> httpx.Response:
    async with httpx.AsyncClient(timeout=20) as http:
        headers = {"x-stainless-retry-count": str(retry)}
        return await http.post(f"{replica.url}/v1/completions", json=body, headers=headers)


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_prompt_is_gone_on_with_as_it_is(
    start_replica: StartReplica, worker: FakeWorker, streamed: bool
) -> None:
    replica = await start_replica()
    async with sdk(replica) as client:
        asked = asyncio.create_task(
            client.completions.create(**FOX, stream=streamed, logprobs=2, echo=True, stop=["."], seed=3)
        )
        [(task_id, request)] = (await requests(replica, worker, 1)).items()
        said = {name: request.get(name) for name in ("prompt", "echo", "logprobs", "stop", "seed", "maxTokens")}
        assert said == {"prompt": FOX["prompt"], "echo": True, "logprobs": 2, "stop": ["."], "seed": 3, "maxTokens": 16}
        assert request["messages"] == []
        await worker.claim(task_id)
        await worker.say(task_id, "do", "ne", logprob=-0.25)
        await worker.end(task_id)
        answer: Any = await asked
        parts = [chunk async for chunk in answer] if streamed else [answer]
    assert {part.id for part in parts} == {f"cmpl-{task_id.replace('-', '')}"}
    assert "".join(part.choices[0].text for part in parts) == "done"
    told = [part.choices[0].logprobs for part in parts if part.choices[0].logprobs]
    assert [token for one in told for token in one.tokens] == ["do", "ne"]
    assert [value for one in told for value in one.token_logprobs] == [-0.25, -0.25]
    assert [value for one in told for value in one.top_logprobs] == [{"do": -0.25}, {"ne": -0.25}]
    assert [value for one in told for value in one.text_offset] == [0, 2]
    assert parts[-1].choices[0].finish_reason == "stop"
    assert streamed or answer.usage.total_tokens == 2


@pytest.mark.parametrize("prompt", [["a", "b", "c"], [[5], [6, 7], [8]]])
@pytest.mark.parametrize("streamed", [False, True])
async def test_several_prompts_are_tasks_and_choices_in_their_order(
    start_replica: StartReplica, worker: FakeWorker, streamed: bool, prompt: list[Any]
) -> None:
    replica = await start_replica()
    async with sdk(replica) as client:
        options: Any = {"stream_options": {"include_usage": True}} if streamed else {}
        asked = asyncio.create_task(
            client.completions.create(model=DEFAULT_MODEL, prompt=prompt, stream=streamed, **options)
        )
        tasks = await requests(replica, worker, 3)
        assert [request["prompt"] for request in tasks.values()] == prompt
        for task_id in reversed(tasks):  # whichever is ready first
            await worker.claim(task_id)
            await worker.say(task_id, "done")
            await worker.end(task_id)
        answer: Any = await asked
        parts = [chunk async for chunk in answer] if streamed else [answer]
    choices = [choice for part in parts for choice in part.choices]
    assert sorted({choice.index for choice in choices}) == [0, 1, 2]
    for index in range(3):
        own = [choice for choice in choices if choice.index == index]
        assert "".join(choice.text for choice in own) == "done"
        assert [choice.finish_reason for choice in own if choice.finish_reason] == ["stop"]
    assert parts[-1].usage.total_tokens == 6
    assert sum(bool(part.usage) for part in parts) == 1


async def test_tries_join_each_of_their_tasks(start_replica: StartReplica, worker: FakeWorker) -> None:
    replica = await start_replica()
    body = FOX | {"prompt": ["a", "a", "b"]}
    tries = [asyncio.create_task(post(replica, body, retry=1)) for _ in range(5)]
    tasks = await requests(replica, worker, 3)
    for task_id in tasks:
        await worker.claim(task_id)
        await worker.end(task_id)
    replies = await asyncio.gather(*tries)
    assert {reply.headers["x-headrace-task-id"] for reply in replies} == {", ".join(tasks)}


@pytest.mark.parametrize("streamed", [False, True])
async def test_one_that_fails_is_a_failure_of_all(
    start_replica: StartReplica, worker: FakeWorker, streamed: bool
) -> None:
    replica = await start_replica(resume_window_seconds=0.5, lease_seconds=0.5)
    asked = asyncio.create_task(post(replica, FOX | {"prompt": ["a", "b"], "stream": streamed}))
    first, second = await requests(replica, worker, 2)
    failure = ErrorEvent(task_id=second, code="engine_failed", message="The engine failed.", retryable=True)
    await worker.ledger.end(second, None, "FAILURE", failure)
    reply = await asked
    assert "The engine failed." in reply.text
    assert reply.text.count("error") == 1 + reply.text.count("server_error")
    assert reply.status_code == (200 if streamed else 500)

    async def revoked() -> bool:
        record = await worker.ledger.get(first)
        return record is not None and record.wire_state == "REVOKED"

    await until(revoked, 10, "the task that nobody reads is cancelled")


async def test_what_was_accepted_before_a_refusal_is_cancelled(start_replica: StartReplica, worker: FakeWorker) -> None:
    replica = await start_replica(max_tenant_tasks=2)
    reply = await post(replica, FOX | {"prompt": ["a", "b", "c"]})
    assert (reply.status_code, reply.json()["error"]["type"]) == (429, "rate_limit_error")
    assert await replica.backend.lists.waiting(DEFAULT_MODEL) == []


async def test_what_an_earlier_try_had_begun_outlives_a_refusal(
    start_replica: StartReplica, worker: FakeWorker
) -> None:
    replica = await start_replica(max_tenant_tasks=2)
    async with httpx.AsyncClient(base_url=replica.url, headers={"idempotency-key": "k"}, timeout=20) as http:
        earlier = asyncio.create_task(http.post("/v1/completions", json=FOX | {"prompt": "a"}))
        [begun] = await requests(replica, worker, 1)
        reply = await http.post("/v1/completions", json=FOX | {"prompt": ["a", "b", "c"]})
        assert reply.status_code == 429
        assert await replica.backend.lists.waiting(DEFAULT_MODEL) == [begun]
        await worker.claim(begun)
        await worker.end(begun)
        assert (await earlier).status_code == 200


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"suffix": "the end"}, "suffix"),
        ({"best_of": 2}, "best_of"),
        ({"n": 2}, "n"),
        ({"logprobs": 6}, "logprobs"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [[]]}, "prompt[0]"),
        ({"prompt": [-1]}, "prompt[0]"),
        ({"prompt": ["a"] * 65}, "prompt"),
        ({"logit_bias": {"1": 1}}, "logit_bias"),
    ],
)
async def test_what_cannot_be_done_is_refused_by_name(
    start_replica: StartReplica, change: dict[str, Any], param: str
) -> None:
    reply = await post(await start_replica(), FOX | change)
    error = reply.json()["error"]
    assert (reply.status_code, error["param"]) == (400, param), error


async def test_the_prompt_alone_may_be_the_answer(start_replica: StartReplica, worker: FakeWorker) -> None:
    replica = await start_replica()
    asked = asyncio.create_task(post(replica, FOX | {"max_tokens": 0, "echo": True, "logprobs": 1}))
    [(task_id, request)] = (await requests(replica, worker, 1)).items()
    assert (request["maxTokens"], request["logprobs"]) == (0, 1)
    await worker.claim(task_id)
    await worker.end(task_id)
    assert (await asked).status_code == 200
