"""`POST /v1/chat/completions` as OpenAI's own client calls it: one call is one task, half an answer never whole."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import httpx
import openai
import pytest

from shared.store.task_lists import TaskLists
from shared.wire.schemas import ErrorEvent
from testbed.api_replica import Replica, StartReplica
from testbed.fake_worker import DEFAULT_MODEL, FakeWorker
from testbed.instruments import value_of
from testbed.waiting import until

HELLO: dict[str, Any] = {"model": DEFAULT_MODEL, "messages": [{"role": "user", "content": "Hello"}]}


@asynccontextmanager
async def sdk(replica: Replica, **options: Any) -> AsyncIterator[openai.AsyncOpenAI]:
    options = {"max_retries": 0, "timeout": 20} | options
    async with openai.AsyncOpenAI(base_url=f"{replica.url}/v1", api_key="none", **options) as client:
        yield client


async def waiting(replica: Replica, count: int) -> list[str]:
    """The ids of the tasks that wait, once there are so many."""
    lists: TaskLists = replica.backend.lists
    tasks: list[str] = []

    async def there() -> bool:
        tasks[:] = await lists.waiting(DEFAULT_MODEL)
        return len(tasks) >= count

    await until(there, 5, f"{count} tasks wait")
    return tasks


async def post(replica: Replica, body: dict[str, Any], *, retry: int = 0, key: str = "") -> httpx.Response:
    async with httpx.AsyncClient(timeout=20) as http:
        headers = {"x-stainless-retry-count": str(retry)} | ({"Idempotency-Key": key} if key else {})
        return await http.post(f"{replica.url}/v1/chat/completions", json=body, headers=headers)


async def drop(replica: Replica, body: dict[str, Any], retry: int = 0) -> None:
    """Sends the request and is gone before its answer."""
    with suppress(httpx.ReadTimeout):
        async with httpx.AsyncClient(timeout=httpx.Timeout(20, read=0.3)) as http:
            headers = {"x-stainless-retry-count": str(retry)}
            await http.post(f"{replica.url}/v1/chat/completions", json=body, headers=headers)


async def test_a_stream_has_the_tokens_as_they_come(start_replica: StartReplica, worker: FakeWorker) -> None:
    replica = await start_replica()
    async with sdk(replica) as client:
        stream = await client.chat.completions.create(**HELLO, stream=True, stream_options={"include_usage": True})
        [task_id] = await waiting(replica, 1)
        await worker.claim(task_id)
        await worker.say(task_id, "Hel")
        chunks = aiter(stream)
        assert [(await anext(chunks)).choices[0].delta.content for _ in range(2)] == ["", "Hel"]
        await worker.say(task_id, "lo")
        await worker.end(task_id)
        rest = [chunk async for chunk in chunks]
    assert rest[0].choices[0].delta.content == "lo"
    assert rest[-2].choices[0].finish_reason == "stop"
    assert rest[-1].usage is not None
    assert rest[-1].usage.total_tokens == 2


async def test_the_wire_has_neither_ids_nor_retries_and_comments_in_silence(
    start_replica: StartReplica, worker: FakeWorker
) -> None:
    replica = await start_replica(comment_seconds=0.2)
    async with (
        httpx.AsyncClient(timeout=20) as http,
        http.stream("POST", f"{replica.url}/v1/chat/completions", json=HELLO | {"stream": True}) as response,
    ):
        assert response.headers["content-type"].startswith("text/event-stream")
        [task_id] = await waiting(replica, 1)
        assert response.headers["x-headrace-task-id"] == task_id
        assert response.headers["x-request-id"]
        lines = response.aiter_lines()
        while not (await anext(lines)).startswith(":"):
            pass
        await worker.claim(task_id)
        await worker.say(task_id, "Hi")
        await worker.end(task_id)
        rest = [line async for line in lines if line]
    assert {line.partition(":")[0] for line in rest} <= {"data", ""}
    assert rest[-1] == "data: [DONE]"


async def test_an_answer_comes_whole_where_no_stream_is_asked_for(
    start_replica: StartReplica, worker: FakeWorker
) -> None:
    replica = await start_replica()
    async with sdk(replica) as client:
        asked = asyncio.create_task(client.chat.completions.create(**HELLO))
        [task_id] = await waiting(replica, 1)
        await worker.claim(task_id)
        await worker.end(task_id)
        answer = await asked
    assert answer.choices[0].message.content == "done"
    assert answer.id == f"chatcmpl-{task_id.replace('-', '')}"


@pytest.mark.parametrize("stream", [False, True])
async def test_the_same_bytes_sent_again_join_their_task(
    start_replica: StartReplica, worker: FakeWorker, stream: bool
) -> None:
    first, second = await start_replica(), await start_replica()
    await drop(first, HELLO | {"stream": stream})
    again = asyncio.create_task(post(second, HELLO | {"stream": stream}, retry=1))
    [task_id] = await waiting(first, 1)
    await worker.claim(task_id)
    await worker.end(task_id)
    assert (await again).headers["x-headrace-task-id"] == task_id
    # Also when the task has ended by then.
    late = await post(first, HELLO | {"stream": stream}, retry=2)
    assert late.headers["x-headrace-task-id"] == task_id


async def test_two_equal_first_tries_are_two_tasks(start_replica: StartReplica, worker: FakeWorker) -> None:
    replica = await start_replica()
    await asyncio.gather(drop(replica, HELLO), drop(replica, HELLO))
    assert len(await waiting(replica, 2)) == 2


@pytest.mark.parametrize("stream", [False, True])
async def test_many_tries_at_once_are_one_task(start_replica: StartReplica, worker: FakeWorker, stream: bool) -> None:
    # Twenty connections at once on a busy machine: that takes what it takes.
    replica, other = await start_replica(redis_timeout=30), await start_replica(redis_timeout=30)
    body = HELLO | {"stream": stream}
    tries = [asyncio.create_task(post(one, body, retry=1)) for one in (replica, other) for _ in range(10)]
    [task_id] = await waiting(replica, 1)
    await worker.claim(task_id)
    await worker.end(task_id)
    assert {reply.headers["x-headrace-task-id"] for reply in await asyncio.gather(*tries)} == {task_id}


async def test_a_client_that_times_out_gets_the_answer_of_its_first_try(
    start_replica: StartReplica, worker: FakeWorker
) -> None:
    replica = await start_replica()
    async with sdk(replica, timeout=0.7, max_retries=5) as client:
        asked = asyncio.create_task(client.chat.completions.create(**HELLO))
        [task_id] = await waiting(replica, 1)
        joins = replica.backend.metrics.open_streams
        await worker.claim(task_id)
        # The first try has gone, and a later one reads.
        await until(lambda: value_of(joins) == 0, 5, "the first try times out")
        await until(lambda: value_of(joins) == 1, 5, "the second try joins")
        await worker.end(task_id)
        answer = await asked
    assert answer.id.endswith(task_id.replace("-", ""))


async def test_a_task_that_failed_is_not_joined(start_replica: StartReplica, worker: FakeWorker) -> None:
    replica = await start_replica()
    asked = asyncio.create_task(post(replica, HELLO))
    [task_id] = await waiting(replica, 1)
    await worker.claim(task_id)
    failure = ErrorEvent(task_id=task_id, code="engine_failed", message="The engine failed.", retryable=True)
    await worker.ledger.end(task_id, None, "FAILURE", failure)
    reply = await asked
    assert (reply.status_code, reply.headers["x-should-retry"]) == (500, "true")
    assert reply.json()["error"] == {
        "message": "The engine failed.", "type": "server_error", "param": None, "code": None
    }  # fmt: skip
    again = asyncio.create_task(post(replica, HELLO, retry=1))
    [other] = await waiting(replica, 1)
    assert other != task_id
    await worker.claim(other)
    await worker.end(other)
    assert (await again).status_code == 200


async def test_a_key_joins_and_refuses_another_body(start_replica: StartReplica, worker: FakeWorker) -> None:
    replica = await start_replica()
    asked = [asyncio.create_task(post(replica, HELLO, key="k")) for _ in range(2)]
    [task_id] = await waiting(replica, 1)
    await worker.claim(task_id)
    await worker.end(task_id)
    assert {reply.headers["x-headrace-task-id"] for reply in await asyncio.gather(*asked)} == {task_id}
    other = await post(replica, HELLO | {"max_tokens": 5}, key="k")
    assert (other.status_code, other.headers["x-should-retry"]) == (409, "false")


@pytest.mark.parametrize("stream", [False, True])
async def test_the_task_of_a_client_that_is_gone_for_good_is_cancelled(
    start_replica: StartReplica, worker: FakeWorker, stream: bool
) -> None:
    replica = await start_replica(resume_window_seconds=0.5, lease_seconds=0.5)
    await drop(replica, HELLO | {"stream": stream})
    [task_id] = await waiting(replica, 1)

    async def revoked() -> bool:
        record = await worker.ledger.get(task_id)
        return record is not None and record.wire_state == "REVOKED"

    await until(revoked, 10, "the task is cancelled")


async def test_a_replica_that_stops_never_ends_half_an_answer_cleanly(
    start_replica: StartReplica, worker: FakeWorker
) -> None:
    replica = await start_replica()
    async with sdk(replica) as client:
        stream = await client.chat.completions.create(**HELLO, stream=True)
        [task_id] = await waiting(replica, 1)
        await worker.claim(task_id)
        await worker.say(task_id, "half")
        chunks = aiter(stream)
        assert [(await anext(chunks)).choices[0].delta.content for _ in range(2)] == ["", "half"]
        whole = asyncio.create_task(post(replica, HELLO))
        await waiting(replica, 1)
        await replica.stop()
        with pytest.raises(openai.APIError, match="replica of the API stops"):
            await anext(chunks)
        reply = await whole
    assert (reply.status_code, reply.headers["x-should-retry"]) == (503, "true")


async def test_an_answer_that_starts_over_is_a_failure_once_something_was_read(
    start_replica: StartReplica, worker: FakeWorker
) -> None:
    replica = await start_replica()
    async with sdk(replica) as client:
        stream = await client.chat.completions.create(**HELLO, stream=True)
        [task_id] = await waiting(replica, 1)
        await worker.claim(task_id)
        await worker.say(task_id, "old")
        chunks = aiter(stream)
        await anext(chunks)
        assert (await anext(chunks)).choices[0].delta.content == "old"
        await worker.ledger.requeue(task_id, 1, "handover")
        await worker.ledger.claim(task_id, worker="other", lease_seconds=60, revision="another")
        with pytest.raises(openai.APIError, match="starts over"):
            await anext(chunks)


async def test_a_takeover_shows_in_nothing_but_a_pause(start_replica: StartReplica, worker: FakeWorker) -> None:
    replica = await start_replica()
    async with sdk(replica) as client:
        stream = await client.chat.completions.create(**HELLO, stream=True)
        [task_id] = await waiting(replica, 1)
        await worker.claim(task_id)
        await worker.say(task_id, "one ")
        await worker.ledger.requeue(task_id, 1, "handover")
        await worker.claim(task_id)
        await worker.say(task_id, "two")
        await worker.end(task_id)
        text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices])
    assert text == "one two"


@pytest.mark.parametrize(
    ("change", "status", "param", "code"),
    [
        ({"model": "gpt-4o"}, 404, "model", "model_not_found"),
        ({"messages": []}, 400, "messages", None),
        ({"messages": [{"role": "wizard", "content": "x"}]}, 400, "messages[0].role", None),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400, "messages[0].content[0]", None),
        ({"messages": [{"role": "tool", "content": "x", "tool_call_id": "c"}]}, 400, "messages[0]", None),
        ({"temperature": 3}, 400, "temperature", None),
        ({"n": 2}, 400, "n", None),
        ({"logit_bias": {"1": 5}}, 400, "logit_bias", None),
        ({"logprobs": True, "top_logprobs": 21}, 400, "top_logprobs", None),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, 400, "tools[0].function.name", None),
        ({"tools": [{"type": "function", "function": {"name": "x" * 65}}]}, 400, "tools[0].function.name", None),
        (
            {"tool_choice": {"type": "function", "function": {"name": "x" * 65}}},
            400,
            "tool_choice.function.name",
            None,
        ),
        ({"loop_prevention": "on"}, 400, "loop_prevention", None),
        ({"loop_prevention": {"polling_tools": ["a b"]}}, 400, "loop_prevention.polling_tools[0]", None),
        ({"stop": ["a", "b", "c", "d", "e"]}, 400, "stop", None),
        ({"stop": [""]}, 400, "stop[0]", None),
        ({"metadata": {str(number): "" for number in range(17)}}, 400, "metadata", None),
        ({"audio": {"voice": "x", "format": "wav"}}, 400, "audio", None),
        ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, 400, "tools[0].type", None),
        ({"response_format": {"type": "xml"}}, 400, "response_format.type", None),
        ({"tool_choice": "required"}, 400, "tool_choice", None),
    ],
)
async def test_what_cannot_be_done_is_refused_by_name(
    start_replica: StartReplica, change: dict[str, Any], status: int, param: str, code: str | None
) -> None:
    replica = await start_replica()
    reply = await post(replica, HELLO | change)
    error = reply.json()["error"]
    assert (reply.status_code, error["param"], error["code"]) == (status, param, code), error
    assert set(error) == {"message", "type", "param", "code"}


@pytest.mark.parametrize(
    "change",
    [
        {"messages": [{"role": "user", "content": "a"}, {"role": "system", "content": "b"}]},
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "a", "cache_control": {}}]}]},
        {
            "messages": [
                {"role": "user", "content": "a"},
                {
                    "role": "assistant", "content": None, "refusal": None, "annotations": [], "audio": None,
                    "function_call": None, "tool_calls": [
                        {"id": "c", "type": "function", "index": 0, "function": {"name": "f", "arguments": "{}"}}
                    ],
                },
                {"role": "tool", "tool_call_id": "c", "content": [{"type": "text", "text": "r"}]},
            ]
        },
        {"tools": [{"type": "function", "function": {"name": "f", "description": None, "parameters": None}}]},
        {"user": "u", "store": False, "service_tier": "auto", "reasoning_effort": "low", "made_up": 1, "n": 1},
        {"temperature": 0, "top_p": 0, "max_completion_tokens": 3, "stop": ["x"], "seed": 1, "metadata": {"a": "b"}},
    ],
)  # fmt: skip
async def test_what_clients_send_is_accepted(
    start_replica: StartReplica, worker: FakeWorker, change: dict[str, Any]
) -> None:
    replica = await start_replica()
    asked = asyncio.create_task(post(replica, HELLO | change))
    [task_id] = await waiting(replica, 1)
    await worker.claim(task_id)
    await worker.end(task_id)
    assert (await asked).status_code == 200, (await asked).text


@pytest.mark.parametrize("streamed", [False, True])
async def test_logprobs_are_told_of_all_tokens_streamed_and_whole(
    start_replica: StartReplica, worker: FakeWorker, streamed: bool
) -> None:
    replica = await start_replica()
    async with sdk(replica) as client:
        asked = asyncio.create_task(
            client.chat.completions.create(**HELLO, stream=streamed, logprobs=True, top_logprobs=1)
        )
        [task_id] = await waiting(replica, 1)
        record = await worker.ledger.get(task_id)
        assert record is not None
        assert json.loads(record.request)["logprobs"] == 1
        await worker.claim(task_id)
        await worker.say(task_id, "Gr", "ü", logprob=-0.5)
        await worker.end(task_id)
        answer: Any = await asked
        choices = [chunk.choices[0] async for chunk in answer] if streamed else answer.choices
    told = [token for choice in choices if choice.logprobs for token in choice.logprobs.content]
    assert [(token.token, token.logprob, token.bytes) for token in told] == [
        ("Gr", -0.5, [71, 114]),
        ("ü", -0.5, [195, 188]),
    ]
    assert [token.top_logprobs[0].token for token in told] == ["Gr", "ü"]
    if not streamed:
        return
    assert [choice.delta.content for choice in choices if choice.logprobs] == ["Gr", "ü"]


@pytest.mark.parametrize("stream", [False, True])
async def test_what_loop_prevention_did_is_told_and_it_can_be_switched_off(
    start_replica: StartReplica, worker: FakeWorker, stream: bool
) -> None:
    replica = await start_replica()
    messages: list[Any] = [{"role": "user", "content": "Is it done?"}]
    for at in range(8):
        call = {"id": f"c{at}", "type": "function", "function": {"name": "job", "arguments": "{}"}}
        messages.append({"role": "assistant", "content": None, "tool_calls": [call]})
        messages.append({"role": "tool", "tool_call_id": f"c{at}", "content": "no"})
    tools = [{"type": "function", "function": {"name": "job"}}]
    for extra in ({}, {"loop_prevention": "off"}, {"loop_prevention": {"polling_tools": ["job"]}}):
        async with sdk(replica) as client:
            body: Any = HELLO | {"messages": messages, "tools": tools, "stream": stream, "extra_body": extra}
            asked = asyncio.create_task(client.chat.completions.create(**body))
            [task_id] = await waiting(replica, 1)
            await worker.claim(task_id)
            await worker.end(task_id)
            answer: Any = await asked
            first, *_ = [chunk async for chunk in answer] if stream else [answer]
        guard = (first.model_extra or {}).get("guard")
        assert (guard is None) == bool(extra)
        assert guard is None or guard["toolsWithheld"]


async def test_models_are_listed_as_clients_know_them(start_replica: StartReplica) -> None:
    replica = await start_replica()
    async with sdk(replica) as client:
        assert [model.id async for model in client.models.list()] == [DEFAULT_MODEL]
        assert (await client.models.retrieve(DEFAULT_MODEL)).owned_by == "headrace"
        with pytest.raises(openai.NotFoundError):
            await client.models.retrieve("gpt-4o")


async def test_a_body_that_is_no_json_and_one_that_is_too_long_are_told_apart(start_replica: StartReplica) -> None:
    replica = await start_replica(max_body_bytes=1024)
    async with httpx.AsyncClient() as http:
        url = f"{replica.url}/v1/chat/completions"
        broken = await http.post(url, content=b"{")
        long = await http.post(url, content=json.dumps(HELLO | {"user": "x" * 2000}))
    assert (broken.status_code, broken.json()["error"]["type"]) == (400, "invalid_request_error")
    assert (long.status_code, long.json()["error"]["code"]) == (413, "request_too_large")
