"""`Client` and `AsyncClient`: two thin shells around the protocol in `rpc`, `following` and `tools`."""

import asyncio
import inspect
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Self, TypeVar, Unpack

import httpx
from httpx_sse import EventSource

from headrace.calls import (
    Message,
    Options,
    cancellation,
    conversation_deletion,
    conversation_reading,
    creation,
    inspection,
    model_listing,
)
from headrace.errors import HeadraceError
from headrace.events import Cancellation, Conversation, Event, FinalText, Model, Outcome, TaskView, ToolCalls
from headrace.following import Following, ending
from headrace.rpc import Call, authorization
from headrace.tools import Function, ToolRounds

T = TypeVar("T")

DEFAULT_URL = "http://127.0.0.1:8000"
LIMITS = httpx.Limits(max_connections=None)
"""Every stream holds a connection; a pool that is too small would let them wait for each other."""


class Client:
    """A connection to one Headrace server."""

    def __init__(self, url: str = DEFAULT_URL, *, api_key: str | None = None, timeout: float = 30.0) -> None:
        """`timeout`: seconds that a call may take; streams have a bound of their own."""
        self.url = url
        """The server, as it was given."""
        self._http = httpx.Client(base_url=url, headers=authorization(api_key), timeout=timeout, limits=LIMITS)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes all connections. Tasks go on."""
        self._http.close()

    def create(self, messages: str | Sequence[Message], **options: Unpack[Options]) -> str:
        """Creates a task and returns its id."""
        return self._call(creation(messages, options))

    def get(self, task_id: str) -> TaskView:
        """The task's state, position, text so far, result or error."""
        return self._call(inspection(task_id))

    def cancel(self, task_id: str) -> Cancellation:
        """Cancels a task that has not ended."""
        return self._call(cancellation(task_id))

    def conversation(self, conversation_id: str) -> Conversation:
        """A stored conversation, as `conversation_id` of `create()` names it."""
        return self._call(conversation_reading(conversation_id))

    def delete_conversation(self, conversation_id: str) -> bool:
        """Forgets a stored conversation; False when there is none (any more)."""
        return self._call(conversation_deletion(conversation_id))

    def models(self) -> list[Model]:
        """The models of the server, with how busy each is."""
        return self._call(model_listing())

    def stream(self, task_id: str, *, last_event_id: str | None = None, within: float | None = None) -> Iterator[Event]:
        """The task's events from its start, or behind `last_event_id`, to its end, across dropped connections.

        `within`: seconds until DeadlineExceeded; None follows as long as the task takes.
        """
        following = Following(task_id, last_event_id, within)
        while not following.ended:
            dropped: httpx.TransportError | HeadraceError | None = None
            try:
                with self._http.stream(
                    "GET", following.path, headers=following.headers, timeout=following.timeout()
                ) as response:
                    if response.is_error:
                        response.read()
                    if following.opens(response):
                        for message in EventSource(response).iter_sse():
                            if (event := following.receive(message)) is not None:
                                yield event
                            if following.ended:
                                break
            except (httpx.TransportError, HeadraceError) as error:
                dropped = error
            if not following.ended:
                time.sleep(following.closed(dropped))

    def wait(self, task_id: str, *, within: float | None = None) -> FinalText | ToolCalls:
        """What the task ends with; raises TaskFailed, TaskCancelled, or DeadlineExceeded after `within` seconds."""
        outcome = None
        for event in self.stream(task_id, within=within):
            outcome = event if isinstance(event, Outcome) else outcome
        return ending(outcome, task_id)

    def run_tools(
        self,
        messages: str | Sequence[Message],
        functions: Sequence[Function],
        *,
        max_rounds: int = 8,
        **options: Unpack[Options],
    ) -> FinalText:
        """Lets the model call Python functions until it answers; raises TooManyRounds when it does not stop."""
        rounds = ToolRounds(messages, functions, max_rounds)
        while True:
            outcome = self.wait(self.create(rounds.messages, **rounds.options(options)))
            if isinstance(outcome, FinalText):
                return outcome
            for pending in rounds.receive(outcome):
                rounds.answer(pending, pending.run())

    def _call(self, call: Call[T]) -> T:
        while True:
            try:
                return call.result(self._http.post("rpc", json=call.body))
            except (httpx.TransportError, HeadraceError) as error:
                time.sleep(call.delay_after(error))


class AsyncClient:
    """`Client` for asyncio; see there for what each method does."""

    def __init__(self, url: str = DEFAULT_URL, *, api_key: str | None = None, timeout: float = 30.0) -> None:
        self._http = httpx.AsyncClient(base_url=url, headers=authorization(api_key), timeout=timeout, limits=LIMITS)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        await self._http.aclose()

    async def create(self, messages: str | Sequence[Message], **options: Unpack[Options]) -> str:
        return await self._call(creation(messages, options))

    async def get(self, task_id: str) -> TaskView:
        return await self._call(inspection(task_id))

    async def cancel(self, task_id: str) -> Cancellation:
        return await self._call(cancellation(task_id))

    async def conversation(self, conversation_id: str) -> Conversation:
        return await self._call(conversation_reading(conversation_id))

    async def delete_conversation(self, conversation_id: str) -> bool:
        return await self._call(conversation_deletion(conversation_id))

    async def models(self) -> list[Model]:
        return await self._call(model_listing())

    async def stream(
        self, task_id: str, *, last_event_id: str | None = None, within: float | None = None
    ) -> AsyncIterator[Event]:
        following = Following(task_id, last_event_id, within)
        while not following.ended:
            dropped: httpx.TransportError | HeadraceError | None = None
            try:
                async with self._http.stream(
                    "GET", following.path, headers=following.headers, timeout=following.timeout()
                ) as response:
                    if response.is_error:
                        await response.aread()
                    if following.opens(response):
                        async for message in EventSource(response).aiter_sse():
                            if (event := following.receive(message)) is not None:
                                yield event
                            if following.ended:
                                break
            except (httpx.TransportError, HeadraceError) as error:
                dropped = error
            if not following.ended:
                await asyncio.sleep(following.closed(dropped))

    async def wait(self, task_id: str, *, within: float | None = None) -> FinalText | ToolCalls:
        outcome = None
        async for event in self.stream(task_id, within=within):
            outcome = event if isinstance(event, Outcome) else outcome
        return ending(outcome, task_id)

    async def run_tools(
        self,
        messages: str | Sequence[Message],
        functions: Sequence[Function],
        *,
        max_rounds: int = 8,
        **options: Unpack[Options],
    ) -> FinalText:
        rounds = ToolRounds(messages, functions, max_rounds)
        while True:
            outcome = await self.wait(await self.create(rounds.messages, **rounds.options(options)))
            if isinstance(outcome, FinalText):
                return outcome
            for pending in rounds.receive(outcome):
                result = pending.run()
                rounds.answer(pending, await result if inspect.isawaitable(result) else result)

    async def _call(self, call: Call[T]) -> T:
        while True:
            try:
                return call.result(await self._http.post("rpc", json=call.body))
            except (httpx.TransportError, HeadraceError) as error:
                await asyncio.sleep(call.delay_after(error))
