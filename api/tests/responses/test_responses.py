"""`/v1/responses` as OpenAI's own client calls it: made, streamed, read again, cancelled, deleted."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import openai
import pytest
from openai.types.responses import Response, ResponseStreamEvent

from shared.wire.schemas import ErrorEvent, ToolCall
from testbed.api_replica import Replica, StartReplica
from testbed.fake_worker import DEFAULT_MODEL, FakeWorker
from testbed.waiting import until

HELLO: dict[str, Any] = {"model": DEFAULT_MODEL, "input": "Hello"}
WEATHER: Any = {
    "type": "function",
    "name": "weather",
    "description": "The weather of a city.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    "strict": False,
}


@asynccontextmanager
async def sdk(replica: Replica, **options: Any) -> AsyncIterator[openai.AsyncOpenAI]:
    options = {"max_retries": 0, "timeout": 20} | options
    async with openai.AsyncOpenAI(base_url=f"{replica.url}/v1", api_key="none", **options) as client:
        yield client


async def waiting(replica: Replica, count: int = 1) -> list[str]:
    """The ids of the tasks that wait, once there are so many."""
    tasks: list[str] = []

    async def there() -> bool:
        tasks[:] = await replica.backend.lists.waiting(DEFAULT_MODEL)
        return len(tasks) >= count

    await until(there, 5, f"{count} tasks wait")
    return tasks


async def answered(replica: Replica, worker: FakeWorker, text: str, *calls: ToolCall, **more: Any) -> str:
    """The next task, answered so."""
    [task_id] = await waiting(replica)
    await worker.claim(task_id)
    if text:
        await worker.say(task_id, *[f"{word} " for word in text.split()[:-1]], text.split()[-1])
    await worker.complete(task_id, text, *calls, **more)
    return task_id


def kinds(events: list[ResponseStreamEvent]) -> list[str]:
    return [event.type.removeprefix("response.") for event in events]


TEXT_EVENTS = ["created", "queued", "in_progress", "output_item.added", "content_part.added", "output_text.delta",
               "output_text.delta", "output_text.done", "content_part.done", "output_item.done",
               "completed"]  # fmt: skip


async def test_a_stream_has_every_event_in_its_order(start_replica: StartReplica, worker: FakeWorker) -> None:
    replica = await start_replica()
    async with sdk(replica) as client:
        stream = await client.responses.create(**HELLO, stream=True)
        task_id = await answered(replica, worker, "Good day")
        events = [event async for event in stream]
    assert kinds(events) == TEXT_EVENTS
    assert [event.sequence_number for event in events] == list(range(len(events)))
    last = events[-1]
    assert last.type == "response.completed"
    assert last.response.id == f"resp_{task_id.replace('-', '')}"
    assert last.response.output_text == "Good day"
    assert last.response.usage is not None
    assert last.response.usage.total_tokens == 5
    assert last.response.usage.input_tokens_details.cached_tokens == 1


async def test_the_helper_reads_a_stream(start_replica: StartReplica, worker: FakeWorker) -> None:
    replica = await start_replica()
    async with sdk(replica) as client, client.responses.stream(**HELLO) as stream:
        answering = asyncio.create_task(answered(replica, worker, "Good day"))
        texts = [event.snapshot async for event in stream if event.type == "response.output_text.delta"]
        final = await stream.get_final_response()
        await answering
    assert texts == ["Good ", "Good day"]
    assert final.output_text == "Good day"


async def test_a_whole_answer_is_what_a_later_look_at_it_finds(start_replica: StartReplica, worker: FakeWorker) -> None:
    first, second = await start_replica(), await start_replica()
    async with sdk(first) as client, sdk(second) as other:
        asked = asyncio.create_task(client.responses.create(**HELLO, instructions="Be brief.", metadata={"a": "b"}))
        await answered(first, worker, "Good day")
        answer = await asked
        again = await other.responses.retrieve(answer.id)
    assert answer.output_text == "Good day"
    assert answer.status == "completed"
    assert (answer.instructions, answer.metadata) == ("Be brief.", {"a": "b"})
    assert again == answer


async def test_a_call_of_a_tool_and_its_result(start_replica: StartReplica, worker: FakeWorker) -> None:
    replica = await start_replica()
    asked = HELLO | {"tools": [WEATHER, {"type": "web_search"}], "tool_choice": "auto"}
    async with sdk(replica) as client:
        stream = await client.responses.create(**asked, stream=True)
        await answered(replica, worker, "", ToolCall(id="call_1", name="weather", arguments={"city": "Oslo"}))
        events = [event async for event in stream]
        assert kinds(events)[3:] == [
            "output_item.added",
            "function_call_arguments.delta",
            "function_call_arguments.done",
            "output_item.done",
            "completed",
        ]
        last = events[-1]
        assert last.type == "response.completed"
        [call] = last.response.output
        assert call.type == "function_call"
        assert (call.name, call.call_id, call.arguments) == ("weather", "call_1", '{"city": "Oslo"}')
        assert [tool.type for tool in last.response.tools] == ["function"]
        result: Any = {"type": "function_call_output", "call_id": "call_1", "output": "rain"}
        call_again: Any = [call.model_dump()]
        by_chain = client.responses.create(
            model=DEFAULT_MODEL, input=[result], previous_response_id=last.response.id, tools=[WEATHER]
        )
        by_history = client.responses.create(
            model=DEFAULT_MODEL,
            input=[{"role": "user", "content": "Hello"}, *call_again, result],
            tools=[WEATHER],
        )
        for again in (by_chain, by_history):
            going = asyncio.create_task(again)
            task_id = await answered(replica, worker, "It rains.")
            assert (await going).output_text == "It rains."
            assert [message["role"] for message in await shown(worker, task_id)] == ["user", "assistant", "tool"]


async def shown(worker: FakeWorker, task_id: str) -> list[dict[str, Any]]:
    """The messages that the model sees."""
    record = await worker.ledger.get(task_id)
    assert record is not None
    messages: list[dict[str, Any]] = json.loads(record.request)["messages"]
    return messages


async def test_a_response_is_gone_on_from_as_often_as_anybody_likes(
    start_replica: StartReplica, worker: FakeWorker
) -> None:
    replica = await start_replica()

    async def ask(client: openai.AsyncOpenAI, said: str, reply: str, **more: Any) -> Response:
        asked: asyncio.Task[Response] = asyncio.create_task(
            client.responses.create(model=DEFAULT_MODEL, input=said, **more)
        )
        await answered(replica, worker, reply)
        return await asked

    async with sdk(replica) as client:
        first = await ask(client, "one", "1", instructions="Count.")
        left = await ask(client, "two", "2", previous_response_id=first.id)
        right = await ask(client, "zwei", "zwo", previous_response_id=first.id)
        last = asyncio.create_task(
            client.responses.create(model=DEFAULT_MODEL, input="three", previous_response_id=left.id)
        )
        [task_id] = await waiting(replica)
        contents = [message["content"] for message in await shown(worker, task_id)]
        # Instructions are for one answer alone.
        assert contents == ["one", "1", "two", "2", "three"]
        await answered(replica, worker, "3")
        assert (await last).previous_response_id == left.id
        items = await client.responses.input_items.list(right.id, order="asc")
        texts = [item.content[0].text for item in items.data if item.type == "message"]  # type: ignore[union-attr]
        assert texts == ["one", "1", "zwei"]


async def test_a_background_response_is_answered_at_once_and_polled(
    start_replica: StartReplica, worker: FakeWorker
) -> None:
    replica = await start_replica()
    async with sdk(replica) as client:
        response = await client.responses.create(**HELLO, background=True)
        assert response.status == "queued"
        [task_id] = await waiting(replica)
        await worker.claim(task_id)
        await worker.say(task_id, "Good ")
        running = await client.responses.retrieve(response.id)
        assert (running.status, running.output_text) == ("in_progress", "Good ")
        await worker.say(task_id, "day")
        await worker.complete(task_id, "Good day")
        ended = await client.responses.retrieve(response.id)
        assert (ended.status, ended.output_text, ended.background) == ("completed", "Good day", True)


@pytest.mark.parametrize("said", [{}, {"description": "a place", "strict": True}, {"strict": None}])
async def test_a_response_repeats_the_form_of_its_answer_in_full(
    start_replica: StartReplica, said: dict[str, Any]
) -> None:
    replica = await start_replica()
    form = {"type": "json_schema", "name": "place", "schema": {"type": "object"}, **said}
    async with httpx.AsyncClient(timeout=20) as http:
        asked = HELLO | {"text": {"format": form}, "background": True}
        reply = await http.post(f"{replica.url}/v1/responses", json=asked)
    told = reply.json()["text"]["format"]
    assert told == form | {"description": said.get("description"), "strict": bool(said.get("strict"))}


@pytest.mark.parametrize("said", [{"summary": "auto"}, {"effort": "low"}, {"effort": "low", "summary": "auto"}])
async def test_a_response_repeats_what_was_asked_of_reasoning_in_full(
    start_replica: StartReplica, said: dict[str, Any]
) -> None:
    replica = await start_replica()
    async with httpx.AsyncClient(timeout=20) as http:
        asked = HELLO | {"reasoning": said, "background": True}
        reply = await http.post(f"{replica.url}/v1/responses", json=asked)
    assert reply.json()["reasoning"] == {"effort": None, "summary": None} | said


async def test_any_replica_goes_on_behind_any_event(start_replica: StartReplica, worker: FakeWorker) -> None:
    first, second = await start_replica(), await start_replica()
    async with sdk(first) as client, sdk(second) as other:
        stream = await client.responses.create(**HELLO, background=True, stream=True)
        task_id = await answered(first, worker, "one two three")
        events = [event async for event in stream]
        response_id = f"resp_{task_id.replace('-', '')}"
        for number in range(len(events)):
            rest = [event async for event in await other.responses.retrieve(
                response_id, stream=True, starting_after=number
            )]  # fmt: skip
            assert rest == events[number + 1 :]
        async with other.responses.stream(response_id=response_id, starting_after=4) as helper:
            assert [event.sequence_number async for event in helper] == list(range(5, len(events)))


async def test_a_cursor_ahead_of_the_response_is_told(start_replica: StartReplica, worker: FakeWorker) -> None:
    replica = await start_replica()
    async with sdk(replica) as client:
        response = await client.responses.create(**HELLO, background=True)
        with pytest.raises(openai.APIStatusError, match="The event 7 is not in this response, which has 2 so far"):
            await client.responses.retrieve(response.id, stream=True, starting_after=7)


async def test_who_waits_hears_its_place_again_under_the_same_number(
    start_replica: StartReplica, worker: FakeWorker
) -> None:
    replica = await start_replica()
    ahead = await worker.accept()
    async with sdk(replica) as client:
        stream = await client.responses.create(**HELLO, background=True, stream=True)
        events = aiter(stream)
        queued = [await anext(events) for _ in range(2)][1]
        assert queued.type == "response.queued"
        assert "headrace.position" not in (queued.response.metadata or {})
        for place in ("2", "1"):
            while True:
                again = await anext(events)
                assert again.type == "response.queued"
                assert again.sequence_number == queued.sequence_number
                if (again.response.metadata or {})["headrace.position"] == place:
                    break
            if place == "2":
                await worker.claim(ahead)
        await answered(replica, worker, "done")
        rest = [event async for event in events]
    assert rest[0].sequence_number == queued.sequence_number + 1


@pytest.mark.parametrize("state", ["waiting", "running", "ended"])
async def test_a_cancellation(start_replica: StartReplica, worker: FakeWorker, state: str) -> None:
    replica = await start_replica()
    async with sdk(replica) as client:
        response = await client.responses.create(**HELLO, background=True)
        [task_id] = await waiting(replica)
        if state == "ended":
            await answered(replica, worker, "done")
        if state == "running":
            await worker.claim(task_id)
            await worker.say(task_id, "half")
        cancelling = asyncio.create_task(client.responses.cancel(response.id))
        if state == "running":
            await until_asked_to_stop(worker, task_id)
            await worker.ledger.end(task_id, 1, "REVOKED", None)
        cancelled = await cancelling
        assert cancelled.status == ("completed" if state == "ended" else "cancelled")
        assert cancelled.output_text == {"waiting": "", "running": "half", "ended": "done"}[state]
        assert await client.responses.cancel(response.id) == cancelled
        stream = await client.responses.retrieve(response.id, stream=True)
        assert ("response.completed" in [event.type async for event in stream]) == (state == "ended")


async def until_asked_to_stop(worker: FakeWorker, task_id: str) -> None:
    async def asked() -> bool:
        return await worker.ledger.heartbeat([(task_id, 1)], lease_seconds=60) == ["cancel"]

    await until(asked, 5, "the cancellation arrives")


async def test_only_background_responses_are_cancelled_by_name(start_replica: StartReplica, worker: FakeWorker) -> None:
    replica = await start_replica()
    async with sdk(replica) as client:
        asked = asyncio.create_task(client.responses.create(**HELLO))
        await answered(replica, worker, "done")
        with pytest.raises(openai.BadRequestError, match="background"):
            await client.responses.cancel((await asked).id)


async def test_a_deleted_response_is_gone_with_its_conversation(
    start_replica: StartReplica, worker: FakeWorker
) -> None:
    replica = await start_replica()
    async with sdk(replica) as client:
        asked = asyncio.create_task(client.responses.create(**HELLO))
        await answered(replica, worker, "done")
        response = await asked
        await client.responses.delete(response.id)
        with pytest.raises(openai.NotFoundError):
            await client.responses.retrieve(response.id)
        with pytest.raises(openai.NotFoundError, match="previous_response_id"):
            await client.responses.create(**HELLO, previous_response_id=response.id)
        with pytest.raises(openai.NotFoundError):
            await client.responses.delete(response.id)


async def test_to_delete_what_runs_cancels_it(start_replica: StartReplica, worker: FakeWorker) -> None:
    replica = await start_replica()
    async with sdk(replica) as client:
        waits = await client.responses.create(**HELLO, background=True)
        await client.responses.delete(waits.id)
        runs = await client.responses.create(**HELLO, background=True)
        [task_id] = await waiting(replica)
        await worker.claim(task_id)
        with pytest.raises(openai.ConflictError):
            await client.responses.delete(runs.id)
        await until_asked_to_stop(worker, task_id)
        await worker.ledger.end(task_id, 1, "REVOKED", None)
        await client.responses.delete(runs.id)
        for gone in (waits, runs):
            with pytest.raises(openai.NotFoundError):
                await client.responses.retrieve(gone.id)


async def test_what_is_not_stored_is_not_found(start_replica: StartReplica, worker: FakeWorker) -> None:
    replica = await start_replica()
    async with sdk(replica) as client:
        asked = asyncio.create_task(client.responses.create(**HELLO, store=False))
        await answered(replica, worker, "done")
        response = await asked
        with pytest.raises(openai.NotFoundError):
            await client.responses.retrieve(response.id)
        with pytest.raises(openai.NotFoundError):
            await client.responses.create(**HELLO, previous_response_id=response.id)


async def test_another_tenants_response_is_as_unknown_as_none(start_replica: StartReplica, worker: FakeWorker) -> None:
    replica = await start_replica(api_keys={"a": "ann", "b": "bob"})
    async with sdk(replica) as client:
        ann, bob = client.with_options(api_key="a"), client.with_options(api_key="b")
        response = await ann.responses.create(**HELLO, background=True)
        for act in (bob.responses.retrieve, bob.responses.cancel, bob.responses.delete, bob.responses.input_items.list):
            with pytest.raises(openai.NotFoundError):
                await act(response.id)
        with pytest.raises(openai.NotFoundError):
            await bob.responses.create(**HELLO, previous_response_id=response.id)
        assert (await ann.responses.retrieve(response.id)).status == "queued"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"background": True, "store": False}, "background"),
        ({"previous_response_id": "resp_1", "conversation": "conv_1"}, "previous_response_id"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"previous_response_id": "resp_0192f0c8d5f27c1aa1b2c3d4e5f60718"}, "previous_response_id"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]}, "input[0].content[0]"),
        ({"input": [{"type": "function_call_output", "call_id": "c", "output": "1"}]}, "input[0]"),
        ({"input": [{"type": "computer_call"}]}, "input[0].type"),
        ({"tools": [{"type": "function", "name": "no spaces"}]}, "tools[0].name"),
        ({"tools": [WEATHER | {"parameters": {"type": "objekt"}}]}, "tools[0].parameters"),
        ({"tool_choice": {"type": "web_search"}}, "tool_choice"),
        (
            {"text": {"format": {"type": "json_schema", "name": "a", "schema": {"type": "objekt"}}}},
            "text.format.schema",
        ),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"prompt": {"id": "p"}}, "prompt"),
        ({"model": "gpt-9"}, "model"),
    ],
)
async def test_what_is_wrong_is_named_as_the_client_wrote_it(
    start_replica: StartReplica, body: dict[str, Any], param: str
) -> None:
    replica = await start_replica()
    async with httpx.AsyncClient(timeout=20) as http:
        reply = await http.post(f"{replica.url}/v1/responses", json=HELLO | body)
    assert reply.status_code in (400, 404)
    assert reply.json()["error"]["param"] == param


async def test_a_failure_is_raised_and_remembered(start_replica: StartReplica, worker: FakeWorker) -> None:
    replica = await start_replica()
    failure: Any = {"code": "context_too_long", "message": "The prompt has 9 tokens.", "retryable": False}
    async with sdk(replica) as client:
        stream = await client.responses.create(**HELLO, stream=True)
        whole = asyncio.create_task(client.responses.create(**HELLO))
        tasks = await waiting(replica, 2)
        for task_id in tasks:
            await worker.claim(task_id)
            await worker.ledger.end(task_id, 1, "FAILURE", ErrorEvent(task_id=task_id, **failure))
        with pytest.raises(openai.APIError, match="The prompt has 9 tokens"):
            _ = [event async for event in stream]
        with pytest.raises(openai.BadRequestError, match="The prompt has 9 tokens"):
            await whole
        for task_id in tasks:
            response = await client.responses.retrieve(f"resp_{task_id.replace('-', '')}")
            assert response.status == "failed"
            assert response.error is not None
            assert response.error.code == "invalid_prompt"


async def test_a_replica_that_stops_says_so_without_a_number(start_replica: StartReplica, worker: FakeWorker) -> None:
    first, second = await start_replica(), await start_replica()
    async with sdk(first) as client, sdk(second) as other:
        stream = await client.responses.create(**HELLO, background=True, stream=True)
        [task_id] = await waiting(first)
        await worker.claim(task_id)
        await worker.say(task_id, "Good ")
        events = aiter(stream)
        seen = [await anext(events) for _ in range(6)]
        await first.stop()
        with pytest.raises(openai.APIError, match="stops"):
            await anext(events)
        going_on = await other.responses.retrieve(
            f"resp_{task_id.replace('-', '')}", stream=True, starting_after=seen[-1].sequence_number
        )
        await worker.say(task_id, "day")
        await worker.complete(task_id, "Good day")
        rest = [event async for event in going_on]
    assert [event.sequence_number for event in [*seen, *rest]] == list(range(11))


async def test_a_slow_reader_misses_no_number(start_replica: StartReplica, worker: FakeWorker) -> None:
    replica = await start_replica()
    word = "x" * 1000
    async with sdk(replica) as client:
        response = await client.responses.create(**HELLO, background=True)
        [task_id] = await waiting(replica)
        await worker.claim(task_id)
        async with client.responses.with_streaming_response.retrieve(response.id, stream=True) as slow:
            await worker.say(task_id, *[word] * 300)
            await worker.complete(task_id, word * 300)
            lines = [line async for line in slow.iter_lines() if line.startswith("data: {")]
    assert [json.loads(line[6:])["sequence_number"] for line in lines] == list(range(309))


async def test_a_reference_stands_for_the_item_of_an_earlier_response(
    start_replica: StartReplica, worker: FakeWorker
) -> None:
    replica = await start_replica()
    async with sdk(replica) as client:
        asked = asyncio.create_task(client.responses.create(**HELLO))
        await answered(replica, worker, "done")
        [item] = (await asked).output
        said: Any = [
            {"role": "user", "content": "a"},
            {"type": "item_reference", "id": item.id},
            {"role": "user", "content": "b"},
        ]
        again = asyncio.create_task(client.responses.create(model=DEFAULT_MODEL, input=said))
        [task_id] = await waiting(replica)
        assert [message["content"] for message in await shown(worker, task_id)] == ["a", "done", "b"]
        await answered(replica, worker, "done")
        await again
        with pytest.raises(openai.BadRequestError, match=r"input\[0\]: refers to 'msg_1'"):
            await client.responses.create(model=DEFAULT_MODEL, input=[{"type": "item_reference", "id": "msg_1"}])


async def test_a_client_that_is_gone_cancels_what_does_not_run_in_the_background(
    start_replica: StartReplica, worker: FakeWorker
) -> None:
    replica = await start_replica(resume_window_seconds=0.5, lease_seconds=0.5)
    async with sdk(replica) as client:
        for background, state in ((True, "queued"), (False, "cancelled")):
            stream = await client.responses.create(**HELLO, stream=True, background=background)
            created = await anext(aiter(stream))
            assert created.type == "response.created"
            await stream.close()
            response_id = created.response.id

            async def is_so(response_id: str = response_id, state: str = state) -> bool:
                return (await client.responses.retrieve(response_id)).status == state

            await until(is_so, 10, f"the response is {state}")
