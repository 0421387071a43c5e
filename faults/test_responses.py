"""Responses of OpenAI's clients across everything that breaks: who comes back with a number gets exactly the rest."""

import asyncio
import os
import signal
from contextlib import AsyncExitStack
from typing import Any

import httpx
import openai
import pytest
from openai.types.responses import ResponseStreamEvent

from testbed.stack import LEASE, MODEL, Stack
from testbed.valkey import Valkey
from testbed.waiting import until

TEXT = "Every replica tells the same events under the same numbers."
LOST: tuple[type[Exception], ...] = (openai.APIError, httpx.TransportError)


class Reader:
    """A client that reads one response, and comes back with its number wherever it can, whenever it is cut off."""

    def __init__(self, headrace: Stack) -> None:
        self._headrace = headrace
        self.events: list[ResponseStreamEvent] = []
        self.connections = 0
        self.response_id = ""

    async def read(self, text: str = TEXT) -> None:
        """Makes the response, and reads it to its end."""
        async with AsyncExitStack() as stack:
            clients = [
                await stack.enter_async_context(
                    openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=20)
                )
                for url in self._headrace.urls
            ]
            made = await clients[0].responses.create(
                model=MODEL, input=f"!say {text}", background=True, max_output_tokens=8000
            )
            self.response_id = made.id
            while not self._ended:
                client = clients[self.connections % len(clients)]
                self.connections += 1
                try:
                    await self._go_on(client)
                except LOST:
                    await asyncio.sleep(0.1)

    async def _go_on(self, client: openai.AsyncOpenAI) -> None:
        after: Any = {"starting_after": self.events[-1].sequence_number} if self.events else {}
        stream = await client.responses.retrieve(self.response_id, stream=True, **after)
        async for event in stream:
            self.events.append(event)

    @property
    def _ended(self) -> bool:
        return bool(self.events) and self.events[-1].type == "response.completed"

    async def until(self, count: int) -> None:
        await until(lambda: len(self.events) >= count, 20, f"{count} events")

    async def check(self, text: str = TEXT) -> None:
        """Its events are the response's, as the newest replica tells them from the start."""
        mine = [event for event in self.events if event.type != "response.queued"]
        async with openai.AsyncOpenAI(base_url=f"{self._headrace.urls[-1]}/v1", api_key="none") as client:
            stream = await client.responses.retrieve(self.response_id, stream=True)
            whole = [event async for event in stream]
            final = await client.responses.retrieve(self.response_id)
        assert [event.sequence_number for event in whole] == list(range(len(whole)))
        assert mine == [event for event in whole if event.type != "response.queued"]
        assert final.output_text == text
        numbers = [event.sequence_number for event in self.events]
        assert sorted(set(numbers)) == list(range(len(whole)))
        assert numbers == sorted(numbers)


@pytest.mark.parametrize(
    "count", [1, pytest.param(3, marks=pytest.mark.slow), pytest.param(5, marks=pytest.mark.slow), 20]
)
async def test_a_response_goes_on_at_another_replica_behind_any_event(headrace: Stack, count: int) -> None:
    await headrace.start_api()
    await headrace.start_worker("scripted:?token_ms=20")
    reader = Reader(headrace)
    reading = asyncio.create_task(reader.read())
    await reader.until(count)
    headrace.apis[0].kill()
    await reading
    assert reader.connections > 1
    await reader.check()


async def test_a_response_goes_on_when_its_worker_is_killed(headrace: Stack) -> None:
    await headrace.start_worker("scripted:?token_ms=20")
    reader = Reader(headrace)
    reading = asyncio.create_task(reader.read())
    await reader.until(20)
    headrace.workers[0].kill()
    await headrace.start_worker("scripted:?token_ms=20")
    await asyncio.wait_for(reading, LEASE + 20)
    await reader.check()
    kinds = [event.type for event in reader.events]
    assert kinds.count("response.in_progress") == 2
    assert kinds.count("response.output_item.added") == 1


async def test_a_response_goes_on_when_redis_is_killed_and_comes_back_with_its_file(
    headrace: Stack, valkey: Valkey
) -> None:
    await headrace.start_worker("scripted:?token_ms=20")
    text = TEXT * 5
    reader = Reader(headrace)
    reading = asyncio.create_task(reader.read(text))
    await reader.until(20)
    seen = len(reader.events)
    os.kill(valkey.pid, signal.SIGKILL)
    valkey.stop()
    valkey.start()
    await asyncio.wait_for(reading, 60)
    assert len(reader.events) > seen
    await reader.check(text)


@pytest.mark.slow
async def test_many_messages_at_once_to_one_conversation_are_all_answered_though_workers_die(headrace: Stack) -> None:
    await headrace.start_api()
    await headrace.start_worker("scripted:?token_ms=2")
    await headrace.start_worker("scripted:?token_ms=2")
    async with AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0))
            for url in headrace.urls
        ]
        made = await clients[0].conversations.create()
        refused: list[str] = []
        answered: list[str] = []

        async def send(number: int) -> None:
            while True:
                try:
                    answer = await clients[number % 2].responses.create(
                        model=MODEL, input=f"!say Answer {number}.", conversation=made.id
                    )
                except openai.ConflictError as busy:
                    refused.append(busy.response.headers["retry-after"])
                    await asyncio.sleep(0.1)
                    continue
                answered.append(answer.output_text)
                return

        async with asyncio.TaskGroup() as group:
            for number in range(20):
                group.create_task(send(number))
            await until(lambda: len(answered) >= 5, 60, "five answers")
            headrace.workers[0].kill()
        items = [item async for item in clients[1].conversations.items.list(made.id, order="asc")]
    said = [item.content[0].text for item in items if item.type == "message"]  # type: ignore[union-attr]
    assert sorted(said[1::2]) == sorted(answered) == sorted(f"Answer {number}." for number in range(20))
    assert said[::2] == [f"!say {text}" for text in said[1::2]]
    assert refused
