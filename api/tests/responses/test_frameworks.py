"""What others build on this API, by their default door: OpenAI's agents, and a suite that judges its servers."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import agents
import openai
import pytest

from shared.cancellation import cancel_and_wait
from shared.wire.schemas import ToolCall
from testbed.api_replica import Replica, StartReplica
from testbed.fake_worker import DEFAULT_MODEL, FakeWorker


@asynccontextmanager
async def at_work(replica: Replica, worker: FakeWorker) -> AsyncIterator[list[dict[str, Any]]]:
    """A model that calls the first tool once for each word of the user's message, then answers; the requests it had."""
    requests: list[dict[str, Any]] = []

    async def run() -> None:
        while True:
            for task_id in await replica.backend.lists.waiting(DEFAULT_MODEL):
                await worker.claim(task_id)
                record = await worker.ledger.get(task_id)
                assert record is not None
                requests.append(json.loads(record.request))
                await _answer(worker, task_id, requests[-1])
            await asyncio.sleep(0.01)

    working = asyncio.create_task(run())
    yield requests
    await cancel_and_wait(working)
    if not working.cancelled():
        working.result()


async def _answer(worker: FakeWorker, task_id: str, request: dict[str, Any]) -> None:
    last_user = max(at for at, message in enumerate(request["messages"]) if message["role"] == "user")
    words = request["messages"][last_user]["content"].split()
    results = [message["content"] for message in request["messages"][last_user:] if message["role"] == "tool"]
    if request.get("tools") and len(results) < len(words):
        name = request["tools"][0]["function"]["name"]
        call = ToolCall(id=f"call_{task_id[-8:]}", name=name, arguments={"word": words[len(results)]})
        await worker.complete(task_id, "", call)
        return
    text = " ".join(results) or "Nothing to do."
    await worker.say(task_id, text)
    await worker.complete(task_id, text)


@agents.function_tool
def reverse(word: str) -> str:
    """The word backwards."""
    return word[::-1]


@pytest.mark.parametrize("by_events", [False, True])
async def test_an_agent_calls_tools_over_several_rounds(
    start_replica: StartReplica, worker: FakeWorker, by_events: bool
) -> None:
    replica = await start_replica()
    agents.set_tracing_disabled(True)
    async with (
        openai.AsyncOpenAI(base_url=f"{replica.url}/v1", api_key="none", max_retries=0, timeout=10) as client,
        at_work(replica, worker) as requests,
    ):
        model = agents.OpenAIResponsesModel(model=DEFAULT_MODEL, openai_client=client)
        agent = agents.Agent(name="A", instructions="Reverse each word.", tools=[reverse], model=model)
        if by_events:
            streamed = agents.Runner.run_streamed(agent, "one two three")
            _ = [event async for event in streamed.stream_events()]
            answer = streamed.final_output
        else:
            answer = (await agents.Runner.run(agent, "one two three")).final_output
    assert answer == "eno owt eerht"
    assert [len(request["messages"]) for request in requests] == [2, 4, 6, 8]
    assert {request["messages"][0]["content"] for request in requests} == {"Reverse each word."}


@pytest.mark.parametrize("kept", ["previous response", "conversation"])
async def test_an_agent_leaves_its_history_to_the_server(
    start_replica: StartReplica, worker: FakeWorker, kept: str
) -> None:
    replica = await start_replica()
    agents.set_tracing_disabled(True)
    async with (
        openai.AsyncOpenAI(base_url=f"{replica.url}/v1", api_key="none", max_retries=0, timeout=10) as client,
        at_work(replica, worker) as requests,
    ):
        model = agents.OpenAIResponsesModel(model=DEFAULT_MODEL, openai_client=client)
        agent = agents.Agent(name="A", tools=[reverse], model=model)
        if kept == "conversation":
            made = await client.conversations.create()
            first = await agents.Runner.run(agent, "one two", conversation_id=made.id)
            second = await agents.Runner.run(agent, "three", conversation_id=made.id)
        else:
            first = await agents.Runner.run(agent, "one two", auto_previous_response_id=True)
            second = await agents.Runner.run(agent, "three", previous_response_id=first.last_response_id)
    assert (first.final_output, second.final_output) == ("eno owt", "eerht")
    assert [len(request["messages"]) for request in requests] == [1, 3, 5, 7, 9]


async def test_a_session_of_an_agent_is_a_conversation(start_replica: StartReplica, worker: FakeWorker) -> None:
    replica = await start_replica()
    agents.set_tracing_disabled(True)
    async with (
        openai.AsyncOpenAI(base_url=f"{replica.url}/v1", api_key="none", max_retries=0, timeout=10) as client,
        at_work(replica, worker) as requests,
    ):
        model = agents.OpenAIResponsesModel(model=DEFAULT_MODEL, openai_client=client)
        agent = agents.Agent(name="A", tools=[reverse], model=model)
        session = agents.OpenAIConversationsSession(openai_client=client)
        assert (await agents.Runner.run(agent, "one", session=session)).final_output == "eno"
        assert (await agents.Runner.run(agent, "two", session=session)).final_output == "owt"
        assert len(await session.get_items()) == 8
        assert await session.pop_item() is not None
        assert len(await session.get_items()) == 7
        await session.clear_session()
    assert [len(request["messages"]) for request in requests] == [1, 3, 5, 7]


EXPECTED = {
    "image-input": "failed",  # a model of text reads no images
    "error-handling": "failed",  # a request that names no model is for the default one
    "compact-response": "failed",  # there is no such route: 405, where the suite knows 404
    "compact-missing-model": "failed",
    "reasoning-summary": "skipped",  # the suite asks two of OpenAI's models alone for it
}


async def test_the_suite_for_open_responses_finds_nothing_else(start_replica: StartReplica, worker: FakeWorker) -> None:
    replica = await start_replica()
    program = "import sys; from llm_comply.cli import main; sys.exit(main())"
    options = ["-u", f"{replica.url}/v1", "-k", "none", "-m", DEFAULT_MODEL, "--format", "open-responses", "--json"]
    async with at_work(replica, worker):
        suite = await asyncio.create_subprocess_exec(
            sys.executable, "-c", program, *options, stdout=asyncio.subprocess.PIPE
        )
        output, _ = await asyncio.wait_for(suite.communicate(), 60)
    results = json.loads(output)["results"]
    assert {one["id"]: one["status"] for one in results if one["status"] != "passed"} == EXPECTED
    assert len(results) == 13
